"""Replicas on MIG slices: never overlapping, never several of one replica, where most others stay possible."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rakka_sim.core.placing import POLICIES, Alike, Claim, Demand, Ledger, NodeFacts
from rakka_sim.errors import NoSuitableNodes, NotEnoughGpus, PlacementError
from rakka_sim.hardware.mig import MigState, profiles
from rakka_sim.values import MigSlice, NodeAssignment

BEST = ("optimal", "spread", "topology")


def h200(name: str, gpus: int = 1, **fields: object) -> NodeFacts:
    return NodeFacts(name, Alike(gpus), "H200", 139.8, sliced={g: MigState("H200") for g in range(gpus)}, **fields)  # type: ignore[arg-type]


@given(st.lists(st.sampled_from([p.name for p in profiles("H200")]), max_size=8), st.sampled_from(sorted(POLICIES)))
def test_every_slice_is_where_most_others_stay_possible(asked: list[str], policy: str) -> None:
    if policy == "naive":
        return
    ledger, states = Ledger([h200("n", 2)], policy), [MigState("H200"), MigState("H200")]
    for number, profile in enumerate(asked):
        ways = [(gpu, start) for gpu, state in enumerate(states) for start in state.starts(profile)]
        try:
            (each,) = ledger.place(Demand(f"d{number}", 1, profile=profile)).assignments
        except NotEnoughGpus:
            assert not ways
            continue
        assert each.slice is not None
        (gpu,) = each.gpus
        assert (gpu, each.slice.start) in ways
        if policy in BEST:
            lost = {(g, s): len(states[g].remaining()) - len(states[g].add(profile, s).remaining()) for g, s in ways}
            assert lost[gpu, each.slice.start] == min(lost.values())
        states[gpu] = states[gpu].add(profile, each.slice.start)
    assert [ledger.books["n"].board(gpu).remaining() for gpu in (0, 1)] == [state.remaining() for state in states]
    ledger.check()


def test_small_ones_fill_the_gpus_from_the_end_on() -> None:
    ledger = Ledger([h200("n", 2)])
    result = ledger.place(Demand("d", 14, profile="1g.18gb"))
    assert result.assignments[0].slice == MigSlice("1g.18gb", 6)  # where the driver puts its first one, too
    assert [sum(each.gpus == (gpu,) for each in result.assignments) for gpu in (0, 1)] == [7, 7]
    with pytest.raises(NotEnoughGpus):
        ledger.place(Demand("one more", 1, profile="1g.18gb"))


def test_a_fragmented_gpu_has_no_room_for_a_large_slice() -> None:
    """1g at 0, 1 and 5, as a driver's order of removals left them: four compute and five memory slices are free."""
    facts = h200("n")
    ledger = Ledger([facts])
    book = ledger.books["n"]
    slots = tuple(NodeAssignment(i, "n", (0,), MigSlice("1g.18gb", s)) for i, s in enumerate((0, 1, 5)))
    book.reserve("t", book.epoch, Claim(Demand("other", 3, profile="1g.18gb"), slots))
    book.commit("t")
    for profile in ("3g.71gb", "4g.71gb"):
        with pytest.raises(NotEnoughGpus):
            ledger.place(Demand("large", 1, profile=profile))
    ledger.place(Demand("middle", 1, profile="2g.35gb"))
    ledger.place(Demand("small", 2, profile="1g.18gb"))
    fresh = Ledger([facts])
    fresh.place(Demand("small", 3, profile="1g.18gb"))
    fresh.place(Demand("large", 1, profile="4g.71gb"))  # in the order of most flexibility there is room for it


def test_whole_gpus_and_slices_do_not_mix() -> None:
    ledger = Ledger([h200("cut"), NodeFacts("whole", Alike(1), "H200", 139.8)])
    assert ledger.place(Demand("w", 1)).assignments[0].node == "whole"
    with pytest.raises(NotEnoughGpus):
        ledger.place(Demand("w2", 1))
    assert ledger.place(Demand("s", 1, profile="7g.141gb")).assignments[0].node == "cut"
    with pytest.raises(NoSuitableNodes, match=r"no GPU in MIG mode that has a profile 1g\.5gb"):
        ledger.place(Demand("s2", 1, profile="1g.5gb"))


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 2)), max_size=8))
def test_two_deployments_never_share_an_interpreter(asked: list[tuple[bool, int]]) -> None:
    ledger = Ledger([h200("a", 2)])
    for number, (gil, replicas) in enumerate(asked):
        try:
            ledger.place(Demand(f"d{number}", replicas, profile="1g.18gb", gil=gil))
        except PlacementError:
            continue
    for gpu in (0, 1):
        holders = set(ledger.holders("a", gpu))
        assert sum(ledger.demand(name).gil for name in holders) <= 1


def test_a_second_python_deployment_goes_to_another_gpu() -> None:
    ledger = Ledger([h200("a", 2)])
    first = ledger.place(Demand("p1", 2, profile="1g.18gb", gil=True))
    assert {each.gpus for each in first.assignments} == {(0,)}
    assert ledger.place(Demand("p2", 1, profile="1g.18gb", gil=True)).assignments[0].gpus == (1,)
    with pytest.raises(NotEnoughGpus):
        ledger.place(Demand("p3", 1, profile="1g.18gb", gil=True))
    assert ledger.place(Demand("c", 1, profile="1g.18gb")).assignments[0].gpus in ((0,), (1,))
