"""The best GPUs of one node: the search against plain enumeration, on random machines and on real ones."""

from __future__ import annotations

from itertools import combinations, pairwise, permutations

import pytest
from core.placing_oracle import PRESETS, Links, best_sets, cost, flexibility, machines, occupy, packed, wasted
from hypothesis import given, settings
from hypothesis import strategies as st

from rakka_sim.core.placing import Alike, Demand, NodeBook, NodeFacts, Shape, Tables
from rakka_sim.core.placing.sets import CountedSets, TabledSets, fragmentation, gpus_of, mask_of
from rakka_sim.core.placing.shapes import twins
from rakka_sim.errors import NotBuilt
from rakka_sim.hardware.presets import preset
from rakka_sim.hardware.shape import MachineShape

NBYTES = 256 << 10
shapes = st.one_of(machines(), st.sampled_from(list(PRESETS.values())))


@given(shapes, st.data())
def test_the_best_set_is_that_of_plain_enumeration(shape: Shape, data: st.DataObject) -> None:
    free = data.draw(st.sets(st.integers(0, shape.count - 1)))
    size = data.draw(st.integers(1, shape.count))
    for table in (TabledSets(shape, NBYTES), CountedSets(shape, NBYTES)):
        found = table.best(mask_of(tuple(free)), size)
        if len(free) < size:
            assert found is None
            continue
        assert found is not None
        price, left, mask = found
        expected = best_sets(shape, sorted(free), size, NBYTES)
        assert gpus_of(mask) == expected[0]
        assert price == cost(shape, expected[0], NBYTES)
        assert left == flexibility(shape, sorted(free - set(expected[0])), NBYTES)
        assert table.flexibility(mask_of(tuple(free))) == flexibility(shape, sorted(free), NBYTES)


@given(shapes, st.data())
def test_a_set_within_an_island_leaves_room_for_as_many_as_fit(shape: Shape, data: st.DataObject) -> None:
    free = frozenset(data.draw(st.sets(st.integers(0, shape.count - 1))))
    size = data.draw(st.integers(1, min(4, shape.count)))
    count = data.draw(st.integers(1, 4))
    book = NodeBook(NodeFacts("n", shape))
    taken = tuple(set(range(shape.count)) - free)
    occupy(book, taken)
    quote = book.quote(Demand("d", count, size, island="require"), count)
    assert len(quote.places) == min(count, packed(shape, free, size))
    islands = [set(island) for island in shape.islands]
    given_away = [gpu for place in quote.places for gpu in place.gpus]
    assert len(set(given_away)) == len(given_away)
    assert set(given_away) <= free
    assert all(any(set(place.gpus) <= island for island in islands) for place in quote.places)


@given(machines(), st.data())
def test_other_ordinals_give_equally_good_sets(machine: Links, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(machine.count)))
    free = data.draw(st.sets(st.integers(0, machine.count - 1), min_size=1))
    size = data.draw(st.integers(1, len(free)))
    renamed = tuple(order.index(gpu) for gpu in free)
    here = Tables().of(machine, NBYTES).best(mask_of(tuple(free)), size)
    there = Tables().of(machine.relabelled(order), NBYTES).best(mask_of(renamed), size)
    assert here is not None
    assert there is not None
    assert here[:2] == there[:2]


@given(machines())
def test_twins_can_be_swapped_and_nothing_changes(machine: Links) -> None:
    for members in twins(machine):
        for a, b in combinations(members, 2):
            order = list(range(machine.count))
            order[a], order[b] = b, a
            assert machine.relabelled(order) == machine


@given(shapes, st.data())
def test_more_free_gpus_never_make_the_best_dearer(shape: Shape, data: st.DataObject) -> None:
    free = data.draw(st.sets(st.integers(0, shape.count - 1), min_size=1))
    more = free | data.draw(st.sets(st.integers(0, shape.count - 1)))
    size = data.draw(st.integers(1, len(free)))
    table = Tables().of(shape, NBYTES)
    few, many = table.best(mask_of(tuple(free)), size), table.best(mask_of(tuple(more)), size)
    assert few is not None
    assert many is not None
    assert many[0] <= few[0]


