"""The queue of free blocks, in the order of their reuse; what blocks hold is not known here."""

from __future__ import annotations

from collections import deque


class FreeQueue:
    """First freed, first taken; but a block may be claimed from the middle, because what it holds is wanted again.

    A claimed block's entry stays in the queue and is passed over later: its blocks come and go by the million, and a
    deque does that six times as fast as an OrderedDict. Of a block's entries only the last can be valid.
    """

    __slots__ = ("_entries", "_free", "_limit", "_stale")

    def __init__(self, blocks: int) -> None:
        self._entries = deque(range(blocks))
        self._free = set(range(blocks))
        self._stale: dict[int, int] = {}  # how many entries of a block are to be passed over
        self._limit = 2 * blocks

    def __len__(self) -> int:
        return len(self._free)

    def __contains__(self, block: int) -> bool:
        return block in self._free

    def take(self, count: int) -> list[int]:
        """Remove and return the first `count` blocks; there must be as many."""
        entries, stale = self._entries, self._stale
        if not stale:
            taken = [entries.popleft() for _ in range(count)]
        else:
            taken = []
            while len(taken) < count:
                block = entries.popleft()
                if block in stale:
                    _count_down(stale, block)
                else:
                    taken.append(block)
        self._free.difference_update(taken)
        return taken

    def claim(self, block: int) -> None:
        """Remove a free block, wherever it stands."""
        self._free.remove(block)
        self._stale[block] = self._stale.get(block, 0) + 1

    def give(self, blocks: list[int]) -> None:
        """Append blocks."""
        self._entries.extend(blocks)
        self._free.update(blocks)
        if len(self._entries) > self._limit:
            self._entries = deque(self.first(len(self._free)))
            self._stale = {}

    def first(self, count: int) -> list[int]:
        """The blocks that `take` would return."""
        found: list[int] = []
        stale = self._stale.copy()
        for block in self._entries:
            if len(found) == count:
                break
            if block in stale:
                _count_down(stale, block)
            else:
                found.append(block)
        return found


def _count_down(counts: dict[int, int], key: int) -> None:
    if counts[key] == 1:
        del counts[key]
    else:
        counts[key] -= 1
