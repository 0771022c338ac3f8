"""An engine whose worker goes on unasked: whatever comes between, every token is the one it would be alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import Phase, event, given, settings
from hypothesis import strategies as st
from scenarios.late import LateRunner
from scenarios.stacks import Script, bring_up, serve, sources_of
from scenarios.test_lockstep import VOCAB, Notes, alone, cancels, decoder, errors, real_scenarios

from rakka_sim.config.loading import load_scenario
from rakka_sim.engines.torch.runner import ModelRunner
from rakka_sim.errors import ContextPoisoned
from rakka_sim.records import EventLog
from rakka_sim.report.report import Report
from rakka_sim.runtime.sim import SimRuntime
from rakka_sim.values import ExecuteBatch, Sampling
from rakka_sim.wiring import build, modelled

DRAWN = Sampling(temperature=1.0)


class Stopping:
    """A source whose requests, one in `every`, stop at any of some ids."""

    def __init__(self, source: Any, every: int, ids: tuple[int, ...]) -> None:
        self._source, self._every, self._ids = source, every, ids

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def pop(self) -> ExecuteBatch:
        batch = self._source.pop()
        if batch.request_id % self._every:
            return batch
        return replace(batch, sampling=replace(batch.sampling, stop_ids=self._ids))


def play(
    scenario: dict[str, Any],
    *,
    source: Any = None,
    when: list[tuple[float, int]] = (),  # type: ignore[assignment]
    lag_s: float = 0.0,
    faults: dict[int, Exception] | None = None,
    streamed: str = "all",
    stops: tuple[int, ...] = (),
) -> tuple[Report, Notes, list[str]]:
    """One run; with every plan that was computed, whether asked for or gone on with."""
    loaded, folder = load_scenario(scenario)
    system, log, passes, notes = SimRuntime(loaded.seed), EventLog(), list[str](), Notes(VOCAB)

    def make(deployment: Any, node: Any, plan: Any) -> Callable[[], Any]:
        times, size = modelled(deployment, node, plan), deployment.engine.block_size
        return lambda: LateRunner(
            times(), ModelRunner(decoder(), plan.kv_blocks, size), lag_s, faults or {}, passes, lambda: system.now
        )

    try:
        stack = build(system, loaded, log, make, real_tokens=True, real_launch=True)
        bring_up(system, stack, loaded)
        if source is None:
            source = Stopping(sources_of(loaded, folder), 2, stops)
        else:
            streamed = "none"  # a script says itself who is
        serve(system, stack, source, loaded.stop_after_s, cancels=when, streamed=streamed, scribe=notes)
    finally:
        system.stop()
    log.check()
    return Report(log, seed=loaded.seed), notes, passes


def right(report: Report, notes: Notes) -> None:
    """What was heard is what the request draws alone, each token once, and nothing after one that stops it."""
    table = report.requests.set_index("request_id")
    for request_id, batch in notes.asked.items():
        heard, outcome = notes.heard[request_id], table.outcome[request_id]
        assert len(heard) == table.output_tokens[request_id]
        if heard:
            assert heard == alone(batch, heard)
        assert not set(heard[:-1]) & set(batch.sampling.stop_ids)
        if outcome == "stop" and len(heard) < min(batch.output_tokens, batch.sampling.max_tokens or 1 << 30):
            assert heard[-1] in batch.sampling.stop_ids


@pytest.mark.slow
@given(
    real_scenarios(),
    cancels,
    st.sampled_from([0.0, 1e-5, 3e-4, 2e-3]),
    st.dictionaries(st.integers(1, 60), errors, max_size=4),
    st.sampled_from(["none", "some", "all"]),
    st.sampled_from([0.0, 0.001, 0.05]),
    st.sets(st.integers(0, VOCAB - 1), max_size=60),
)
@settings(max_examples=25, phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink])
def test_every_token_is_the_one_it_would_be_alone(
    scenario: dict[str, Any],
    when: list[tuple[float, int]],
    lag_s: float,
    faults: dict[int, Exception],
    streamed: str,
    interval_s: float,
    stops: set[int],
) -> None:
    scenario["deployment"][0]["runtime_config"] |= {"stream_interval_s": interval_s, "runs_of_steps": True}
    report, notes, passes = play(
        scenario, when=when, lag_s=lag_s, faults=faults, streamed=streamed, stops=tuple(sorted(stops))
    )
    right(report, notes)
    event(f"preempted: {report.summary()['preemptions'] > 0}")
    event(f"went on: {passes.count('unasked') > len(passes) // 2}")
    event(f"went on to prompts: {min(passes.count('unasked, prompts'), 5)}")
    for outcome, count in report.summary()["outcomes"].items():
        event(f"outcome {outcome}: {'some' if count else 'none'}")


# --- one thing at a time ----------------------------------------------------------------------------------------


def one_engine(**settings: Any) -> dict[str, Any]:
    engine = {
        "num_gpu_blocks": 64,
        "max_model_len": 512,
        "frontend_overhead_us": 0.0,
        "host_overhead_us": 1000.0,  # so a step takes about a millisecond
        "stream_interval_s": 0.0,
        **settings,
    }
    return {"deployment": [{"name": "m", "model": "Tiny", "runtime_config": engine}]}


def script(*requests: tuple[float, int, int], sampling: Sampling = DRAWN) -> Script:
    """(when, prompt, output) of each request."""
    return Script([(at, ExecuteBatch(n, "m", p, o, ((n, p),), sampling)) for n, (at, p, o) in enumerate(requests, 1)])


def asked(passes: list[str]) -> int:
    """How often the worker has had to wait for a plan."""
    return sum(how.startswith("asked") for how in passes)


def test_a_worker_is_asked_once_and_goes_on_to_the_end() -> None:
    report, notes, passes = play(one_engine(), source=script((0.0, 10, 30)), lag_s=4e-4)
    right(report, notes)
    assert passes == ["asked, prompts"] + ["unasked"] * 29
    # Between two steps nothing is waited for; without, each would wait for the word and the answer.
    steps = report.log.step_columns()
    assert (steps["start"][1:] == steps["end"][:-1]).all()


def test_without_it_every_plan_is_asked_for() -> None:
    _, _, passes = play(one_engine(async_scheduling=False), source=script((0.0, 10, 30)))
    assert passes == ["asked, prompts", "asked"]


def test_runs_are_as_long_as_the_interval() -> None:
    """1.13 ms a step: nine to a run, but the first ones, of which nothing is known yet."""
    report, _, passes = play(one_engine(stream_interval_s=0.0105), source=script((0.0, 10, 101)), lag_s=4e-4)
    assert report.log.total_steps == 101
    assert 100 // 9 <= len(passes) <= 100 // 9 + 4
    assert asked(passes) <= 2


def test_chunks_of_a_prompt_follow_each_other_unasked_beside_one_that_decodes() -> None:
    engine = one_engine(max_num_seqs=8, max_num_batched_tokens=16)
    report, notes, passes = play(engine, source=script((0.0, 10, 30), (0.0102, 150, 5)), lag_s=4e-4)
    right(report, notes)
    assert passes.count("unasked, prompts") >= 150 // 15 - 1
    assert asked(passes) == 2  # for the first one, and for the one who comes
    steps = report.log.step_columns()
    waited = (steps["start"][1:] > steps["end"][:-1]).sum()
    assert waited == 1


def test_whoever_waits_is_seated_unasked_when_its_turn_comes() -> None:
    engine = one_engine(max_num_seqs=2, num_gpu_blocks=16)
    requests = [(0.0, 10 + number, 3 + 5 * number % 7) for number in range(9)]
    report, notes, passes = play(engine, source=script(*requests), lag_s=4e-4)
    right(report, notes)
    assert asked(passes) == 1
    assert passes.count("unasked, prompts") >= 5
    steps = report.log.step_columns()
    assert (steps["start"][1:] == steps["end"][:-1]).all()
    _, apart, _ = play(engine | {"seed": 0}, source=script(*requests))
    assert apart.heard == notes.heard


def test_who_waits_outside_comes_in_when_somebody_ends_though_the_worker_goes_on() -> None:
    engine = one_engine()
    engine["deployment"][0]["serving"] = {"max_concurrent": 2, "on_capacity_exhausted": "queue"}
    report, notes, _ = play(engine, source=script((0.0, 10, 10), (0.0, 10, 60), (0.0, 10, 10)), lag_s=4e-4)
    right(report, notes)
    table = report.requests.set_index("request_id")
    assert table.scheduled_s[3] - table.ended_s[1] < 2.5e-3


def test_nobody_is_scheduled_before_it_has_come_nor_after_its_first_token() -> None:
    """Steps of 1 ms take two to be heard of: what follows one is told after that has ended."""
    seated = 0
    for late in range(12):
        at = 0.0102 + 2e-4 * late
        report, notes, passes = play(one_engine(), source=script((0.0, 10, 30), (at, 12, 5)), lag_s=2e-3)
        right(report, notes)
        one = report.requests.set_index("request_id").loc[2]
        assert at <= one.scheduled_s < one.first_token_s
        seated += "unasked, prompts" in passes
    assert seated > 1


@pytest.mark.parametrize("after_s", [2e-4, 6e-4])
def test_who_comes_while_the_next_run_is_under_way_unheard_of_cuts_that_run(after_s: float) -> None:
    """A step of 1 ms takes 0.4 ms to be heard of; nine to a run."""
    engine = one_engine(stream_interval_s=0.0105)
    steps = play(engine, source=script((0.0, 10, 60)), lag_s=4e-4)[0].log.step_columns()
    for end in steps["end"][12:22]:
        at = float(end) + after_s
        report, notes, passes = play(engine, source=script((0.0, 10, 60), (at, 12, 5)), lag_s=4e-4)
        right(report, notes)
        assert report.requests.set_index("request_id").scheduled_s[2] - at < 2.5e-3
        assert asked(passes) <= 3


def test_who_comes_is_seated_at_the_next_boundary_that_hears_of_it() -> None:
    """A step of 1 ms takes 0.4 ms to be heard of; who comes in that time is one step late, and no more."""
    report, notes, _ = play(one_engine(), source=script((0.0, 10, 30), (0.0102, 12, 5)), lag_s=4e-4)
    right(report, notes)
    late = report.requests.set_index("request_id").loc[2]
    assert late.scheduled_s - 0.0102 < 2.5e-3


def test_a_stop_drops_what_was_to_follow_and_costs_nobody_a_token() -> None:
    _, whole, _ = play(one_engine(), source=script((0.0, 10, 30), (0.0, 11, 30)))
    stop = next(token for token in whole.heard[1][10:] if token not in whole.heard[1][:10] + whole.heard[2])
    sampling = replace(DRAWN, stop_ids=(stop,))
    report, notes, passes = play(one_engine(), source=script((0.0, 10, 30), (0.0, 11, 30), sampling=sampling))
    right(report, notes)
    assert notes.heard[1] == whole.heard[1][: whole.heard[1].index(stop) + 1]
    assert notes.heard[2] == whole.heard[2]
    assert asked(passes) == 2


@pytest.mark.parametrize("lost", [7, 8])
def test_a_worker_lost_with_two_plans_in_flight_costs_no_token_and_repeats_none(lost: int) -> None:
    report, notes, passes = play(
        one_engine(), source=script((0.0, 10, 30), (0.0, 40, 30)), lag_s=4e-4, faults={lost: ContextPoisoned("test")}
    )
    right(report, notes)
    assert [len(heard) for heard in notes.heard.values()] == [30, 30]
    assert passes[lost - 1] == "unasked"
    assert asked(passes) == 2