@given(st.integers(0, 16), st.integers(1, 16))
def test_fragmentation_counts_what_an_average_request_cannot_use(free: int, total: int) -> None:
    sizes = tuple(size for size in (1, 2, 4, 8, 16) if size <= total)
    assert fragmentation(free, sizes) == wasted(free, total) >= 0
    assert (fragmentation(free, sizes) == 0) == (free == 0 or free >= sizes[-1])
    assert fragmentation(free, ()) == 0


@settings(max_examples=20)
@given(st.sampled_from(list(PRESETS.values())), st.data())
def test_a_chain_of_quotes_is_one_quote_after_another(shape: Shape, data: st.DataObject) -> None:
    size, count = data.draw(st.integers(1, shape.count)), data.draw(st.integers(1, 4))
    table, free = Tables().of(shape, NBYTES), (1 << shape.count) - 1
    for place in NodeBook(NodeFacts("n", shape)).quote(Demand("d", count, size), count).places:
        best = table.best(free, size)
        assert best is not None
        assert (place.cost_s, place.flexibility, place.gpus) == (*best[:2], gpus_of(best[2]))
        assert place.loss == table.flexibility(free) - place.flexibility
        assert place.waste == pytest.approx(
            wasted(free.bit_count() - size, shape.count) - wasted(free.bit_count(), shape.count)
        )
        free &= ~best[2]


# --- machines of which the answer is known ----------------------------------------------------------------------


def ring_links(machine: MachineShape, gpus: tuple[int, ...]) -> int:
    """NVLinks of the slowest step of the best ring."""
    first, *rest = gpus
    rings = ((first, *way, first) for way in permutations(rest))
    return max(min(machine.machine.links(a, b) for a, b in pairwise(ring)) for ring in rings)


def pair_sum(machine: MachineShape, gpus: tuple[int, ...]) -> int:
    return sum(machine.machine.links(a, b) for a, b in combinations(gpus, 2))


def test_five_gpus_of_a_dgx1_have_a_ring() -> None:
    """The sum over pairs, which others maximise, prefers sets whose fifth GPU hangs from a single other one."""
    dgx1 = PRESETS["dgx1-v100"]
    by_pairs = max(combinations(range(8), 5), key=lambda gpus: pair_sum(dgx1, gpus))
    assert by_pairs == (0, 1, 2, 3, 4)
    assert ring_links(dgx1, by_pairs) == 0
    best = Tables().of(dgx1, NBYTES).best(255, 5)
    assert best is not None
    assert ring_links(dgx1, gpus_of(best[2])) == 1
    assert dgx1.set_cost(gpus_of(best[2]), NBYTES) < dgx1.set_cost(by_pairs, NBYTES)


def test_four_gpus_of_a_dgx1_are_a_quad() -> None:
    best = Tables().of(PRESETS["dgx1-v100"], NBYTES).best(255, 4)
    assert best is not None
    assert gpus_of(best[2]) == (0, 1, 2, 3)


def test_bridged_pairs_are_taken_as_pairs() -> None:
    """A sum of links per GPU, as Slurm's, cannot tell a pair from two halves of pairs."""
    pairs = {(0, 2), (1, 3), (4, 5), (6, 7)}
    quote = NodeBook(NodeFacts("n", PRESETS["nvlink-pairs"])).quote(Demand("d", 4, 2), 4)
    assert {place.gpus for place in quote.places} == pairs


def test_one_gpu_does_not_break_a_second_pair() -> None:
    table = Tables().of(PRESETS["nvlink-pairs"], NBYTES)
    best = table.best(0b11111101, 1)  # GPU 1 is taken: 3 has lost its other half
    assert best is not None
    assert gpus_of(best[2]) == (3,)


def test_many_gpus_alike_are_counted_and_many_unlike_are_refused() -> None:
    best = Tables().of(Alike(72), NBYTES).best((1 << 72) - 1, 8)
    assert best is not None
    assert gpus_of(best[2]) == tuple(range(8))
    with pytest.raises(NotBuilt, match="24 GPUs"):  # twelve pairs, each on a switch of its own
        NodeBook(NodeFacts("n", MachineShape(preset("pcie", count=24)))).quote(Demand("d", 1, 8))


def test_sixteen_gpus_of_one_fabric() -> None:
    shape = MachineShape(preset("dgx2"))
    assert len(twins(shape)) == 1
    best = Tables().of(shape, NBYTES).best(0xFFF0, 8)
    assert best is not None
    assert gpus_of(best[2]) == tuple(range(4, 12))
