"""All sets of a machine at once against one set after another: costs, bounds, and the choice that rests on them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, combinations_with_replacement

import numpy as np
import pytest
from core.placing_oracle import best_sets, cost, flexibility
from hypothesis import given, settings
from hypothesis import strategies as st

from rakka_sim.core.placing import Shape
from rakka_sim.core.placing import sets as sets_module
from rakka_sim.core.placing.sets import TabledSets, gpus_of, mask_of
from rakka_sim.core.placing.sized import Sized
from rakka_sim.hardware.machine import Machine
from rakka_sim.hardware.parts import NvLink
from rakka_sim.hardware.presets import preset
from rakka_sim.hardware.shape import MachineShape
from rakka_sim.hardware.subsets import sets_of

from .machines import machines

NBYTES = 256 << 10


@dataclass(frozen=True)
class Plain:
    """A machine that is asked for one set at a time."""

    whole: MachineShape

    @property
    def key(self) -> object:
        return self.whole.key

    @property
    def count(self) -> int:
        return self.whole.count

    @property
    def islands(self) -> tuple[tuple[int, ...], ...]:
        return self.whole.islands

    def pair(self, a: int, b: int) -> object:
        return self.whole.pair(a, b)

    def set_cost(self, gpus: tuple[int, ...], message_bytes: int) -> float:
        return self.whole.set_cost(gpus, message_bytes)


@st.composite
def meshes(draw: st.DrawFn, least: int = 4, most: int = 9) -> Machine:
    """GPUs with NVLinks between some of them, in a PCIe tree."""
    count, widest = draw(st.integers(least, most)), draw(st.sampled_from([1, 1, 2, 3]))
    base = preset("pcie", gpu=draw(st.sampled_from(["V100", "A100-80"])), count=count)
    density, chance = draw(st.sampled_from([0.3, 0.6, 0.9])), st.floats(0, 1)
    joined = [pair for pair in combinations(range(count), 2) if draw(chance) < density]
    return base.with_nvlinks([NvLink(a, b, draw(st.integers(1, widest))) for a, b in joined])


@st.composite
def blown_up(draw: st.DrawFn) -> Machine:
    """GPUs of two kinds or three, of which those of a kind are joined alike to all others: many are interchangeable."""
    kinds = draw(st.lists(st.integers(1, 5), min_size=2, max_size=3).filter(lambda each: 5 <= sum(each) <= 9))
    kind_of = [kind for kind, count in enumerate(kinds) for _ in range(count)]
    width = {pair: draw(st.integers(0, 3)) for pair in combinations_with_replacement(range(len(kinds)), 2)}
    pairs = combinations(range(len(kind_of)), 2)
    links = [NvLink(a, b, width[kind_of[a], kind_of[b]]) for a, b in pairs if width[kind_of[a], kind_of[b]]]
    return preset("pcie", gpu="V100", count=len(kind_of)).with_nvlinks(links)


any_machine = st.one_of(meshes(), blown_up(), machines(9).filter(lambda machine: machine.count > 1))


@settings(max_examples=40)
@given(any_machine)
def test_costs_are_those_of_one_set_after_another_and_bounds_are_below(machine: Machine) -> None:
    shape = MachineShape(machine)
    for size in range(1, machine.count + 1):
        masks, found = sets_of(machine.count, size), shape.set_costs(size, NBYTES)
        expected = np.array([shape.set_cost(gpus_of(int(mask)), NBYTES) for mask in masks])
        costs = np.array(found.seconds)[found.which]
        assert (costs[found.sure] == expected[found.sure]).all()
        assert (costs <= expected).all()
        assert found.sure.all() or 5 <= size <= 8
        if not found.sure.all():
            assert shape.settled(masks[~found.sure], NBYTES) == expected[~found.sure].tolist()


@settings(max_examples=40)
@given(blown_up())
def test_one_set_of_each_kind_up_to_interchange_stands_for_all(machine: Machine) -> None:
    shape = MachineShape(machine)
    for size in range(5, min(8, machine.count) + 1):
        masks = sets_of(machine.count, size)
        unsure = masks[~shape.set_costs(size, NBYTES).sure]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sets_module, "MANY", 0)
            found = TabledSets(shape, NBYTES)._settle(unsure) if len(unsure) else np.zeros(0)
        assert found.tolist() == [cost(shape, gpus_of(int(mask)), NBYTES) for mask in unsure]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3), st.booleans()), min_size=1, max_size=12), st.data())
def test_bounds_are_raised_until_none_below_the_cheapest_is_left(
    sets: list[tuple[int, int, bool]], data: st.DataObject
) -> None:
    """A bound, how much more the set really costs, and whether that is known."""
    masks, exact = np.arange(len(sets)), np.array([float(low + (0 if sure else more)) for low, more, sure in sets])
    costs, sure = np.array([float(low) for low, _, _ in sets]), np.array([sure for _, _, sure in sets])
    sized = Sized(masks, costs, sure, lambda some: exact[some])
    for _ in range(3):
        among = np.array(sorted(data.draw(st.sets(st.integers(0, len(sets) - 1), min_size=1))))
        least, found = sized.cheapest(among)
        assert least == exact[among].min()
        assert found.tolist() == [at for at in among if exact[at] == least]


@settings(max_examples=40)
@given(any_machine, st.data())
def test_the_choice_is_that_of_one_set_after_another(machine: Machine, data: st.DataObject) -> None:
    """With interchangeable GPUs looked for among however few sets."""
    shape, many = MachineShape(machine), data.draw(st.sampled_from([0, sets_module.MANY]))
    at_once, in_turn = TabledSets(shape, NBYTES), TabledSets(Plain(shape), NBYTES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sets_module, "MANY", many)
        for _ in range(4):
            free = mask_of(tuple(data.draw(st.sets(st.integers(0, machine.count - 1), min_size=1))))
            size = data.draw(st.integers(1, machine.count))
            island, sets = data.draw(st.booleans()), data.draw(st.integers(1, 3))
            assert at_once.best(free, size, island, sets) == in_turn.best(free, size, island, sets)
            assert at_once.flexibility(free) == in_turn.flexibility(free)


@settings(max_examples=25)
@given(meshes(4, 7), st.data())
def test_the_choice_is_that_of_plain_enumeration(machine: Machine, data: st.DataObject) -> None:
    shape: Shape = MachineShape(machine)
    free = data.draw(st.sets(st.integers(0, machine.count - 1), min_size=1))
    size = data.draw(st.integers(1, len(free)))
    found = TabledSets(shape, NBYTES).best(mask_of(tuple(free)), size)
    assert found is not None
    gpus = best_sets(shape, sorted(free), size, NBYTES)[0]
    left = flexibility(shape, sorted(free - set(gpus)), NBYTES)
    assert (found[0], found[1], gpus_of(found[2])) == (cost(shape, gpus, NBYTES), left, gpus)


def mesh_of_sixteen(name: str) -> Machine:
    joined = {
        "each to each": lambda a, b: 1,
        "two halves": lambda a, b: int((a < 8) != (b < 8)),
        "all but partners": lambda a, b: int(a // 2 != b // 2),
        "hypercube": lambda a, b: int((a ^ b).bit_count() == 1),
    }[name]
    links = [NvLink(a, b, joined(a, b)) for a, b in combinations(range(16), 2) if joined(a, b)]
    return preset("pcie", gpu="V100", count=16).with_nvlinks(links)


@pytest.mark.parametrize("name", ["each to each", "two halves", "all but partners", "hypercube"])
@pytest.mark.parametrize("size", [6, 8])
def test_meshes_of_sixteen_of_which_thousands_of_sets_are_equally_good(name: str, size: int) -> None:
    shape = MachineShape(mesh_of_sixteen(name))
    best = TabledSets(shape, NBYTES).best(0xFFFF, size)
    assert best is not None
    assert best[0] == cost(shape, gpus_of(best[2]), NBYTES)
    some = list(combinations(range(16), size))[:: 97 if size == 6 else 151]
    costs = {gpus: cost(shape, gpus, NBYTES) for gpus in some}
    assert best[0] <= min(costs.values())
    first = min((gpus for gpus in some if costs[gpus] == best[0]), default=None)
    assert first is None or gpus_of(best[2]) <= first


def test_the_bridges_of_a_ring_decide_among_more_than_eight() -> None:
    """Ten GPUs of which nine are in a ring of two links, and the tenth hangs from one: no ring of NVLinks takes it."""
    links = [NvLink(a, a + 1, 2) for a in range(8)] + [NvLink(0, 8, 2), NvLink(8, 9, 2)]
    shape = MachineShape(preset("pcie", gpu="V100", count=10).with_nvlinks(links))
    best = TabledSets(shape, NBYTES).best(0x3FF, 9)
    assert best is not None
    assert gpus_of(best[2]) == tuple(range(9))
    assert shape.machine.group(range(9)).fabric == "nvlink"
    assert shape.machine.group(range(10)).fabric != "nvlink"
