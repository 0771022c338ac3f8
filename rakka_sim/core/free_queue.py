"""The queue of free blocks, in the order of their reuse; what blocks hold is not known here."""

from __future__ import annotations

from collections import deque
from functools import lru_cache
from itertools import chain, islice
from typing import Any

# The number of a block, as the one object that all lists share. Only its type hides that it is an int: compiled, an int
# that is taken out of a list is put into the next one as an object of its own, four times the size of its place.
Block = Any


@lru_cache(maxsize=16)
def _numbers(blocks: int) -> list[Block]:
    """Block numbers from 0. Queues of one size share them: a number takes more room than its place in a queue."""
    return list(range(blocks))


class FreeQueue:
    """First freed, first taken; but a block may be claimed from the middle, because what it holds is wanted again.

    Blocks come and go by the hundred, so the queue is one of portions, as they were given: taking is slicing. A claimed
    block's entry stays where it is and is passed over later. Of a block's entries only the last can be valid. Nothing
    is noted about a block that is taken or given: which ones are in the queue is for the caller to know.
    """

    __slots__ = ("_at", "_entries", "_limit", "_portions", "_stale", "count")

    def __init__(self, blocks: int) -> None:
        self.count = blocks  # of free ones
        self._limit = 2 * blocks
        self._restock(_numbers(blocks))

    def _restock(self, blocks: list[Block]) -> None:
        self._portions: deque[list[Block]] = deque([blocks])
        self._at = 0  # how much of the first portion is gone
        self._entries = len(blocks)
        self._stale: dict[int, int] = {}  # how many entries of a block are to be passed over

    def __len__(self) -> int:
        return self.count

    def take(self, count: int) -> list[Block]:
        """Remove and return the first `count` blocks; there must be as many."""
        taken = self._next(count)
        self.count -= count
        if self._stale:
            taken = self._valid(taken)
            while len(taken) < count:
                taken += self._valid(self._next(count - len(taken)))
        return taken

    def _next(self, count: int) -> list[Block]:
        self._entries -= count
        portions, at = self._portions, self._at
        if not portions:  # as long as nothing is wanted
            return []
        first, end = portions[0], at + count
        if end < len(first):  # by far the commonest
            self._at = end
            return first[at:end]
        found: list[Block] = []
        while count > 0:
            first = portions[0]
            end = at + count
            found += first[at:end]
            if end < len(first):
                self._at = end
                break
            count = end - len(first)
            portions.popleft()
            self._at = at = 0
        return found

    def _valid(self, blocks: list[Block]) -> list[Block]:
        stale = self._stale
        if stale.keys().isdisjoint(blocks):
            return blocks
        return [block for block in blocks if block not in stale or not _count_down(stale, block)]

    def claim(self, block: Block) -> None:
        """Remove a free block, wherever it stands."""
        self.count -= 1
        self._stale[block] = self._stale.get(block, 0) + 1

    def give(self, blocks: list[Block]) -> None:
        """Append blocks. The list is kept and may not be changed later."""
        if blocks:
            self.count += len(blocks)
            self._portions.append(blocks)
            self._entries += len(blocks)
            if self._entries > self._limit:
                self._restock(self.first(len(self)))

    def first(self, count: int) -> list[Block]:
        """The blocks that `take` would return."""
        found: list[Block] = []
        stale = self._stale.copy()
        for block in islice(chain.from_iterable(self._portions), self._at, None):
            if len(found) == count:
                break
            elif block not in stale or not _count_down(stale, block):
                found.append(block)
        return found


def _count_down(counts: dict[int, int], key: int) -> bool:
    if counts[key] == 1:
        del counts[key]
    else:
        counts[key] -= 1
    return True
