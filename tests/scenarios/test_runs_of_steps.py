"""Whole scenarios with runs of steps and without: the same records, to the last bit of every time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, event, given, settings
from hypothesis import strategies as st
from scenarios.stacks import Linear, Script, one_engine, play

from rakka_sim.core.routing import POLICIES
from rakka_sim.report.report import Report
from rakka_sim.values import ExecuteBatch

RUNS = "deployment.0.runtime_config.runs_of_steps"
# Drawn, not chosen: a time that no sum of step times meets, so that nothing happens at the very same instant.
ODD = st.floats(0.0, 1.0, allow_nan=False).map(lambda x: x / 1e4)


def spread(mean: float, cv: float) -> dict[str, Any]:
    return {"mean": mean, "cv": cv, "max": 150}


lengths = st.builds(
    lambda prompt, output, prompt_cv, output_cv: {
        "kind": "lognormal",
        "prompt": spread(prompt, prompt_cv),
        "output": spread(output, output_cv),
    },
    st.sampled_from([10.0, 40.0, 100.0]),
    st.sampled_from([3.0, 20.0, 60.0]),
    st.sampled_from([0.0, 0.5, 1.5]),
    st.sampled_from([0.0, 0.5, 1.5]),
)
poisson = st.builds(lambda rate: {"kind": "poisson", "rate": rate}, st.sampled_from([5.0, 50.0, 500.0]))
bursty = st.builds(lambda rate: {"kind": "gamma", "rate": rate, "burstiness": 0.2}, st.sampled_from([20.0, 100.0]))
closed = st.builds(
    lambda users, thought: {
        "kind": "closed",
        "concurrency": users,
        "think_time_s": thought,
        "think_cv": 1.0,
        "ramp_s": 0.0131,
    },
    st.integers(1, 12),
    st.sampled_from([0.0, 0.05]),
)
talks = st.fixed_dictionaries(
    {
        "turns": st.builds(lambda most: {"kind": "uniform", "min": 1, "max": most}, st.integers(1, 4)),
        "think_time_s": st.just(0.03),
        "think_cv": st.just(1.0),
        "max_context_tokens": st.just(300),
    }
)
workloads = st.fixed_dictionaries(
    {"requests": st.integers(1, 30), "arrivals": poisson | bursty | closed, "lengths": lengths},
    optional={
        "prefix": st.fixed_dictionaries({"groups": st.just(2), "tokens": st.sampled_from([7, 16, 33, 48])}),
        "sessions": talks,
        "timeout_s": st.builds(float.__add__, st.sampled_from([0.02, 0.1, 0.3]), ODD),
        "sampling": st.just({"max_tokens": "output"}),
    },
)


@st.composite
def engines(draw: st.DrawFn) -> dict[str, Any]:
    block = draw(st.sampled_from([4, 16]))
    return {
        "block_size": block,
        "num_gpu_blocks": draw(st.sampled_from([192, 192, 320, 960])) // block,
        "max_num_seqs": draw(st.sampled_from([1, 2, 4, 8])),
        "max_num_batched_tokens": draw(st.sampled_from([8, 32, 64, 256])),
        "long_prefill_token_threshold": draw(st.sampled_from([0, 0, 20])),
        "enable_prefix_caching": draw(st.booleans()),
        "async_scheduling": draw(st.booleans()),
        "frontend_overhead_us": draw(st.sampled_from([0.0, 333.3])),
        "startup_s": draw(st.sampled_from([0.0, 0.001])),
        "max_model_len": 512,
    }


serving = st.fixed_dictionaries(
    {
        "max_concurrent": st.sampled_from([2, 6, 32]),
        "on_capacity_exhausted": st.sampled_from(["queue", "reject"]),
        "queue_capacity": st.sampled_from([1, 100]),
    }
)


@st.composite
def scenarios(draw: st.DrawFn) -> dict[str, Any]:
    deployment = {
        "name": "m",
        "model": "Qwen3-0.6B",
        "replicas": draw(st.integers(1, 3)),
        "runtime_config": draw(engines()),
        "serving": draw(serving),
    }
    scenario = {
        "seed": draw(st.integers(0, 2**20)),
        "cluster": {"nodes": [{"name": "n", "gpu": "L40S", "gpus": 3}]},
        "deployment": [deployment],
        "routing": {"policy": draw(st.sampled_from(sorted(POLICIES)))},
        "workload": draw(st.lists(workloads, min_size=1, max_size=2)),
    }
    stop = draw(st.none() | ODD.map(lambda x: 0.2 + x))
    return scenario if stop is None else {**scenario, "stop_after_s": stop}


cancels = st.lists(
    st.tuples(st.integers(0, 5_000), ODD, st.integers(1, 30)).map(lambda c: (c[0] / 1e4 + c[1], c[2])), max_size=8
)


def differences(runs: Report, single: Report) -> list[str]:
    """Where two logs part, column by column, for whoever reads a failure."""
    found = []
    for table in ("request_columns", "step_columns"):
        ours, theirs = getattr(runs.log, table)(), getattr(single.log, table)()
        for name, column in ours.items():
            other = theirs[name]
            if len(column) != len(other):
                found.append(f"{table} {name}: {len(column)} rows with runs, {len(other)} without")
            elif not np.array_equal(column, other, equal_nan=column.dtype.kind == "f"):
                row = int((column != other).argmax())
                found.append(f"{table} {name}[{row}]: {column[row]} with runs, {other[row]} without")
    return found


@given(scenarios(), cancels)
# Explaining a failure would take minutes: every run is two runs of a whole stack.
@settings(max_examples=80, phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink])
def test_runs_change_no_record(scenario: dict[str, Any], when: list[tuple[float, int]]) -> None:
    runs, single = (play(scenario, cancels=when, overrides={RUNS: whether}) for whether in (True, False))
    for outcome, count in runs.summary()["outcomes"].items():
        event(f"outcome {outcome}: {'some' if count else 'none'}")
    event(f"preempted: {runs.summary()['preemptions'] > 0}")
    assert differences(runs, single) == []
    assert runs.digest == single.digest


def test_a_newcomer_without_a_seat_is_seen_to_wait() -> None:
    """One seat, taken for a hundred steps; another request comes in the fifth of them and waits from the sixth on."""

    def run(runs: bool) -> Report:
        arrivals = [(at, ExecuteBatch(n, "m", 1, 100, ((n, 1),))) for n, at in ((1, 0.0), (2, 0.0045))]
        return play(one_engine(max_num_seqs=1, runs_of_steps=runs), times=Linear(0.001), source=Script(arrivals))

    single = run(False)
    assert single.steps.waiting.tolist() == [0] * 5 + [1] * 95 + [0] * 100
    assert run(True).steps.waiting.tolist() == single.steps.waiting.tolist()


@pytest.mark.parametrize("waiting", [False, True], ids=["running", "waiting"])
def test_a_cancel_ends_a_run_at_its_next_boundary(waiting: bool) -> None:
    """The tokens of the steps before it stand; the step it falls into is computed, and its token is not delivered."""
    arrivals = [(0.0, ExecuteBatch(1, "m", 1, 100, ((1, 1),))), (0.0, ExecuteBatch(2, "m", 1, 100, ((2, 1),)))]
    reports = [
        play(
            one_engine(max_num_seqs=1 if waiting else 2, runs_of_steps=runs),
            times=Linear(0.001),
            source=Script(list(arrivals)),
            cancels=[(0.0045, 2)],
        )
        for runs in (True, False)
    ]
    assert differences(*reports) == []
    requests = reports[0].requests.set_index("request_id")
    assert requests.output_tokens.to_dict() == {1: 100, 2: 0 if waiting else 4}
    assert requests.outcome.to_dict() == {1: "stop", 2: "cancelled"}
    assert requests.ended_s[2] == pytest.approx(0.0045 if waiting else 0.005)
