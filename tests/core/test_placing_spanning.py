"""Replicas over several nodes of one fabric, against plain enumeration of all sets of GPUs of all nodes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import pytest
from core.placing_oracle import SIZES, Joined, joined, occupy
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rakka_sim.core.placing import POLICIES, Alike, Claim, Demand, Ledger, NodeFacts, Offer, place_all
from rakka_sim.core.placing.spanning import Room, span
from rakka_sim.errors import InputError, NotEnoughDomains, NotEnoughGpus, PlacementError
from rakka_sim.values import NodeAssignment, PlacementConstraints, PlacementResult

HONEST = sorted(POLICIES.keys() - {"naive"})
honest = st.sampled_from(HONEST)
Gpu = tuple[str, int]


@st.composite
def racks(draw: st.DrawFn, whole: bool = False) -> Ledger:
    """Two to four nodes of two to four GPUs, in two fabrics or none, of two kinds, some GPUs taken."""
    facts = []
    for index in range(draw(st.integers(2, 4))):
        count = draw(st.integers(2, 4))
        fabric = draw(joined(count, whole))
        model = draw(st.sampled_from(["B200", "B200", "B200", "H200"]))
        domain = draw(st.sampled_from(["", "", "r1", "r2"]))
        facts.append(NodeFacts(f"n{index}", Alike(count), model, fabric=fabric, domain=domain))
    ledger = Ledger(facts, draw(honest))
    for book in ledger.books.values():
        occupy(book, sorted(draw(st.sets(st.integers(0, book.facts.shape.count - 1), max_size=2))))
    return ledger


def tray(name: str, count: int = 4, fabric: str = "f", **more: Any) -> NodeFacts:
    return NodeFacts(name, Alike(count), "B200", fabric=Joined(fabric, (1.0,) * count), **more)


def free_of(ledger: Ledger) -> dict[str, list[int]]:
    return {
        name: [gpu for gpu in range(book.facts.shape.count) if not book.holders(gpu)]
        for name, book in ledger.books.items()
    }


def fabrics_of(ledger: Ledger) -> dict[tuple[str, str], list[Gpu]]:
    """The free GPUs that a fabric joins, of one kind of GPU each."""
    found: dict[tuple[str, str], list[Gpu]] = {}
    for name, gpus in free_of(ledger).items():
        facts = ledger.books[name].facts
        if isinstance(facts.fabric, Joined):
            mine = [(name, gpu) for gpu in gpus if facts.fabric.costs[gpu] is not None]
            found.setdefault((facts.fabric.name, facts.gpu_model), []).extend(mine)
    return found


def sets_left(total: int, free: int) -> int:
    """Sets of a usual size on a node with so many GPUs free, counted one by one."""
    return sum(len(list(combinations(range(free), size))) for size in SIZES if size <= total)


def badness(ledger: Ledger, chosen: Sequence[Gpu]) -> tuple[int, float, int]:
    """What a place over nodes is judged by: nodes, the slowest GPU, and the sets that are lost on these nodes."""
    per_node: dict[str, list[int]] = {}
    for name, gpu in chosen:
        per_node.setdefault(name, []).append(gpu)
    lost, slowest = 0, 0.0
    for name, gpus in per_node.items():
        total, free = ledger.books[name].facts.shape.count, len(free_of(ledger)[name])
        lost += sets_left(total, free) - sets_left(total, free - len(gpus))
        slowest = max([slowest, *(ledger.books[name].facts.fabric.costs[gpu] for gpu in gpus)])  # type: ignore[union-attr]
    return len(per_node), slowest, lost


def gpus_of(each: NodeAssignment) -> list[Gpu]:
    return [(node, gpu) for node, gpus in each.parts for gpu in gpus]


def outcome(work: Any) -> Any:
    try:
        return work()
    except PlacementError as error:
        return type(error).__name__, str(error)


def without_fabrics(ledger: Ledger) -> Ledger:
    bare = Ledger([dataclasses.replace(b.facts, fabric=None) for b in ledger.books.values()], ledger.policy)
    for name, gpus in free_of(ledger).items():
        occupy(bare.books[name], sorted(set(range(bare.books[name].facts.shape.count)) - set(gpus)))
    return bare


# --- one replica ------------------------------------------------------------------------------------------------


@settings(max_examples=2 * settings.default.max_examples)
@given(racks(), st.integers(1, 10))
def test_a_place_is_found_where_enumeration_finds_one_and_it_is_the_best(ledger: Ledger, gpus: int) -> None:
    free, fabrics = free_of(ledger), fabrics_of(ledger)
    alone = any(len(some) >= gpus for some in free.values())
    ways = [chosen for some in fabrics.values() for chosen in combinations(some, gpus)]
    before = ledger.copy()
    if not alone and not ways:
        with pytest.raises(NotEnoughGpus):
            ledger.place(Demand("d", 1, gpus))
        assert free_of(ledger) == free
        return
    (each,) = ledger.place(Demand("d", 1, gpus)).assignments
    taken = gpus_of(each)
    assert len(set(taken)) == len(taken) == gpus
    assert all(gpu in free[name] for name, gpu in taken)
    assert all(ledger.holders(name, gpu) == ("d",) for name, gpu in taken)
    if alone:
        assert each.others == ()
    else:
        assert tuple(sorted(taken)) in ways
        mine = next(some for some in fabrics.values() if set(taken) <= set(some))
        best = min(badness(before, chosen) for chosen in combinations(mine, gpus))
        assert badness(before, taken) == best
        assert best[0] == min(badness(before, chosen)[0] for chosen in ways)
    ledger.check()


@given(racks(), st.integers(1, 3), st.integers(1, 5))
def test_what_single_nodes_can_take_goes_where_it_would_go_without_a_fabric(
    ledger: Ledger, replicas: int, gpus: int
) -> None:
    bare = without_fabrics(ledger)
    expected = outcome(lambda: bare.place(Demand("d", replicas, gpus)))
    assume(isinstance(expected, PlacementResult))
    assert ledger.place(Demand("d", replicas, gpus)) == expected


# --- several ----------------------------------------------------------------------------------------------------


@settings(max_examples=2 * settings.default.max_examples)
@given(racks(whole=True), st.integers(1, 4), st.integers(1, 6))
def test_so_many_replicas_fit_as_their_gpus_add_up_to(ledger: Ledger, replicas: int, gpus: int) -> None:
    """Where a fabric joins all its GPUs, any of them go together: fitting is a sum over fabrics and single nodes."""
    free, fabrics = free_of(ledger), fabrics_of(ledger)
    most = sum(len(some) // gpus for some in fabrics.values())
    most += sum(len(some) // gpus for name, some in free.items() if ledger.books[name].facts.fabric is None)
    result = outcome(lambda: ledger.place(Demand("d", replicas, gpus)))
    assert isinstance(result, PlacementResult) == (most >= replicas)
    if not isinstance(result, PlacementResult):
        assert free_of(ledger) == free
        return
    taken = [gpu for each in result.assignments for gpu in gpus_of(each)]
    assert len(set(taken)) == len(taken) == replicas * gpus
    for each in result.assignments:
        facts = [ledger.books[node].facts for node, _ in each.parts]
        assert len(facts) == 1 or len({(fact.fabric and fact.fabric.name, fact.gpu_model) for fact in facts}) == 1
    ledger.check()


@given(st.lists(st.integers(2, 4), min_size=3, max_size=6), honest, st.data())
def test_a_lost_node_takes_what_spans_it_and_the_rest_is_free(
    counts: list[int], policy: str, data: st.DataObject
) -> None:
    ledger = Ledger([tray(f"n{index}", count) for index, count in enumerate(counts)], policy)
    gpus = data.draw(st.integers(2, 6))
    replicas = data.draw(st.integers(1, sum(counts) // gpus))
    before = free_of(ledger)
    result = ledger.place(Demand("d", replicas, gpus))
    node = data.draw(st.sampled_from(sorted({n for each in result.assignments for n, _ in each.parts})))
    lost = {each.replica_index for each in result.assignments if node in dict(each.parts)}
    assert set(ledger.fail(node)["d"]) == lost
    held = {gpu for each in result.assignments if each.replica_index not in lost for gpu in gpus_of(each)}
    for name, free in free_of(ledger).items():
        assert set(free) == {gpu for gpu in before[name] if (name, gpu) not in held}
    assert {each.replica_index for each in ledger.placed["d"].assignments} == set(range(replicas)) - lost
    ledger.check()
    ledger.restore(node)
    ledger.resize(Demand("d", replicas, gpus))
    ledger.release("d")
    assert all(set(before[name]) <= set(free) for name, free in free_of(ledger).items())


# --- what is left, and where ------------------------------------------------------------------------------------


def room(index: int, free: int, total: int = 4, **more: Any) -> Room:
    return Room(index, total, free, tuple((1.0, gpu) for gpu in range(free)), **more)


@pytest.mark.parametrize(
    ("free", "gpus", "taken"),
    [
        ((4, 4, 4), 8, {0: 4, 1: 4}),
        ((4, 4, 2), 6, {0: 4, 2: 2}),  # a tray that is partly taken is used up, one stays whole
        ((4, 4, 3, 3), 6, {2: 3, 3: 3}),  # two that are not whole leave two that are
        ((4, 4), 6, {0: 4, 1: 2}),  # a pair is left on one tray, not a single GPU on each
        ((4, 2, 2, 4), 8, {0: 4, 3: 4}),  # two nodes rather than three
        ((1, 1, 1, 1), 4, {0: 1, 1: 1, 2: 1, 3: 1}),
        ((4, 3), 8, None),
    ],
)
def test_what_is_taken_leaves_most(free: tuple[int, ...], gpus: int, taken: dict[int, int] | None) -> None:
    found = span([room(index, count) for index, count in enumerate(free)], gpus)
    assert (None if found is None else {index: len(share) for index, share in found.parts}) == taken


def test_a_rack_of_72_is_one_place() -> None:
    rooms = [room(index, 4) for index in range(18)]
    whole = span(rooms, 72)
    assert whole is not None
    assert [len(share) for _, share in whole.parts] == [4] * 18
    assert span(rooms, 73) is None


def test_a_slower_gpu_is_taken_only_where_it_must_be() -> None:
    worn = Room(0, 4, 4, ((1.0, 0), (9.0, 1), (1.0, 2), (1.0, 3)))
    better = span([worn, room(1, 4), room(2, 4)], 8)
    assert better is not None
    assert (better.parts, better.cost_s) == (((1, (0, 1, 2, 3)), (2, (0, 1, 2, 3))), 1.0)
    forced = span([worn, room(1, 3)], 6)
    assert forced is not None
    assert (forced.parts, forced.cost_s) == (((0, (0, 2, 3)), (1, (0, 1, 2))), 1.0)
    slow = span([worn, room(1, 3)], 7)
    assert slow is not None
    assert slow.cost_s == 9.0
    some = span([worn, room(1, 4)], 6)  # one more is wanted than is fast: no
    assert some is not None
    assert some.cost_s == 1.0


def test_fabrics_are_offered_to_the_policy_as_large_nodes() -> None:
    """The emptier fabric under `exclusive`, the fuller under `pack`; a policy of one's own sees all nodes of each."""
    facts = [tray(f"f{i}", fabric="f") for i in range(3)] + [tray(f"g{i}", fabric="g") for i in range(2)]
    for policy, fabric in (("exclusive", "f"), ("pack", "g"), ("least_loaded", "f"), ("topology", "f")):
        (each,) = Ledger(facts, policy).place(Demand("d", 1, 8)).assignments
        assert {node[0] for node, _ in each.parts} == {fabric}
    seen: list[tuple[str, ...]] = []

    def last(offers: Sequence[Offer], demand: Demand) -> Offer:
        seen.extend(offer.nodes for offer in offers)
        return offers[-1]

    (each,) = Ledger(facts, last).place(Demand("d", 1, 8)).assignments
    assert seen == [("f0", "f1"), ("g0", "g1")]
    assert each == NodeAssignment(0, "g0", (0, 1, 2, 3), None, (("g1", (0, 1, 2, 3)),))


