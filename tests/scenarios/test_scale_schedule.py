"""Scenarios that say how many replicas there are to be, and when: nobody is lost, GPUs cost while they are held."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rakka_sim
from rakka_sim.config.loading import load_scenario
from rakka_sim.errors import InvariantBroken, ScenarioError
from rakka_sim.experiment import assert_deterministic
from rakka_sim.records import EventLog, ReplicaFacts, audit
from rakka_sim.report.report import Report
from rakka_sim.values import NodeAssignment, StepOutcome, StepPlan, StepRow

SCENARIO = Path(__file__).resolve().parents[2] / "scenarios" / "scale_out.toml"
# The same story in a third of the time.
SHORT = {
    "scale.0.at_s": 20.0,
    "scale.1.at_s": 70.0,
    "workload.0.duration_s": 110.0,
    "workload.1.duration_s": 55.0,
}


@pytest.fixture(scope="module")
def report() -> Report:
    made = rakka_sim.run(SCENARIO, overrides=SHORT, progress=False)
    assert isinstance(made, Report)
    return made


def queued_s(report: Report, after: float, before: float) -> np.ndarray[Any, Any]:
    """How long the requests of a stretch of time waited for a place in a step."""
    of = report.requests
    there = of[(of.arrival_s >= after) & (of.arrival_s < before)]
    waited: np.ndarray[Any, Any] = (there.scheduled_s - there.arrival_s).to_numpy()
    return waited


def test_no_request_is_lost_and_queues_are_gone_after_scaling(report: Report) -> None:
    assert set(report.requests.outcome) == {"stop"}
    begin = report.log.step_window()[0]  # replicas start up before the first arrival
    up, again = (step["answered_s"] for step in report.facts["scale"])
    assert 30.0 <= up < 31.0, "ten seconds to start"
    before, after = queued_s(report, begin + 10.0, begin + 20.0), queued_s(report, begin + up + 5.0, begin + 54.0)
    assert np.median(before) > 5.0
    assert after.max() < 0.5
    late = queued_s(report, begin + again, np.inf)
    assert late.max() < 0.5, "one replica carries what is left"
    assert len(late) > 50


def test_who_was_surplus_finished_what_it_had(report: Report) -> None:
    of, (_, fewer) = report.requests, report.facts["scale"]
    begin = report.log.step_window()[0]
    assert (fewer["ready"], fewer["wanted"], fewer["error"]) == (1, 1, None)
    assert fewer["answered_s"] > fewer["at_s"], "somebody was still being served"
    on_others = of[of.replica > 0]
    assert len(on_others) > 500
    assert on_others.arrival_s.max() < begin + fewer["at_s"] + 0.1
    assert on_others.last_token_s.max() == pytest.approx(begin + fewer["answered_s"], abs=0.2)


def test_gpus_are_whole_at_every_instant_and_cost_while_they_are_held(report: Report) -> None:
    """A sweep over all spans: never more than four GPUs, none with two replicas; and the sum of it is the bill."""
    log = report.log
    spans = [(*span, gpu) for of in log.replicas for span in log.holdings.of(of) for gpu in of.gpus]
    assert len(spans) == 4
    for start, end, gpu in spans:
        assert sum(1 for other in spans if other[2] == gpu and other[0] < end and start < other[1]) == 1
    begin, last = float(report.requests.arrival_s.min()), max(report.requests.last_token_s.max(), log.step_window()[1])
    hours = sum(min(end, last) - max(start, begin) for start, end, _ in spans) / 3600
    cost = report.summary()["cost"]
    assert cost["gpu_hours"] == pytest.approx(hours, rel=1e-9)
    assert cost["usd"] == pytest.approx(3.0 * hours, rel=1e-9)
    assert hours < 0.7 * 4 * (last - begin) / 3600
    for place, of in enumerate(log.replicas):
        (span,) = log.holdings.of(of)
        mine = report.steps[report.steps.replica == of.replica]
        assert len(mine), place
        assert mine.start_s.min() >= span[0]
        assert (mine.start_s + mine.seconds).max() <= span[1]


def test_a_schedule_is_told_in_the_report(report: Report) -> None:
    text = str(report)
    assert "scale        chat: 4 replicas wanted at 20 s; 4 of 4 ready at 30" in text
    assert "chat: 1 replicas wanted at 70 s; 1 of 1 ready at 7" in text
    assert report.to_dict()["facts"]["scale"] == report.facts["scale"]


@pytest.mark.parametrize("runs_of_steps", [True, False])
def test_a_drain_that_is_called_off_costs_no_start(runs_of_steps: bool) -> None:
    """Long requests on both replicas; one is surplus for half a second, and then it takes new ones beside its old."""
    scenario = {
        "cluster": {"nodes": [{"name": "box", "gpu": "H100", "gpus": 2}]},
        "deployment": [
            {
                "name": "chat",
                "model": "meta-llama/Llama-3.1-8B",
                "replicas": 2,
                "runtime_config": {"startup_s": 10.0, "runs_of_steps": runs_of_steps},
            }
        ],
        "scale": [{"at_s": 2.0, "replicas": 1}, {"at_s": 2.5, "replicas": 2}],
        "workload": {
            "requests": 100,
            "arrivals": {"kind": "poisson", "rate": 20.0},
            "lengths": {"kind": "fixed", "prompt": 200, "output": 400},
        },
    }
    report = rakka_sim.run(scenario, progress=False)
    of, begin = report.requests, report.requests.arrival_s.min()
    assert set(of.outcome) == {"stop"}
    assert [(step["ready"], step["wanted"]) for step in report.facts["scale"]] == [(2, 2), (2, 2)]
    assert [replica["starts"] for replica in report.summary()["replicas"]] == [1, 1]
    mine = of[of.replica == 1].arrival_s - begin
    begun = report.facts["scale"][1]["answered_s"] - 2.5
    assert begun == 0.0, "there was nothing to wait for"
    assert not ((mine > 2.1) & (mine < 2.4)).any()
    assert (mine > 2.5).sum() > 10


def test_the_same_schedule_gives_the_same_messages() -> None:
    few = {**SHORT, "scale.0.at_s": 1.0, "scale.1.at_s": 13.0, "workload.0.requests": 60, "workload.1.requests": 150}
    assert_deterministic(SCENARIO, overrides=few)
    assert_deterministic(SCENARIO, overrides=few, shuffle_ties=7)


def small(scale: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {
        "cluster": {"nodes": [{"name": "box", "gpu": "L40S", "gpus": 2}]},
        "deployment": [{"name": "m", "model": "Qwen3-0.6B"}],
        "workload": {
            "requests": 40,
            "arrivals": {"kind": "constant", "rate": 40.0},
            "lengths": {"kind": "fixed", "prompt": 20, "output": 10},
        },
        "scale": scale,
        **more,
    }


@pytest.mark.parametrize("mode", ["simulate", "emulate"])
def test_on_both_clocks_more_and_fewer(mode: str) -> None:
    """The same actors on the wall's clock: nobody is lost, and each wish is answered by what then holds."""
    report = rakka_sim.run(small([{"at_s": 0.2, "replicas": 2}, {"at_s": 0.6, "replicas": 1}]), mode=mode)
    assert set(report.requests.outcome) == {"stop"}
    assert [(step["ready"], step["wanted"]) for step in report.facts["scale"]] == [(2, 2), (1, 1)]
    assert {int(replica) for replica in report.requests.replica} == {0, 1}
    (_, (second,)) = (report.log.holdings.of(of) for of in report.log.replicas)
    assert second[1] < np.inf


