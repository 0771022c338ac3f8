"""Where a replica goes that no single node can take: over nodes of one fabric, never of two. Nothing is taken here.

Of the ways there are, the one over fewest nodes (each is one more that must not fail), then the one whose collective is
cheapest, then the one that costs least flexibility, as inside a node: it leaves most of the sets of usual sizes that
single nodes could still take. Their number grows faster than what is free on a node, so nodes that are partly taken are
used up before whole ones are broken into, and what is left over is left on one node.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import comb

from rakka_sim.core.placing.sets import SIZES, fragmentation
from rakka_sim.core.placing.shapes import Fabric
from rakka_sim.core.placing.terms import Demand, Place, Spare
from rakka_sim.values import NodeAssignment


@dataclass(frozen=True, slots=True)
class Room:
    """What one node of a fabric can give: `joined` as in `Spare.gpus`, of `free` free GPUs and `total` in all.

    `level`: how many replicas of the deployment its failure domain has already.
    """

    index: int
    total: int
    free: int
    joined: tuple[tuple[float, int], ...]
    level: int = 0


@dataclass(frozen=True, slots=True)
class Span:
    """GPUs of several nodes, by the nodes' indices; costs as in `Place`, over all of them."""

    parts: tuple[tuple[int, tuple[int, ...]], ...]
    cost_s: float
    flexibility: int
    loss: int
    waste: float


def gpu_count(assignment: NodeAssignment) -> int:
    """The GPUs of a replica on all of its nodes, each counted once."""
    return len({(node, gpu) for node, gpus in assignment.parts for gpu in gpus})


def spare_of(fabric: Fabric | None, demand: Demand, free: Iterable[int], places: Iterable[Place]) -> Spare | None:
    """What a node could give of its free GPUs when all of these places are taken; None where nothing joins it."""
    if fabric is None or demand.gpus < 2:
        return None
    costs = ((fabric.cost(gpu, demand.gpus, demand.message_bytes), gpu) for gpu in free)
    joined = [(cost, gpu) for cost, gpu in costs if cost is not None]
    taken = {gpu for place in places for gpu in place.gpus}
    return Spare(fabric.name, len(joined), tuple((cost, gpu) for cost, gpu in joined if gpu not in taken))


def seen_from(assignment: NodeAssignment, node: str) -> NodeAssignment:
    """The same replica with its part on `node` first: what that node has to know of it."""
    if node == assignment.node:
        return assignment
    own = next(part for part in assignment.parts if part[0] == node)
    others = tuple(part for part in assignment.parts if part is not own)
    return NodeAssignment(assignment.replica_index, *own, assignment.slice, others)


def span(rooms: Sequence[Room], gpus: int, apart: bool = True) -> Span | None:
    """The best `gpus` GPUs of these nodes of one fabric, in order of their index; None if they are not there.

    `apart`: before all else, only nodes in failure domains that have as few replicas of the deployment as can be.
    """
    for level in sorted({room.level for room in rooms}) if apart else (None,):
        able = [room for room in rooms if level is None or room.level <= level]
        most = sorted((len(room.joined) for room in able), reverse=True)
        if sum(most) >= gpus:
            nodes = next(count for count in range(1, len(most) + 1) if sum(most[:count]) >= gpus)
            return _cheapest(able, gpus, nodes)
    return None


def _cheapest(rooms: Sequence[Room], gpus: int, nodes: int) -> Span | None:
    """Over so many nodes: no GPU that is joined worse than there is need for."""
    for cost in sorted({cost for room in rooms for cost, _ in room.joined}):
        most = [sum(1 for other, _ in room.joined if other <= cost) for room in rooms]
        if sum(sorted(most, reverse=True)[:nodes]) >= gpus:
            shares = _shares(rooms, most, gpus, nodes)
            return _made([(room, shares[room.index]) for room in rooms if room.index in shares], cost)
    return None


def _shares(rooms: Sequence[Room], most: Sequence[int], gpus: int, nodes: int) -> dict[int, int]:
    """How many GPUs of which of the nodes, by index, lose least flexibility; the lowest indices win ties.

    `nodes` is the fewest that can do, so few ways are left open: at every node, only those that can still be completed.
    """
    # Of so many nodes and GPUs: the loss, and the shares as (index, -GPUs).
    best: dict[tuple[int, int], tuple[int, tuple[tuple[int, int], ...]]] = {(0, 0): (0, ())}
    for at, room in enumerate(rooms):
        after = sorted(most[at + 1 :], reverse=True)
        longer = dict(best)
        for (used, had), (lost, shares) in best.items():
            if used == nodes:
                continue
            for take in range(1, min(most[at], gpus - had) + 1):
                key, found = (used + 1, had + take), (lost + _loss(room, take), (*shares, (room.index, -take)))
                if key not in longer or found < longer[key]:
                    longer[key] = found
        best = {key: found for key, found in longer.items() if key[1] + sum(after[: nodes - key[0]]) >= gpus}
    return {index: -take for index, take in best[nodes, gpus][1]}


def _made(shares: Sequence[tuple[Room, int]], cost: float) -> Span:
    """The GPUs themselves: of a node's that are good enough, those that are joined worst, then the lowest."""
    parts, flexibility, loss, waste = [], 0, 0, 0.0
    for room, take in shares:
        able = sorted((-own, gpu) for own, gpu in room.joined if own <= cost)
        parts.append((room.index, tuple(sorted(gpu for _, gpu in able[:take]))))
        sizes = tuple(size for size in SIZES if size <= room.total)
        flexibility += _sets(room, room.free - take)
        loss += _loss(room, take)
        waste += fragmentation(room.free - take, sizes) - fragmentation(room.free, sizes)
    return Span(tuple(parts), cost, flexibility, loss, waste)


def _loss(room: Room, take: int) -> int:
    return _sets(room, room.free) - _sets(room, room.free - take)


def _sets(room: Room, free: int) -> int:
    """Sets of a usual size among so many free GPUs of a node, all of which its fabric joins alike."""
    return sum(comb(free, size) for size in SIZES if size <= room.total)
