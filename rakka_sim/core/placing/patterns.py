"""Many deployments at once as an integer programme over patterns: what one node of a class can hold together.

Nodes that are alike are one class with a count, so the programme has a few hundred variables however many nodes there
are. It places as many GPUs as can be placed, whole deployments only, and among such placements one of least collective
cost. No solver may be in this file (`solvers`).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rakka_sim.core.placing.greedy import Kind, kind_of
from rakka_sim.core.placing.terms import Demand
from rakka_sim.errors import InvariantBroken, NotBuilt

if TYPE_CHECKING:
    from rakka_sim.core.placing.book import NodeBook

MAX_PATTERNS = 200_000


@dataclass(slots=True)
class NodeClass:
    """Nodes that are alike: their positions, and what one of them can hold: (count per kind, cost) each."""

    nodes: list[int]
    free: int
    patterns: list[tuple[tuple[int, ...], float]] = field(default_factory=list)


@dataclass(slots=True)
class Programme:
    """Kinds of replicas, classes of nodes, and groups of deployments alike in kind and number of replicas."""

    kinds: list[Demand]
    classes: list[NodeClass]
    groups: list[tuple[int, int, list[Demand]]]  # (kind, replicas, the deployments)

    @property
    def cost_matters(self) -> bool:
        """Whether some ways to place a kind are dearer than others."""
        known: dict[int, float] = {}
        for cls in self.classes:
            for counts, cost in cls.patterns:
                if sum(counts) == 1 and known.setdefault(counts.index(1), cost) != cost:
                    return True
        alone = [known.get(kind, 0.0) for kind in range(len(self.kinds))]
        together = (
            (cost, sum(n * c for n, c in zip(counts, alone, strict=True)))
            for cls in self.classes
            for counts, cost in cls.patterns
        )
        return any(abs(cost - apart) > 1e-12 for cost, apart in together)


def programme(books: Sequence[NodeBook], demands: Sequence[Demand]) -> Programme:
    """The programme of placing `demands`, each a matter of counting or of islands, on nodes with those books."""
    kinds: dict[Kind, int] = {}
    shown: list[Demand] = []
    grouped: dict[tuple[int, int], list[Demand]] = {}
    for demand in demands:
        kind = kinds.setdefault(kind_of(demand), len(shown))
        if kind == len(shown):
            shown.append(demand)
        grouped.setdefault((kind, demand.replicas), []).append(demand)
    classes: dict[Any, NodeClass] = {}
    for index, book in enumerate(books):
        if book.free_mask:
            facts = book.facts
            key = (facts.shape.key, facts.gpu_model, facts.memory_gib, facts.region, book.state(book.free_mask))
            classes.setdefault(key, NodeClass([], book.free_mask)).nodes.append(index)
    total = 0
    for cls in classes.values():
        packer = Packer(books[cls.nodes[0]], shown)
        for counts in _vectors(packer.room(cls.free), cls.free.bit_count(), [demand.gpus for demand in shown]):
            cost = packer.cost(cls.free, counts)
            if cost is not None and any(counts):
                cls.patterns.append((counts, cost))
            total += 1
            if total > MAX_PATTERNS:
                raise NotBuilt(f"an integer programme of more than {MAX_PATTERNS} patterns")
    groups = [(kind, replicas, members) for (kind, replicas), members in grouped.items()]
    return Programme(shown, list(classes.values()), groups)


def _vectors(room: Sequence[int], free: int, sizes: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Every count per kind that the free GPUs could be enough for."""
    if not room:
        yield ()
        return
    for count in range(min(room[0], free // sizes[0]) + 1):
        for rest in _vectors(room[1:], free - count * sizes[0], sizes[1:]):
            yield (count, *rest)


class Packer:
    """How the replicas of a pattern share one node's free GPUs at least cost, by trying."""

    def __init__(self, book: NodeBook, kinds: Sequence[Demand]) -> None:
        self._tables = [book.table(demand) for demand in kinds]
        self._sizes = [demand.gpus for demand in kinds]
        self._island = [demand.island == "require" for demand in kinds]
        self._able = [not book.refusal(demand) for demand in kinds]
        # Large ones first; whatever is left is as good as anything else for replicas of one GPU.
        self._order = sorted(range(len(kinds)), key=lambda kind: (-self._sizes[kind], kind))
        self._found: dict[Any, tuple[float, int, tuple[int, ...]] | None] = {}

    def room(self, free: int) -> list[int]:
        """How many of each kind fit alone, at most."""
        return [free.bit_count() // size if able else 0 for size, able in zip(self._sizes, self._able, strict=True)]

    def cost(self, free: int, counts: tuple[int, ...]) -> float | None:
        """The least sum of the collective costs (s), or None where they do not fit together."""
        if not any(counts):
            return 0.0
        found = self._first(free, counts)
        return None if found is None else found[0]

    def sets(self, free: int, counts: tuple[int, ...]) -> Iterator[tuple[int, int]]:
        """The kind and the GPUs (a mask) of each replica of a pattern that fits."""
        while any(counts) and (found := self._first(free, counts)) is not None:
            _, kind, state = found
            mask = self._tables[kind].lowest(free, state)
            yield kind, mask
            free &= ~mask
            counts = _less(counts, kind)

    def _first(self, free: int, counts: tuple[int, ...]) -> tuple[float, int, tuple[int, ...]] | None:
        """(cost of all, kind of the largest, its set up to interchange)."""
        key = (self._tables[0].state(free), counts)
        if key in self._found:
            return self._found[key]
        kind = next(kind for kind in self._order if counts[kind])
        table, rest = self._tables[kind], _less(counts, kind)
        best: tuple[float, int, tuple[int, ...]] | None = None
        for state, mask in self._ways(free, kind).items():
            left = self.cost(free & ~mask, rest)
            if left is not None and (best is None or left + table.cost(mask) < best[0] - 1e-15):
                best = (left + table.cost(mask), kind, state)
        self._found[key] = best
        return best

    def _ways(self, free: int, kind: int) -> dict[tuple[int, ...], int]:
        """The sets that a replica of a kind could take, one of each sort of interchangeable ones."""
        table, size = self._tables[kind], self._sizes[kind]
        if free.bit_count() < size:
            return {}
        if size == 1 and not any(self._sizes[other] == 1 and self._island[other] for other in range(len(self._sizes))):
            mask = free & -free
            return {table.state(mask): mask}
        ways = table.ways(free, size)
        return {table.state(mask): mask for mask in reversed(table.within(ways) if self._island[kind] else ways)}


def _less(counts: tuple[int, ...], kind: int) -> tuple[int, ...]:
    return (*counts[:kind], counts[kind] - 1, *counts[kind + 1 :])


Found = list[tuple[Demand, list[tuple[int, int]]]]  # each deployment's replicas: node and GPUs (a mask)


def deal(made: Programme, chosen: Sequence[Sequence[int]], taken: Sequence[int], books: Sequence[NodeBook]) -> Found:
    """A solution as places: `chosen[c][p]` nodes of class c hold pattern p, `taken[g]` deployments of group g are in.

    Replicas of one deployment go to different failure domains as far as the places allow: the deployments with most
    replicas first, each to the domains that have most places left.
    """
    hands = [_Hand() for _ in made.kinds]
    for cls, counts in zip(made.classes, chosen, strict=True):
        nodes, packer = iter(cls.nodes), Packer(books[cls.nodes[0]], made.kinds)
        for (pattern, _), number in zip(cls.patterns, counts, strict=True):
            for _ in range(number):
                index = next(nodes)
                for kind, mask in packer.sets(books[index].free_mask, pattern):
                    hands[kind].add(books[index].facts.failure_domain, index, mask)
    found: Found = []
    for group in sorted(range(len(taken)), key=lambda group: -made.groups[group][1]):
        kind, replicas, members = made.groups[group]
        hands[kind].sort()
        found += [(demand, hands[kind].deal(replicas)) for demand in members[: taken[group]]]
    return found


class _Hand:
    """The places of one kind, by failure domain."""

    def __init__(self) -> None:
        self._places: dict[str, list[tuple[int, int]]] = {}
        self._fullest: list[tuple[int, str]] = []

    def add(self, domain: str, index: int, mask: int) -> None:
        self._places.setdefault(domain, []).append((index, mask))

    def sort(self) -> None:
        self._fullest = [(-len(places), domain) for domain, places in self._places.items() if places]
        heapq.heapify(self._fullest)

    def deal(self, replicas: int) -> list[tuple[int, int]]:
        given: list[tuple[int, int]] = []
        while len(given) < replicas:
            if not self._fullest:
                raise InvariantBroken("placement programme", "it takes more replicas than its patterns hold")
            drawn = [heapq.heappop(self._fullest) for _ in range(min(replicas - len(given), len(self._fullest)))]
            for count, domain in drawn:
                given.append(self._places[domain].pop(0))
                if count < -1:
                    heapq.heappush(self._fullest, (count + 1, domain))
        return given
