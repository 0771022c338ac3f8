"""Which GPUs of one node make the best set of k, by enumeration; who holds them and which node it is are not here.

Sets are bit masks: GPU i is 1 << i. "Best" means cheapest, then what leaves most flexibility, then lowest ordinals.
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import cached_property
from math import comb, prod
from typing import Literal

import numpy as np

from rakka_sim.core.placing.shapes import Shape, surveyed, twins
from rakka_sim.core.placing.sized import Sized
from rakka_sim.errors import InvariantBroken, NotBuilt
from rakka_sim.hardware import subsets
from rakka_sim.hardware.subsets import Array, sets_of

Pick = Literal["best", "lowest", "blind"]
Best = tuple[float, int, int]  # cost (s), flexibility left, mask

# The sizes that flexibility and fragmentation count with: those that tensor parallelism uses.
SIZES = (1, 2, 4, 8, 16)
# Up to here every subset is in a table; beyond, GPUs must fall into few classes of interchangeable ones.
TABLED_GPUS = subsets.MOST
MAX_CANDIDATES = 20_000
# So many sets that looking for interchangeable GPUs costs less than looking at each.
MANY = 64


def mask_of(gpus: tuple[int, ...]) -> int:
    """A set of GPUs as a mask."""
    mask = 0
    for gpu in gpus:
        mask |= 1 << gpu
    return mask


def gpus_of(mask: int) -> tuple[int, ...]:
    """The GPUs of a mask, ascending."""
    found = []
    while mask:
        low = mask & -mask
        found.append(low.bit_length() - 1)
        mask ^= low
    return tuple(found)


def fragmentation(free: int, sizes: tuple[int, ...]) -> float:
    """How many of `free` GPUs an average request cannot use, every size being as likely as any other (FGD, ATC'23)."""
    return sum(free for size in sizes if free < size) / len(sizes) if sizes else 0.0


def _rounded(seconds: float) -> float:
    """To the picosecond: sets that differ by the order of additions are equally good."""
    return round(seconds, 12)


class SetTable:
    """The sets of one kind of machine, for collectives of one message size (bytes). Made by `Tables`."""

    def __init__(self, shape: Shape, nbytes: int) -> None:
        self._shape = shape
        self.nbytes = nbytes
        self.everything = (1 << shape.count) - 1
        self.sizes = tuple(size for size in SIZES if size <= shape.count)
        self._costs: dict[tuple[int, ...], float] = {}
        self._best: dict[tuple[int, int, bool, int], Best | None] = {}
        self._packed: dict[tuple[tuple[int, ...], int], int] = {}

    @cached_property
    def _classes(self) -> list[int]:
        return [mask_of(members) for members in twins(self._shape)]

    @cached_property
    def _islands(self) -> list[int]:
        return [mask_of(island) for island in self._shape.islands]

    def state(self, free: int) -> tuple[int, ...]:
        """`free` up to interchange of GPUs: equal states have equal costs, flexibility and room."""
        return tuple((free & members).bit_count() for members in self._classes)

    def lowest(self, free: int, state: tuple[int, ...]) -> int:
        """The free GPUs of lowest ordinals that make a set of that `state`."""
        mask = 0
        for members, count in zip(self._classes, state, strict=True):
            left = free & members
            for _ in range(count):
                left &= left - 1
            mask |= free & members & ~left
        return mask

    def cost(self, mask: int) -> float:
        """Seconds of one all-reduce among the GPUs of `mask`."""
        state = self.state(mask)
        cost = self._costs.get(state)
        if cost is None:
            gpus = gpus_of(mask)
            cost = 0.0 if len(gpus) < 2 else _rounded(self._shape.set_cost(gpus, self.nbytes))
            self._costs[state] = cost
        return cost

    def flexibility(self, free: int) -> int:
        """How many sets of a usual size could still be placed on `free` at the machine's full speed for that size."""
        raise NotImplementedError

    def ways(self, free: int, size: int) -> list[int]:
        """The sets of `size` free GPUs, at least one of every kind up to interchange, lowest ordinals first."""
        raise NotImplementedError

    def best(self, free: int, size: int, island: bool = False, sets: int = 1) -> Best | None:
        """The set of `size` free GPUs to take, or None where there is none.

        With `island` a set must lie within one island, and the choice leaves room for `sets` of them in all, as far as
        there is room for so many at all.
        """
        key = (free, size, island, sets if island else 1)
        if key not in self._best:
            enough = free.bit_count() >= size
            self._best[key] = self._search(free, size, island, sets) if enough else None
        return self._best[key]

    def _search(self, free: int, size: int, island: bool, sets: int) -> Best | None:
        ways = self._roomy(free, size, sets) if island else self.ways(free, size)
        if not ways:
            return None
        cheapest = min(self.cost(mask) for mask in ways)
        left = {mask: self.flexibility(free & ~mask) for mask in ways if self.cost(mask) == cheapest}
        most = max(left.values())
        return cheapest, most, min((mask for mask in left if left[mask] == most), key=gpus_of)

    def _roomy(self, free: int, size: int, sets: int) -> list[int]:
        """The sets within islands that leave room for others, `sets` in all if there is room for so many."""
        ways = self.within(self.ways(free, size))
        if sets > 1 and ways:
            wanted = min(sets, self.packed(free, size)) - 1
            ways = [mask for mask in ways if self.packed(free & ~mask, size) >= wanted]
        return ways

    def within(self, ways: list[int]) -> list[int]:
        """Those sets that lie within one island."""
        return [mask for mask in ways if any(mask & ~island == 0 for island in self._islands)]

    def packed(self, free: int, size: int) -> int:
        """The most sets of `size` free GPUs, each within one island, that fit at once."""
        known = self._packed.get((self.state(free), size))
        if known is None:
            known = 0
            for mask in self.within(self.ways(free, size)) if free.bit_count() >= size else ():
                known = max(known, 1 + self.packed(free & ~mask, size))
                if known == free.bit_count() // size:
                    break
            self._packed[self.state(free), size] = known
        return known

    def loss(self, free: int, mask: int) -> int:
        """The flexibility that taking `mask` costs."""
        return self.flexibility(free) - self.flexibility(free & ~mask)

    def waste(self, free: int, size: int) -> float:
        """By how much taking `size` of `free` changes fragmentation."""
        room = free.bit_count()
        return fragmentation(room - size, self.sizes) - fragmentation(room, self.sizes)


class TabledSets(SetTable):
    """Up to 16 GPUs: every subset of a size with its cost, and the flexibility of every mask, in arrays."""

    def __init__(self, shape: Shape, nbytes: int) -> None:
        super().__init__(shape, nbytes)
        self._sized: dict[int, Sized] = {}
        self._from: dict[int, dict[int, list[int]]] = {}
        self._flex: Array | None = None

    def ways(self, free: int, size: int) -> list[int]:
        masks = sets_of(self._shape.count, size)
        return [int(mask) for mask in masks[(masks & ~free) == 0]]

    def packed(self, free: int, size: int) -> int:
        most, key = free.bit_count() // size, (self.state(free), size)
        if most and key not in self._packed:
            first = free & -free  # either it is in one of them, or in none
            found = 0
            for mask in self._within_from(size).get(first, ()):
                if mask & ~free == 0:
                    found = max(found, 1 + self.packed(free & ~mask, size))
                    if found == most:
                        break
            else:
                found = max(found, self.packed(free & ~first, size))
            self._packed[key] = found
        return self._packed[key] if most else 0

    def _within_from(self, size: int) -> dict[int, list[int]]:
        """The sets within an island by the first GPU of each (its bit)."""
        if size not in self._from:
            found = self._from[size] = {}
            for mask in self.within(self.ways(self.everything, size)):
                found.setdefault(mask & -mask, []).append(mask)
        return self._from[size]

    def flexibility(self, free: int) -> int:
        return int(self._flexibilities()[free])

    def _table(self, size: int) -> Sized:
        if size not in self._sized:
            masks, shape = sets_of(self._shape.count, size), self._shape
            if surveyed(shape) and len(masks) > 1:
                found = shape.set_costs(size, self.nbytes)
                costs, sure = np.array([_rounded(cost) for cost in found.seconds])[found.which], found.sure.copy()
            else:
                costs, sure = np.array([self.cost(int(mask)) for mask in masks]), np.ones(len(masks), dtype=bool)
            self._sized[size] = Sized(masks, costs, sure, self._settle)
        return self._sized[size]

    def _settle(self, masks: Array) -> Array:
        """The costs of sets that a survey left open; of many, one of each kind up to interchange."""
        shape = self._shape
        if not surveyed(shape):
            raise InvariantBroken("placement", "costs left open by a shape that gave none")
        first = which = np.arange(len(masks))
        if len(masks) > MANY:
            state = np.zeros(len(masks), dtype=np.int64)
            for members in self._classes:
                state = state * (members.bit_count() + 1) + np.bitwise_count(masks & members)
            _, first, which = np.unique(state, return_index=True, return_inverse=True)
        return np.array([_rounded(cost) for cost in shape.settled(masks[first], self.nbytes)])[which]

    def _flexibilities(self) -> Array:
        if self._flex is None:
            count = self._shape.count
            table = np.zeros(1 << count, dtype=np.int64)
            for size in self.sizes:
                # One GPU is as good as another, and all of them are one set: nothing to work out.
                alike = size in (1, count)
                table[sets_of(count, size) if alike else self._table(size).cheapest(slice(None))[1]] = 1
            for gpu in range(count):  # the sum over all subsets, one GPU after another
                without_and_with = table.reshape(-1, 2, 1 << gpu)
                without_and_with[:, 1, :] += without_and_with[:, 0, :]
            self._flex = table
        return self._flex

    def _search(self, free: int, size: int, island: bool, sets: int) -> Best | None:
        table = self._table(size)
        fitting = np.flatnonzero((table.masks & ~free) == 0)
        if island:
            ways = dict.fromkeys(self._roomy(free, size, sets))
            fitting = fitting[[mask in ways for mask in table.masks[fitting].tolist()]]
        if not len(fitting):
            return None
        cheapest, masks = table.cheapest(fitting)
        left = self._flexibilities()[free & ~masks]
        at = int(left.argmax())  # the first of them: the lowest ordinals
        return cheapest, int(left[at]), int(masks[at])


class CountedSets(SetTable):
    """More GPUs than a table can hold: those that are interchangeable are counted, not listed.

    72 GPUs on one switched fabric have one set of eight, up to interchange. Raises NotBuilt where so many GPUs are of
    so many kinds that even this is too much.
    """

    def __init__(self, shape: Shape, nbytes: int) -> None:
        super().__init__(shape, nbytes)
        self._full_speed: list[tuple[int, ...]] | None = None

    def ways(self, free: int, size: int) -> list[int]:
        members = [gpus_of(free & group) for group in self._classes]
        if prod(min(len(gpus), size) + 1 for gpus in members) > MAX_CANDIDATES:
            raise NotBuilt(f"placement on a node of {self._shape.count} GPUs of which few are interchangeable")
        behind = [sum(len(gpus) for gpus in members[at:]) for at in range(len(members) + 1)]
        found: list[tuple[int, int]] = [(0, size)]  # the mask so far, and how many GPUs it still lacks
        for at, gpus in enumerate(members):
            longer = []
            for mask, left in found:
                for taken in range(max(0, left - behind[at + 1]), min(len(gpus), left) + 1):
                    longer.append((mask | mask_of(gpus[:taken]), left - taken))
            found = longer
        return sorted((mask for mask, _ in found), key=gpus_of)

    def flexibility(self, free: int) -> int:
        if self._full_speed is None:
            self._full_speed = []
            for size in self.sizes:
                ways = self.ways(self.everything, size)
                cheapest = min(self.cost(mask) for mask in ways)
                self._full_speed += [self.state(mask) for mask in ways if self.cost(mask) == cheapest]
        room = self.state(free)
        return sum(prod(map(comb, room, counts)) for counts in self._full_speed)


class Tables:
    """The set tables of a cluster: one for each kind of machine and message size."""

    __slots__ = ("_tables",)

    def __init__(self) -> None:
        self._tables: dict[tuple[Hashable, int], SetTable] = {}

    def of(self, shape: Shape, nbytes: int) -> SetTable:
        """The table of a shape."""
        key = (shape.key, nbytes)
        table = self._tables.get(key)
        if table is None:
            make = TabledSets if shape.count <= TABLED_GPUS else CountedSets
            table = self._tables[key] = make(shape, nbytes)
        return table
