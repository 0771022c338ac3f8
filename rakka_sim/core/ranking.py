"""Who ranks lowest among many replicas whose ranks change one at a time; what a rank means may not be here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush
from typing import Any


class Ranking:
    """The lowest of `items` by `rank`, without looking at them all: somebody says which has changed.

    Items are known by their place. Places of one rank are the bits of one integer, so the next one from a given place
    on is found in one go.
    """

    __slots__ = ("_heap", "_items", "_places", "_rank", "_ranks")

    def __init__(self, items: Sequence[Any], rank: Callable[[Any], Any]) -> None:
        self._items = items
        self._rank = rank
        self._ranks = [rank(item) for item in items]
        self._places: dict[Any, int] = {}  # rank -> who has it; every rank in the heap is here, perhaps with nobody
        for place, found in enumerate(self._ranks):
            self._places[found] = self._places.get(found, 0) | 1 << place
        self._heap = list(self._places)
        heapify(self._heap)

    def changed(self, place: int) -> None:
        """The item at that place may have another rank now."""
        old, new = self._ranks[place], self._rank(self._items[place])
        if new == old:
            return
        self._ranks[place] = new
        places = self._places
        places[old] &= ~(1 << place)
        if new in places:
            places[new] |= 1 << place
        else:
            places[new] = 1 << place
            heappush(self._heap, new)

    @property
    def lowest(self) -> Any:
        """The lowest rank that somebody has."""
        heap, places = self._heap, self._places
        while not places[heap[0]]:
            del places[heappop(heap)]
        return heap[0]

    def first(self, start: int) -> int:
        """Of those who have it, the first place from `start` on, going round."""
        who = self._places[self.lowest]
        ahead = who >> start
        return start + (ahead & -ahead).bit_length() - 1 if ahead else (who & -who).bit_length() - 1
