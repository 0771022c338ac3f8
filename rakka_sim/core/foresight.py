"""Queues and a cache as they will be, while those that they are views of stay as they are; no policy is here.

Each begins as its original stands and goes its own way from there, by the very rules of its kind. It is good as long as
the original does not change, costs what its original holds now (a list copied, not a step of work), and is thrown away.
"""

from __future__ import annotations

from collections.abc import Collection

from rakka_sim.core.content import BlockKeys
from rakka_sim.core.free_queue import Block, FreeQueue
from rakka_sim.core.kv import KvCache
from rakka_sim.core.lanes import Table
from rakka_sim.core.sequence import Sequence
from rakka_sim.core.waiting import WaitingQueue


class WaitingAhead(WaitingQueue):
    """Whoever comes to the head of it is a copy, to be seated or not."""

    __slots__ = ("_rest",)

    def __init__(self, now: WaitingQueue) -> None:
        super().__init__()
        self._rest = iter(now)
        self.count = now.count
        self._call()

    def _call(self) -> None:
        """One more of those who wait now; there is always one here, or none is left."""
        seq = next(self._rest, None)
        if seq is not None:
            self.push(seq.copy())
            self.count -= 1  # it was counted before

    def remove(self, seq: Sequence) -> None:
        super().remove(seq)
        self._call()


class FreeAhead(FreeQueue):
    """Blocks taken from it, claimed and given back are known here alone."""

    __slots__ = ("_given", "_taken")

    def __init__(self, now: FreeQueue) -> None:
        self._given: set[int] = set()  # since then; perhaps taken again
        self._taken: set[int] = set()  # since then, and not given back
        self.count, self._limit = now.count, now._limit
        self._portions, self._at, self._entries = now._portions.copy(), now._at, now._entries
        self._stale = now._stale.copy()

    def was_taken(self, block: int) -> bool | None:
        """Whether this block is taken: None if that is as it was."""
        if block in self._taken:
            return True
        return False if block in self._given else None

    def take(self, count: int) -> list[Block]:
        taken = super().take(count)
        self._taken.update(taken)
        return taken

    def claim(self, block: Block) -> None:
        super().claim(block)
        self._taken.add(block)

    def give(self, blocks: list[Block]) -> None:
        super().give(blocks)
        self._taken.difference_update(blocks)
        self._given.update(blocks)


class KvAhead(KvCache):
    """Tables are copies; keys are those of now, less those of blocks that are reused, and those registered since."""

    __slots__ = ("_found", "_free_ahead", "_keyed", "_lost", "_now")

    def __init__(self, now: KvCache) -> None:
        self._now = now
        super().__init__(now.num_blocks, now.block_size, now.prefix_caching)

    def reset(self) -> None:
        """As it is now."""
        now = self._now
        now.settle()
        self._free = self._free_ahead = FreeAhead(now._free)
        self._tables = {request_id: table.copy() for request_id, table in now._tables.items()}
        self._lanes = now._lanes.copy([(table, self._tables[request]) for request, table in now._tables.items()])
        self._sharers = now._sharers.copy()
        self._owner, self._spans = [], now._spans  # only to look into
        self._lost: set[int] = set()  # blocks that hold nothing of now any more
        self._found: dict[tuple[int, int], list[Block]] = {}  # (base, block of the content) -> registered since
        self._keyed: dict[int, tuple[int, int]] = {}  # the same by block

    def lookup(self, keys: BlockKeys, tokens: int) -> list[Block]:
        for base, *_ in keys.pieces(0, (tokens - 1) // self.block_size):
            if base in self._lanes.by_base:
                self._catch_up(base)
        hits = super().lookup(keys, tokens)
        if not self._found and self._lost.isdisjoint(hits):
            return hits
        sound = next((place for place, block in enumerate(hits) if block in self._lost), len(hits))
        del hits[sound:]
        for base, first, start, stop in keys.pieces(sound, (tokens - 1) // self.block_size):
            for place in range(start, stop):
                candidates = self._holders(base, first, place)
                if not candidates:
                    return hits
                hits.append(candidates[0])
        return hits

    def _holders(self, base: int, first: int, place: int) -> list[Block]:
        """The blocks with that key, in the order in which they are found."""
        span = self._spans.get(base)
        known = span.holders(place - first) if span is not None else []
        return [block for block in known if block not in self._lost] + self._found.get((base, place), [])

    def _held_together(self, hits: Collection[Block]) -> int:
        return 0  # whose blocks they will be is known of each alone

    def _is_held(self, block: Block, number: int) -> bool:
        taken = self._free_ahead.was_taken(block)
        if taken is None:  # whose key has been registered since is held by whoever did so
            return block in self._keyed or self._now._is_held(block, number)
        return taken

    def _note(self, table: Table, base: int) -> None:
        """Spans are those of now, and no table of now is in them."""

    def _take(self, count: int) -> list[Block]:
        taken = self._free.take(count)
        self._lost.update(taken)
        for block in taken if self._keyed else ():
            if (key := self._keyed.pop(block, None)) is not None:
                self._found[key].remove(block)
        return taken

    def _register_piece(self, table: Table, base: int, first: int, start: int, stop: int) -> None:
        for place, block in enumerate(table.blocks[start:stop], start):
            self._found.setdefault((base, place), []).append(block)
            self._keyed[block] = (base, place)