def test_what_finds_no_place_is_refused_and_the_run_goes_on() -> None:
    report = rakka_sim.run(small([{"at_s": 0.2, "replicas": 3}, {"at_s": 0.4, "replicas": 2}]))
    refused, done = report.facts["scale"]
    assert (refused["ready"], done["ready"]) == (None, 2)
    assert "3 replicas" in refused["error"]
    assert "refused (deployment 'm' requires 1 GPUs for each of 3 replicas" in str(report)
    assert report.summary()["completed"] == 40


def test_what_comes_after_the_end_is_said_to_be_open() -> None:
    report = rakka_sim.run(small([{"at_s": 1000.0, "replicas": 2}]))
    assert report.facts["scale"][0]["answered_s"] is None
    assert "not reached before the end" in str(report)


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ({"at_s": 1.0, "replicas": 0}, r"scale\.0\.replicas: 0 .*greater than 0"),
        ({"at_s": -1.0, "replicas": 1}, r"scale\.0\.at_s: -1\.0 .*greater than or equal to 0"),
        ({"at_s": 1.0, "replicas": 1e6}, r"scale\.0\.replicas: 1000000\.0 .*100000"),
        ({"at_s": 1.0}, r"scale\.0\.replicas: '\(nothing\)' .*required"),
        ({"at_s": 1.0, "replicas": 1, "deployment": "x"}, r"scale\.deployment 'x' is none of: m"),
        ({"at": 1.0, "replicas": 1}, r"scale\.0\.at: 1\.0 .*keys: deployment, at_s, replicas"),
    ],
)
def test_a_schedule_that_cannot_be_is_an_error_that_says_where(step: dict[str, Any], said: str) -> None:
    with pytest.raises(ScenarioError) as refused:
        load_scenario(small([step]))
    assert any(re.search(said, str(each)) for each in refused.value.problems)


def test_a_step_on_gpus_that_were_given_back_is_found() -> None:
    def log(until: float) -> EventLog:
        made = EventLog()
        number = made.replica(ReplicaFacts("m", 0, "box", (0,)))
        made.holdings.took(0.0, "m", NodeAssignment(0, "box", (0,)))
        plan = StepPlan((StepRow(1, 1, 1, True),), 1, 0, 1, 1, 1, 0, 0, 1)
        made.steps(number, StepOutcome(plan, 1.0, np.array([2.0])))
        made.holdings.gave_back(until, "m", NodeAssignment(0, "box", (0,)))
        return made

    audit.holdings(log(2.0))
    with pytest.raises(InvariantBroken, match=r"m/0 stepped at 1\.0 s on GPUs of box that it did not have"):
        audit.holdings(log(1.5))
