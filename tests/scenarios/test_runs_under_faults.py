"""Runs of steps against single steps while devices fail: what had been computed before a fault stands, in both."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import Phase, event, given, settings
from hypothesis import strategies as st
from scenarios.faults import KINDS, Fault, faulty
from scenarios.stacks import Linear, Script, one_engine, play
from scenarios.test_runs_of_steps import ODD, RUNS, cancels, differences, scenarios

from rakka_sim.values import ExecuteBatch

NODES = ("n0", "n1", "n2")

faults = st.lists(
    st.tuples(
        st.sampled_from(NODES),
        st.tuples(
            st.tuples(st.integers(0, 5_000), ODD).map(lambda at: at[0] / 1e4 + at[1]),
            # Engines that die for good end their deployment, and with it most of what could be seen.
            st.sampled_from([kind for kind in KINDS if kind != "unrecoverable"] * 6 + ["unrecoverable"]),
            st.booleans(),
        ),
    ),
    min_size=1,
    max_size=8,
)


@given(scenarios(), cancels, faults, st.sampled_from(["none", "some", "all"]))
@settings(max_examples=80, phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink])
def test_runs_change_no_record_whatever_fails_when(
    scenario: dict[str, Any], when: list[tuple[float, int]], failing: list[tuple[str, Fault]], streamed: str
) -> None:
    # A replica to a node, so that a fault knows whose it is.
    scenario["cluster"] = {"nodes": [{"name": name, "gpu": "L40S", "gpus": 1} for name in NODES]}
    runs, single = (
        play(scenario, cancels=when, overrides={RUNS: whether}, make_runner=faulty(failing), streamed=streamed)
        for whether in (True, False)
    )
    for outcome, count in runs.summary()["outcomes"].items():
        event(f"outcome {outcome}: {'some' if count else 'none'}")
    assert differences(runs, single) == []
    assert runs.digest == single.digest


@given(scenarios(), cancels, faults)
@settings(max_examples=40, phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink])
def test_who_reads_the_tokens_one_by_one_changes_no_record(
    scenario: dict[str, Any], when: list[tuple[float, int]], failing: list[tuple[str, Fault]]
) -> None:
    scenario["cluster"] = {"nodes": [{"name": name, "gpu": "L40S", "gpus": 1} for name in NODES]}
    at_once, one_by_one = (
        play(scenario, cancels=when, make_runner=faulty(failing), streamed=streamed) for streamed in ("none", "all")
    )
    assert differences(at_once, one_by_one) == []
    assert at_once.digest == one_by_one.digest


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "unrecoverable"])
@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("runs", [True, False])
@pytest.mark.parametrize("stream", [True, False])
def test_what_was_computed_before_a_fault_stands(kind: str, at_once: bool, runs: bool, stream: bool) -> None:
    """Steps of 1 ms, a hundred tokens; a fault in the eleventh step: ten tokens stand, and their times."""
    batch = ExecuteBatch(1, "m", 1, 100, ((1, 1),), stream=stream)
    report = play(
        one_engine(runs_of_steps=runs),
        source=Script([(0.0, batch)]),
        times=Linear(0.001),
        make_runner=faulty([("node-0", (0.0105, kind, at_once))], Linear(0.001)),
    )
    times, _ = report.log.token_times()
    # What is lost with the cache is computed again in one step, which yields the next token.
    goes_on = 0.0105 if at_once else 0.011
    expected = [0.001 * n for n in range(1, 11)] + [goes_on + 0.001 * n for n in range(1, 91)]
    assert times.tolist() == pytest.approx(expected, abs=1e-12)
    assert report.requests.outcome.tolist() == ["stop"]  # if the engine died, by the one that replaced it
