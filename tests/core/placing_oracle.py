"""Plain enumeration of placements on small clusters: what the placement tests hold the package against. No test here.

Nothing of `rakka_sim.core.placing` decides anything in this file; it only supplies the words (shapes, demands).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, pairwise, permutations

from hypothesis import strategies as st

from rakka_sim.core.placing import Alike, Claim, Demand, NodeBook, NodeFacts, Shape
from rakka_sim.hardware.presets import preset
from rakka_sim.hardware.shape import MachineShape
from rakka_sim.values import NodeAssignment

SIZES = (1, 2, 4, 8, 16)
Gpus = tuple[int, ...]


@dataclass(frozen=True)
class Links:
    """GPUs with a number of links between any two; a set costs by the slowest step of its best ring."""

    links: tuple[tuple[int, ...], ...]

    @property
    def key(self) -> object:
        return self.links

    @property
    def count(self) -> int:
        return len(self.links)

    @property
    def islands(self) -> tuple[Gpus, ...]:
        return cliques(self.links)

    def pair(self, a: int, b: int) -> object:
        return self.links[a][b]

    def set_cost(self, gpus: Gpus, message_bytes: int) -> float:
        return ring_cost(self.links, gpus)

    def relabelled(self, order: Sequence[int]) -> Links:
        """The same machine with other ordinals: GPU i of the result is GPU order[i] of this one."""
        return Links(tuple(tuple(self.links[a][b] for b in order) for a in order))


@lru_cache(maxsize=100_000)
def ring_cost(links: tuple[tuple[int, ...], ...], gpus: Gpus) -> float:
    """1 / (1 + links of the slowest step) of the best ring, times the steps."""
    if len(gpus) < 2:
        return 0.0
    first, *rest = gpus
    rings = ((first, *way, first) for way in permutations(rest))
    best = max(min(links[a][b] for a, b in pairwise(ring)) for ring in rings)
    return len(gpus) / (1 + best)


@lru_cache(maxsize=10_000)
def cliques(links: tuple[tuple[int, ...], ...]) -> tuple[Gpus, ...]:
    """The maximal sets in which any two GPUs have a link."""
    every = [
        set(some)
        for size in range(1, len(links) + 1)
        for some in combinations(range(len(links)), size)
        if all(links[a][b] for a, b in combinations(some, 2))
    ]
    return tuple(tuple(sorted(some)) for some in every if not any(some < other for other in every))


@st.composite
def machines(draw: st.DrawFn, max_gpus: int = 6) -> Links:
    """Symmetric links, often few kinds, so that many GPUs are interchangeable."""
    count = draw(st.integers(1, max_gpus))
    most = draw(st.sampled_from([1, 2, 3]))
    rows = [[0] * count for _ in range(count)]
    for a, b in combinations(range(count), 2):
        rows[a][b] = rows[b][a] = draw(st.integers(0, most))
    return Links(tuple(map(tuple, rows)))


PRESETS = {
    name: MachineShape(preset(name))
    for name in ("dgx1-v100", "dgx1-p100", "dgx-a100", "hgx-h100", "gb200-nvl72", "pcie", "nvlink-pairs", "single")
}


# --- inside a node ----------------------------------------------------------------------------------------------


def cost(shape: Shape, gpus: Gpus, nbytes: int) -> float:
    return 0.0 if len(gpus) < 2 else round(shape.set_cost(gpus, nbytes), 12)


def flexibility(shape: Shape, free: Sequence[int], nbytes: int) -> int:
    """Sets of a usual size within `free` that are as cheap as any of that size in the whole machine."""
    total = 0
    for size in SIZES:
        if size <= shape.count:
            cheapest = min(cost(shape, gpus, nbytes) for gpus in combinations(range(shape.count), size))
            total += sum(cost(shape, gpus, nbytes) == cheapest for gpus in combinations(sorted(free), size))
    return total


def best_sets(shape: Shape, free: Sequence[int], size: int, nbytes: int) -> list[Gpus]:
    """All sets that are cheapest and, of those, leave most flexibility; lowest ordinals first."""
    ways = list(combinations(sorted(free), size))
    cheapest = min(cost(shape, gpus, nbytes) for gpus in ways)
    ways = [gpus for gpus in ways if cost(shape, gpus, nbytes) == cheapest]
    left = [flexibility(shape, sorted(set(free) - set(gpus)), nbytes) for gpus in ways]
    return [gpus for gpus, flex in zip(ways, left, strict=True) if flex == max(left)]


def packed(shape: Shape, free: frozenset[int], size: int) -> int:
    """The most sets of `size` that fit at once, each within an island."""
    islands = [set(island) for island in shape.islands]
    ways = [g for g in combinations(sorted(free), size) if any(set(g) <= island for island in islands)]
    return max((1 + packed(shape, free - set(gpus), size) for gpus in ways), default=0)


def wasted(free: int, total: int) -> float:
    """GPUs that an average request of 1, 2, 4, 8, 16 could not use on a node with so many free."""
    sizes = [size for size in SIZES if size <= total]
    return sum(free for size in sizes if size > free) / len(sizes)


# --- over nodes -------------------------------------------------------------------------------------------------


def fits(free: Sequence[int], sizes: Sequence[int]) -> bool:
    """Whether replicas of these sizes fit on nodes with so many GPUs free, tried in every way."""
    if not sizes:
        return True
    first, *rest = sizes
    tried = set()
    for index, room in enumerate(free):
        if room >= first and room not in tried:
            tried.add(room)
            if fits([*free[:index], room - first, *free[index + 1 :]], rest):
                return True
    return False


def most_gpus(free: Sequence[int], gangs: Sequence[tuple[int, int]]) -> int:
    """The most GPUs that whole deployments, (replicas, GPUs each), can have of nodes with so many free."""
    best = 0
    for chosen in _subsets(gangs):
        gpus = sum(replicas * size for replicas, size in chosen)
        sizes = sorted((size for replicas, size in chosen for _ in range(replicas)), reverse=True)
        if best < gpus <= sum(free) and fits(list(free), sizes):
            best = gpus
    return best


def _subsets(gangs: Sequence[tuple[int, int]]) -> Iterator[tuple[tuple[int, int], ...]]:
    for number in range(len(gangs) + 1):
        yield from combinations(gangs, number)


def cheapest_total(shapes: Sequence[Shape], free: Sequence[frozenset[int]], sizes: Sequence[int], nbytes: int) -> float:
    """The least sum of collective costs of placing all these replicas; infinite if they do not fit."""
    if not sizes:
        return 0.0
    first, *rest = sorted(sizes, reverse=True)
    best = float("inf")
    for index, (shape, room) in enumerate(zip(shapes, free, strict=True)):
        for gpus in combinations(sorted(room), first):
            left = [*free[:index], room - set(gpus), *free[index + 1 :]]
            best = min(best, cost(shape, gpus, nbytes) + cheapest_total(shapes, left, rest, nbytes))
            if first == 1:
                break  # a single GPU costs nothing, and the large ones have been placed
    return best


# --- clusters ---------------------------------------------------------------------------------------------------


def occupy(book: NodeBook, gpus: Sequence[int]) -> None:
    """Give GPUs of a node to somebody else."""
    for gpu in gpus:
        name = f"other-{gpu}"
        claim = Claim(Demand(name, 1), (NodeAssignment(0, book.facts.name, (gpu,)),))
        book.reserve(name, book.epoch, claim)
        book.commit(name)


@dataclass(frozen=True)
class Joined:
    """A fabric from one node's side: what a collective takes at the speed of each of its GPUs; None: not joined."""

    name: str
    costs: tuple[float | None, ...]

    def cost(self, gpu: int, gpus: int, message_bytes: int) -> float | None:
        return self.costs[gpu]


