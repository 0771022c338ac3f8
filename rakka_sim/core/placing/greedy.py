"""Many deployments at once, one after another, on a large cluster: the same choices as placing each, found faster.

Nodes of one kind with the same GPUs free, up to interchange, are as good as each other: they form a class, and a
policy's `rank` is asked once for a class. The nodes of a class wait in a heap, lowest first.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rakka_sim.core.placing.planning import Plan
from rakka_sim.core.placing.policies import Policy
from rakka_sim.core.placing.sets import gpus_of
from rakka_sim.core.placing.terms import Demand, Offer, Place
from rakka_sim.errors import (
    InvariantBroken,
    NoGpuNodes,
    NoSuitableNodes,
    NotEnoughDomains,
    NotEnoughGpus,
    PlacementError,
)
from rakka_sim.values import NodeAssignment

if TYPE_CHECKING:
    from rakka_sim.core.placing.book import NodeBook


def is_plain(demand: Demand) -> bool:
    """Whether a demand is a matter of counting: neither remote nor sliced, and no rule on neighbours or islands."""
    rules = demand.provider or demand.profile or demand.gil or demand.anti_affinity
    return not rules and demand.island == "prefer"


Kind = tuple[Any, ...]  # what a demand's offers depend on
Class = tuple[Any, ...]  # what a node's offers depend on


def kind_of(demand: Demand) -> Kind:
    """Demands of one kind get the same offers."""
    return (
        demand.gpus,
        demand.gpu_model,
        demand.min_gpu_memory_gib,
        demand.region,
        demand.message_bytes,
        demand.island,
    )


class Greedy:
    """The free GPUs of a cluster while many demands are placed. Changes no book."""

    def __init__(self, books: Iterable[NodeBook], policy: Policy) -> None:
        self._books = list(books)
        self._policy = policy
        self._rank = policy.rank or (lambda offer: ())
        self._free = [book.free_mask for book in self._books]
        self._names: dict[Any, Class] = {}
        self._classes: dict[Class, list[int]] = {}
        self._of: list[Class] = [()] * len(self._books)
        self._scores: dict[tuple[Kind, Class], Any] = {}
        self._demand: Demand | None = None  # one of the kind that the heap is for
        self._kind: Kind = ()
        self._heap: list[tuple[Any, int, Class]] = []
        for index in range(len(self._books)):
            self._enter(index, self._free[index])

    def place(self, demand: Demand) -> Plan | PlacementError:
        """Places for all replicas of a demand, or why there are none; in the latter case nothing has changed."""
        if kind_of(demand) != self._kind:
            self._kind, self._demand, self._heap = kind_of(demand), demand, []
            for name in self._classes:
                self._announce(name)
        apart = demand.spread == "require" or (demand.spread == "prefer" and self._policy.domains)
        in_domain: dict[str, int] = {}
        found: list[tuple[int, int]] = []
        for _ in range(demand.replicas):
            taken = self._take(demand, in_domain if apart else {})
            if isinstance(taken, PlacementError):
                for index, mask in reversed(found):
                    self._enter(index, self._free[index] | mask)
                return taken
            found.append(taken)
            if apart:
                domain = self._books[taken[0]].facts.failure_domain
                in_domain[domain] = in_domain.get(domain, 0) + 1
        shared = apart and len(in_domain) < demand.replicas
        degraded = (f"{demand.replicas} replicas share {len(in_domain)} failure domains",) if shared else ()
        places = enumerate((self._books[index].facts.name, gpus_of(mask)) for index, mask in found)
        return Plan(tuple(NodeAssignment(replica, node, gpus) for replica, (node, gpus) in places), degraded)

    def _take(self, demand: Demand, in_domain: dict[str, int]) -> tuple[int, int] | PlacementError:
        """The best node whose failure domain has fewest replicas so far, and the GPUs of it."""
        level = 0
        aside: list[int] = []  # nodes in failure domains that have more
        try:
            while True:
                index = self._best()
                if index is None:
                    if not aside:
                        return self._refused(demand)
                    if demand.spread == "require":
                        return NotEnoughDomains(demand.deployment, demand.replicas, sum(in_domain.values()))
                    self._back(aside)
                    level += 1
                elif in_domain and in_domain.get(self._books[index].facts.failure_domain, 0) > level:
                    heapq.heappop(self._classes[self._of[index]])
                    aside.append(index)
                else:
                    mask = self._mask(index, demand)
                    self._enter(index, self._free[index] & ~mask)
                    return index, mask
        finally:
            self._back(aside)

    def _back(self, aside: list[int]) -> None:
        for index in aside:
            self._enter(index, self._free[index])
        aside.clear()

    def _best(self) -> int | None:
        """The best node for the demand at hand; lowest of equals."""
        heap = self._heap
        while heap:
            _, index, name = heap[0]
            if self._lowest(name) == index:
                return index
            heapq.heappop(heap)
            self._announce(name)
        return None

    def _lowest(self, name: Class) -> int | None:
        """The lowest node of a class, if it has one."""
        nodes = self._classes[name]
        while nodes and self._of[nodes[0]] is not name:
            heapq.heappop(nodes)  # it has moved on
        return nodes[0] if nodes else None

    def _mask(self, index: int, demand: Demand) -> int:
        free = self._free[index]
        if self._policy.sets == "lowest":
            left = free
            for _ in range(demand.gpus):
                left &= left - 1
            return free & ~left
        best = self._books[index].table(demand).best(free, demand.gpus)
        if best is None:
            raise InvariantBroken("greedy placement", f"a node of {free.bit_count()} free GPUs offered {demand.gpus}")
        return best[2]

    # --- classes ----------------------------------------------------------------------------------------------------

    def _enter(self, index: int, free: int) -> None:
        """Put a node with so many GPUs free into its class."""
        self._free[index] = free
        facts = self._books[index].facts
        key = (facts.shape.key, facts.gpu_model, facts.memory_gib, facts.region, free)
        name = self._names.get(key)
        if name is None:
            name = self._name(index, key)
        self._of[index] = name
        nodes = self._classes.get(name)
        if nodes is None:
            nodes = self._classes[name] = []
        heapq.heappush(nodes, index)
        if nodes[0] == index:
            self._announce(name)

    def _name(self, index: int, key: Class) -> Class:
        """The class of a node: its kind, and what is free up to interchange. One object for equal classes."""
        state = self._books[index].state(self._free[index])
        found = (*key[:-1], state)
        name = self._names.setdefault(found, found)
        self._names[key] = name
        return name

    def _announce(self, name: Class) -> None:
        """Enter the lowest node of a class into the heap of the demand at hand, if the class can serve it."""
        lowest = self._lowest(name)
        if self._demand is None or lowest is None:
            return
        key = (self._kind, name)
        if key not in self._scores:
            self._scores[key] = self._score(lowest, self._demand)
        score = self._scores[key]
        if score is not None:
            heapq.heappush(self._heap, (score, lowest, name))

    def _score(self, index: int, demand: Demand) -> Any:
        """The rank of the offer that a node of the class would make; None if it would make none."""
        book, free = self._books[index], self._free[index]
        if free.bit_count() < demand.gpus or book.refusal(demand):
            return None
        place = Place()
        if self._policy.sets == "best":
            best = book.table(demand).best(free, demand.gpus)
            if best is None:
                return None
            cost, left, mask = best
            table = book.table(demand)
            place = Place(
                gpus_of(mask), None, cost, left, table.flexibility(free) - left, table.waste(free, demand.gpus)
            )
        facts = book.facts
        room, total = free.bit_count(), facts.shape.count
        return self._rank(Offer(0, facts.name, facts.failure_domain, facts.gpu_model, total, room, 0, 0, 0, place))

    def _refused(self, demand: Demand) -> PlacementError:
        """Why there is no place; what was free is said of one node of each class, not of thousands."""
        if not any(book.facts.shape.count for book in self._books):
            return NoGpuNodes()
        shown = [nodes[0] for name, nodes in self._classes.items() if self._lowest(name) is not None]
        reasons = [(self._books[index].facts.name, self._books[index].refusal(demand)) for index in shown]
        if all(reason for _, reason in reasons):
            return NoSuitableNodes(demand.deployment, reasons)
        able = (index for index, (_, reason) in zip(shown, reasons, strict=True) if not reason)
        had = tuple((self._books[index].facts.name, self._free[index].bit_count()) for index in able)
        return NotEnoughGpus(demand.gpus, demand.deployment, demand.replicas, had)