def test_fewest_nodes_come_before_what_a_policy_thinks_of_fabrics() -> None:
    facts = [tray(f"f{i}", 2, "f") for i in range(4)] + [tray(f"g{i}", 4, "g") for i in range(3)]
    for policy in HONEST:
        (each,) = Ledger(facts, policy).place(Demand("d", 1, 8)).assignments
        assert len(each.parts) == 2, policy


def test_a_spanning_replica_is_in_the_failure_domains_of_all_its_nodes() -> None:
    facts = [tray("a", domain="r1"), tray("b", domain="r1"), tray("c", domain="r2"), tray("d", domain="r2")]
    two = Ledger(facts).place(Demand("d", 2, 8))
    assert [[node for node, _ in each.parts] for each in two.assignments] == [["a", "b"], ["c", "d"]]
    assert two.degraded == ()
    for policy in ("topology", "spread", "optimal"):
        ledger = Ledger(facts, policy)
        occupy(ledger.books["a"], [0])
        occupy(ledger.books["c"], [0])
        # Three of a, four of b: in r1 alone. The second has r2 for itself, though b has one left.
        placed = ledger.place(Demand("d", 2, 7, spread="require"))
        assert [[node for node, _ in each.parts] for each in placed.assignments] == [["a", "b"], ["c", "d"]]
    with pytest.raises(NotEnoughDomains):  # the second would have a node of the first's domain
        Ledger([*facts[:3], tray("e", domain="r1")]).place(Demand("d", 2, 8, spread="require"))
    crowded = Ledger([*facts[:2], tray("e", domain="r1"), tray("f", domain="r1")]).place(Demand("d", 2, 8))
    assert crowded.degraded == ("2 replicas share 1 failure domains",)


