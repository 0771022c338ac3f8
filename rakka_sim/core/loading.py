"""Replicas that load their weights: what is read, what is copied to GPUs, what nodes have in memory. No clock here.

Weights are read into a node's memory once for all who want them there: engines map the files, so that one read fills
the page cache for every rank and every replica of the node. Copying to the GPUs goes on meanwhile: a replica has its
weights when its files are in memory and its copies are over, the later of the two. That is the least it can take; it is
short of the truth by at most one copy, since what is read last is copied last. Memory is taken to be large enough:
nothing is evicted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

from rakka_sim.errors import InvariantBroken
from rakka_sim.hardware.transfers import Moving, Transfers

if TYPE_CHECKING:
    from rakka_sim.hardware.routes import Way, Weights

K = TypeVar("K")


class Reading:
    """Files on their way into a node's memory, or there: `left` bytes are not there yet, as of the last look."""

    __slots__ = ("left", "moving", "wanted")

    def __init__(self, size: float) -> None:
        self.left = size
        self.moving: Moving | None = None
        self.wanted: dict[Any, None] = {}  # by these loads


class Load:
    """What one replica still waits for."""

    __slots__ = ("copies", "reading")

    def __init__(self, reading: Reading, copies: list[Moving]) -> None:
        self.reading = reading
        self.copies = dict.fromkeys(copies)

    @property
    def done(self) -> bool:
        return not self.copies and self.reading.left == 0


class Loading(Generic[K]):
    """All loads of a cluster, each by a hashable key of its owner's."""

    def __init__(self) -> None:
        self._transfers = Transfers()
        self._memory: dict[tuple[str, str], Reading] = {}  # by node and files
        self._loads: dict[K, Load] = {}
        self._owner: dict[Moving, Reading | K] = {}
        self._fresh: dict[K, None] = {}  # begun since the last look: there may be nothing to wait for

    @property
    def under_way(self) -> tuple[K, ...]:
        """The keys of all loads that have not ended, oldest first."""
        return tuple(self._loads)

    def start(self, now: float, key: K, weights: Weights) -> None:
        """Begin to load; an earlier load of this key is given up. Raises InputError for links that cannot be used."""
        for way in (weights.read, *(way for way, _ in weights.copies)):
            for link in way:
                self._transfers.know(link)
            self._transfers.refuse(_names(way), weights.size)
        self.cancel(now, key)
        reading = self._reading(now, weights)
        reading.wanted[key] = None
        copies = [self._transfers.start(now, _names(way), size) for way, size in weights.copies]
        self._owner.update(dict.fromkeys(copies, key))
        self._loads[key] = Load(reading, copies)
        self._fresh[key] = None

    def cancel(self, now: float, key: K) -> None:
        """Give up a load, if it has not ended. A read that nobody else wants stops; what is in memory stays there."""
        load = self._loads.pop(key, None)
        if load is None:
            return
        for copy in load.copies:
            self._transfers.cancel(now, copy)
            self._owner.pop(copy, None)
        reading = load.reading
        del reading.wanted[key]
        if reading.moving is not None and not reading.wanted:
            self._transfers.cancel(now, reading.moving)
            self._owner.pop(reading.moving, None)
            reading.left, reading.moving = reading.moving.left, None

    def forget(self, node: str) -> None:
        """The node's memory is empty: who comes next reads again. Loads under way are not touched."""
        for place in [place for place in self._memory if place[0] == node]:
            del self._memory[place]

    def next_end(self) -> float | None:
        """When (s) something arrives next if nothing else happens."""
        return self._transfers.next_end()

    def advance(self, now: float) -> list[K]:
        """The keys of the loads that have ended by `now` (s) and were not told of yet."""
        touched, self._fresh = {key: None for key in self._fresh if key in self._loads}, {}
        for moving in self._transfers.advance(now):
            owner = self._owner.pop(moving, None)
            if isinstance(owner, Reading):
                owner.left, owner.moving = 0.0, None
                touched.update(owner.wanted)
            elif owner in self._loads:
                del self._loads[owner].copies[moving]
                touched[owner] = None
        ended = [key for key in touched if self._loads[key].done]
        for key in ended:
            del self._loads.pop(key).reading.wanted[key]
        return ended

    def check(self) -> None:
        """Raise InvariantBroken if something moves that nobody waits for, or somebody waits for what does not move."""
        self._transfers.check()
        if any(moving not in self._owner for moving in self._transfers.active):
            raise InvariantBroken("loading", "a transfer is under way that nobody waits for")
        for key, load in self._loads.items():
            if key not in load.reading.wanted:
                raise InvariantBroken("loading", f"{key} waits for a read that does not know it")
            if load.reading.left and load.reading.moving is None:
                raise InvariantBroken("loading", f"{key} waits for a read that stands still")

    def _reading(self, now: float, weights: Weights) -> Reading:
        """The read of these files, begun if need be."""
        place = weights.node, weights.files
        reading = self._memory.get(place) if weights.kept else None
        if reading is None:
            reading = Reading(weights.size)
            if weights.kept:
                self._memory[place] = reading
        if reading.left and reading.moving is None:
            reading.moving = self._transfers.start(now, _names(weights.read), reading.left)
            self._owner[reading.moving] = reading
        return reading


def _names(way: Way) -> tuple[str, ...]:
    return tuple(link.name for link in way)
