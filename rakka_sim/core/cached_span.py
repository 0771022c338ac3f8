"""The blocks that hold one span of some content, by their place in it; the queue of free ones is not known here."""

from __future__ import annotations

from collections.abc import Sequence

from rakka_sim.core.free_queue import Block
from rakka_sim.errors import InvariantBroken


class CachedSpan:
    """Block `first + n` of the span is found in `blocks[n]`, None where it is cached no more; the last one is not None.

    Of several blocks with one place the oldest is found, and the next one when that has gone. `tables` are the block
    tables of all requests that have registered blocks here, or found some.
    """

    __slots__ = ("_others", "base", "blocks", "first", "tables")

    def __init__(self, base: int, first: int) -> None:
        self.base = base
        self.first = first
        self.blocks: list[int | None] = []
        self._others: dict[int, list[Block]] = {}  # place -> further blocks, where there are any
        self.tables: tuple[list[Block], ...] = ()

    def find(self, start: int, stop: int) -> list[Block]:
        """The blocks from `start` on, as far as they are there without a gap."""
        found = self.blocks[start:stop]
        if None in found:
            del found[found.index(None) :]
        return found

    def is_held(self, block: Block, number: int) -> bool:
        """Whether a request holds this block, which is found here, as number so-and-so of its content."""
        return any(number < len(table) and table[number] == block for table in self.tables)

    def is_beginning_held(self, hits: Sequence[Block], count: int) -> bool:
        """Whether one request holds the first `count` of these, the last of which is found here."""
        last, block = count - 1, hits[count - 1]
        for table in self.tables:
            if last < len(table) and table[last] == block and table[:count] == hits[:count]:
                return True
        return False

    def holders(self, place: int) -> list[Block]:
        """All blocks of one place, in the order in which they are found."""
        known = self.blocks[place] if place < len(self.blocks) else None
        return [] if known is None else [known, *self._others.get(place, [])]

    def add(self, start: int, blocks: list[Block]) -> None:
        """These hold the places from `start` on."""
        known = self.blocks
        if start == len(known):
            known += blocks
            return
        if start + len(blocks) > len(known):
            known += [None] * (start + len(blocks) - len(known))
        for place, block in enumerate(blocks, start):
            if known[place] is None:
                known[place] = block
            else:
                self._others.setdefault(place, []).append(block)

    def forget(self, blocks: list[int], at: int) -> int:
        """`blocks[at]` is given to something else, and perhaps some that follow; how many of them were looked at."""
        known = self.blocks
        if not self._others:
            # A sequence is forgotten from its end. The whole of it, else as much as is taken, else one block.
            count = min(len(known), len(blocks) - at)
            if known[-1] == blocks[at] and known[-count:] == blocks[at : at + count][::-1]:
                del known[-count:]
                self._trim()
                return count
        self._forget_one(blocks[at])
        self._trim()
        return 1

    def _forget_one(self, block: int) -> None:
        known = self.blocks
        if known[-1] == block and not self._others:
            known.pop()
        elif block in known:
            place = known.index(block)
            others = self._others.get(place)
            known[place] = others.pop(0) if others else None
            if others == []:
                del self._others[place]
        else:  # a further one, or one that has left this span already
            place = next((place for place, others in self._others.items() if block in others), -1)
            if place >= 0:
                self._others[place].remove(block)
                if not self._others[place]:
                    del self._others[place]

    def _trim(self) -> None:
        known = self.blocks
        while known and known[-1] is None:
            known.pop()

    def members(self) -> list[Block]:
        """Every block of the span."""
        return [block for block in self.blocks if block is not None] + [
            block for others in self._others.values() for block in others
        ]

    def state(self) -> tuple[object, ...]:
        """All that the future depends on, comparable."""
        return self.first, tuple(self.blocks), {place: tuple(others) for place, others in self._others.items()}

    def check(self) -> None:
        """Raise InvariantBroken unless it ends in a block, and further blocks are where there is a first one."""
        if not self.blocks or self.blocks[-1] is None or not all(self._others.values()):
            raise InvariantBroken("kv", f"a cached span is {self.state()}")
        if any(self.blocks[place] is None for place in self._others):
            raise InvariantBroken("kv", f"further blocks without a first one: {self.state()}")


def held_together(hits: Sequence[Block], owner: list[CachedSpan | None]) -> int:
    """How many hits, from the first on, one request surely holds all of: nearly always all that are held.

    `owner` says of each block in which span it is found.
    """
    count = len(hits)
    while count:
        span = owner[hits[count - 1]]
        if span is None:
            return 0
        if span.is_beginning_held(hits, count):
            break
        count = min(span.first, count - 1)
    return count