def test_a_domain_of_its_own_may_be_had_over_nodes_where_no_single_node_has_one() -> None:
    facts = [tray("a", domain="r1"), tray("b", domain="r1"), tray("c", 2, domain="r2"), tray("d", 2, domain="r3")]
    placed = Ledger(facts).place(Demand("d", 2, 4, spread="require"))
    assert [each.parts for each in placed.assignments] == [
        (("a", (0, 1, 2, 3)),),
        (("c", (0, 1)), ("d", (0, 1))),
    ]


def test_nodes_of_a_domain_that_has_none_come_before_nodes_of_one_that_has() -> None:
    facts = [tray(name, domain="r2" if name in "ef" else "r1") for name in "abcdef"]
    two = Ledger(facts).place(Demand("d", 2, 8))
    assert [[node for node, _ in each.parts] for each in two.assignments] == [["a", "b"], ["e", "f"]]
    ledger = Ledger(facts)
    ledger.place(Demand("d", 1, 8))
    assert ledger.resize(Demand("d", 2, 8)) == two


def test_a_replica_over_two_nodes_of_a_rack_is_in_it_once() -> None:
    facts = [tray("a", 2, domain="r1"), tray("b", 2, domain="r1"), tray("c", domain="r2")]
    facts += [tray("e", domain="r1"), tray("f", domain="r2")]
    ledger = Ledger(facts)
    ledger.fail("e")
    ledger.fail("f")
    two = ledger.place(Demand("d", 2, 4))
    assert [[node for node, _ in each.parts] for each in two.assignments] == [["c"], ["a", "b"]]
    ledger.restore("e")
    ledger.restore("f")
    # One replica in each rack: the next may go to either, and so to the first.
    assert ledger.resize(Demand("d", 3, 4)).assignments[2].node == "e"