@st.composite
def joined(draw: st.DrawFn, count: int, whole: bool = False) -> Joined | None:
    """One of two fabrics or none; unless `whole`, some GPUs may be slower or lost to it."""
    name = draw(st.sampled_from(["", "f", "f", "g"]))
    speeds = st.sampled_from([1.0] if whole else [1.0, 1.0, 1.0, 2.0, None])
    return Joined(name, tuple(draw(speeds) for _ in range(count))) if name else None


@st.composite
def nodes(
    draw: st.DrawFn, max_nodes: int = 3, max_gpus: int = 6, linked: bool = True, fabrics: bool = False
) -> list[NodeFacts]:
    """A few nodes of few kinds in few failure domains; some without GPUs. With `fabrics`, some are joined."""
    kinds = draw(st.lists(machines(max_gpus), min_size=1, max_size=2)) if linked else []
    found = []
    for index in range(draw(st.integers(1, max_nodes))):
        shape: Shape = draw(st.sampled_from(kinds)) if linked else Alike(draw(st.integers(0, 8)))
        found.append(
            NodeFacts(
                f"n{index}",
                shape,
                gpu_model=draw(st.sampled_from(["H100", "H100", "A40"])),
                memory_gib=draw(st.sampled_from([40.0, 80.0])),
                domain=draw(st.sampled_from(["", "", "rack-1", "rack-2"])),
                region=draw(st.sampled_from(["eu", "us"])),
                egress=draw(st.booleans()),
                egress_slots=draw(st.sampled_from([None, 1, 2])),
                fabric=draw(joined(shape.count)) if fabrics else None,
            )
        )
    return found