def test_a_part_of_what_is_taken_or_of_nothing_is_not_reserved() -> None:
    ledger = Ledger([tray("a"), tray("b")])
    occupy(ledger.books["a"], [0])
    book = ledger.books["a"]
    for own in ((0, 1, 2, 3), ()):
        parts = NodeAssignment(0, "a", own, None, (("b", (0, 1, 2, 3)[: 8 - len(own)]),))
        with pytest.raises(InputError, match="of the free GPUs"):
            book.reserve("t", book.epoch, Claim(Demand("d", 1, len(own) + 4), (parts,)))
    assert (book.free, book.hosted) == (3, 1)


def test_a_refusal_names_what_the_domains_have_free() -> None:
    ledger = Ledger([tray("a"), tray("b"), tray("c", fabric="g"), tray("e", fabric="g"), NodeFacts("x", Alike(8))])
    occupy(ledger.books["b"], [0])
    with pytest.raises(NotEnoughGpus, match="free in NVLink domains: f 7, g 8") as refused:
        ledger.place(Demand("d", 1, 12))
    assert refused.value.fabrics == (("f", 7), ("g", 8))
    with pytest.raises(NotEnoughGpus, match="f 7, g 8"):
        ledger.place(Demand("d", 3, 8))


def test_two_kinds_of_gpu_are_never_one_replica() -> None:
    other = dataclasses.replace(tray("b"), gpu_model="H200")
    with pytest.raises(NotEnoughGpus):
        Ledger([tray("a"), other]).place(Demand("d", 1, 8))


def test_neighbours_and_islands_are_asked_of_every_node() -> None:
    ledger = Ledger([tray("a"), tray("b"), tray("c")])
    ledger.place(Demand("shy", 1, 2, anti_affinity=("d",)))
    (each,) = ledger.place(Demand("d", 1, 8, island="require")).assignments
    assert [node for node, _ in each.parts] == ["b", "c"]


def test_constraints_narrow_a_fabric_too() -> None:
    ledger = Ledger([tray("a"), tray("b"), tray("c")])
    narrow = PlacementConstraints({"b": 4, "c": 2})
    (each,) = ledger.place(Demand("d", 1, 6), narrow).assignments
    assert each.parts == (("b", (0, 1, 2, 3)), ("c", (0, 1)))
    with pytest.raises(NotEnoughGpus, match="free in NVLink domains: f 0"):
        ledger.place(Demand("e", 1, 2), narrow)


def test_many_at_once_place_what_no_node_holds_first() -> None:
    ledger = Ledger([tray(f"t{i}") for i in range(4)])
    demands = [Demand(f"small-{i}", 1, 4) for i in range(2)] + [Demand("wide", 1, 8)]
    batch = place_all(ledger, demands)
    assert (sorted(batch.placed), batch.refused, batch.gpus) == (["small-0", "small-1", "wide"], {}, 16)
    ledger.check()


def test_many_at_once_use_what_is_left_on_several_nodes() -> None:
    for policy in HONEST:
        ledger = Ledger([tray(f"t{i}") for i in range(4)], policy)
        batch = place_all(ledger, [Demand(f"three-{i}", 1, 3) for i in range(5)])
        assert (len(batch.placed), batch.gpus) == (5, 15)
        assert sum(len(result.assignments[0].parts) > 1 for result in batch.placed.values()) == 1
        ledger.check()
