"""The paged KV cache: which blocks a request holds, which prefix it finds; no scheduling and no tensor may be here.

vLLM V1's rules. Free blocks queue up in the order they will be reused; a request gives its blocks back last one first,
so that the end of a sequence is forgotten before its beginning. A full block is found by its key from the moment its
tokens are scheduled until the block is reused. Of several blocks with one key, the first is found; a request keeps its
own nevertheless, so that block tables only ever grow.
"""

from __future__ import annotations

from collections.abc import Sequence

from rakka_sim.core.cached_span import CachedSpan
from rakka_sim.core.content import BlockKeys
from rakka_sim.core.free_queue import Block, FreeQueue
from rakka_sim.errors import InputError, InvariantBroken


class Table:
    """One request's blocks, in order, the first `cached` of which have their keys registered.

    `span` holds the last of them, if that lies in the last span of the content.
    """

    __slots__ = ("blocks", "cached", "keys", "span")

    def __init__(self, keys: BlockKeys, blocks: list[Block]) -> None:
        self.keys = keys
        self.blocks = blocks
        self.cached = len(blocks)
        self.span: CachedSpan | None = None

    def copy(self) -> Table:
        """One like it, whose span nobody knows."""
        made = Table(self.keys, self.blocks.copy())
        made.cached = self.cached
        return made


class KvCache:
    """Blocks 0 .. `num_blocks` - 1 of `block_size` tokens each."""

    __slots__ = ("_free", "_owner", "_sharers", "_spans", "_tables", "block_size", "num_blocks", "prefix_caching")

    def __init__(self, num_blocks: int, block_size: int = 16, prefix_caching: bool = True) -> None:
        for name, given in (("num_blocks", num_blocks), ("block_size", block_size)):
            if given < 1:
                raise InputError(name, given, "at least 1")
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.prefix_caching = prefix_caching
        self.reset()

    def reset(self) -> None:
        """Forget every table and every key: the memory behind the blocks is new."""
        self._free = FreeQueue(self.num_blocks)
        self._tables: dict[int, Table] = {}
        self._sharers: dict[int, int] = {}  # how many requests hold a block, where they are more than one
        self._owner: list[CachedSpan | None] = [None] * self.num_blocks  # block -> the span it was found in last
        self._spans: dict[int, CachedSpan] = {}  # by base

    # --- what there is ------------------------------------------------------------------------------------------

    @property
    def free_blocks(self) -> int:
        """Blocks that no request holds; their content may still be found."""
        return self._free.count

    @property
    def blocks_in_use(self) -> int:
        """Blocks that requests hold."""
        return self.num_blocks - self._free.count

    @property
    def usage(self) -> float:
        """Share of the blocks in use, 0..1."""
        return (self.num_blocks - self._free.count) / self.num_blocks

    def table(self, request_id: int) -> Sequence[int]:
        """The blocks of a request, in order; empty if it holds none."""
        table = self._tables.get(request_id)
        return table.blocks if table is not None else ()

    def next_free(self, count: int) -> list[int]:
        """The blocks that the next `count` allocations will take, in order."""
        return self._free.first(count)

    def lookup(self, keys: BlockKeys, tokens: int) -> list[Block]:
        """The blocks that hold the longest cached prefix of a sequence of `tokens`.

        Its last token is never among them: something must be left to compute.
        """
        hits: list[Block] = []
        if self.prefix_caching:
            spans = self._spans
            for base, first, start, stop in keys.pieces(0, (tokens - 1) // self.block_size):
                span = spans.get(base)
                if span is None:
                    break
                hits += span.find(start - first, stop - first)
                if len(hits) < stop:
                    break
        return hits

    def shortage(self, tokens: int, hits: Sequence[Block] = ()) -> int:
        """Blocks that are missing for a new table of `tokens` that starts with `hits`; none are if it is 0 or less."""
        # A hit that nobody holds counts as well: taking it takes it out of the free blocks.
        free = self._free
        return -(-tokens // self.block_size) - free.count - (len(free.held(hits)) if hits else 0)

    # --- taking and giving back ---------------------------------------------------------------------------------

    def allocate(self, request_id: int, keys: BlockKeys, tokens: int, hits: Sequence[Block] = ()) -> bool:
        """Start a table with `hits` (of `lookup`) and blocks for `tokens` in all; False if blocks are too few."""
        if self.shortage(tokens, hits) > 0:
            return False
        if request_id in self._tables:
            raise InvariantBroken("kv", f"request {request_id} has a table already")
        free, sharers = self._free, self._sharers
        for block in hits:
            if block in free:
                free.claim(block)
            else:
                sharers[block] = sharers.get(block, 1) + 1
        self._tables[request_id] = Table(keys, list(hits))
        return self.grow(request_id, tokens)

    def grow(self, request_id: int, tokens: int) -> bool:
        """Extend a table to `tokens` in all and register the blocks full by then; False if blocks are too few."""
        table = self._tables[request_id]
        blocks = table.blocks
        missing = -(-tokens // self.block_size) - len(blocks)
        if missing > 0:
            if missing > self._free.count:
                return False
            self._take(blocks, missing)
        full = tokens // self.block_size
        if full > table.cached:
            start, table.cached = table.cached, full
            if self.prefix_caching:
                self._register(table, start, full)
        return True

    def free(self, request_id: int) -> None:
        """Take a request's blocks back; their content may be found until they are reused."""
        table = self._tables.pop(request_id)
        released = table.blocks[::-1]
        if self._sharers and not self._sharers.keys().isdisjoint(released):
            released = [block for block in released if not self._still_held(block)]
        self._free.give(released)

    def _still_held(self, block: int) -> bool:
        """Whether others hold a block that one of its holders lets go."""
        holders = self._sharers.get(block)
        if holders is None:
            return False
        if holders == 2:
            del self._sharers[block]
        else:
            self._sharers[block] = holders - 1
        return True

    def deal(self, request_ids: Sequence[int], count: int) -> bool:
        """Extend tables by `count` blocks in all, one to each in turn, over and over; False if blocks are too few."""
        if count > self._free.count:
            return False
        taken: list[Block] = []
        self._take(taken, count)
        turns, tables = len(request_ids), self._tables
        if count <= turns:
            for request_id, block in zip(request_ids, taken, strict=False):
                tables[request_id].blocks.append(block)
        else:
            for turn, request_id in enumerate(request_ids):
                tables[request_id].blocks += taken[turn::turns]
        return True

    def fill(self, request_id: int, tokens: int) -> None:
        """Register the blocks of a table that `tokens` fill."""
        table, full = self._tables[request_id], tokens // self.block_size
        start = table.cached
        if full <= start:
            return
        table.cached = full
        if not self.prefix_caching:
            return
        span, keys = table.span, table.keys
        if span is not None and full == start + 1 and 0 < len(span.blocks) == start - keys.final:
            block = table.blocks[start]  # one more behind what was last registered: by far the commonest
            span.blocks.append(block)
            self._owner[block] = span
            return
        self._register(table, start, full)

    def _take(self, blocks: list[Block], count: int) -> None:
        """Move blocks from the head of the free queue; what they held is forgotten."""
        taken = self._free.take(count)
        blocks += taken
        if not self._spans:
            return
        owner, at = self._owner, 0
        while at < count:
            span = owner[taken[at]]
            if span is None or not span.blocks:
                at += 1
                continue
            at += span.forget(taken, at)
            if not span.blocks:
                del self._spans[span.base]

    def _register(self, table: Table, start: int, full: int) -> None:
        keys = table.keys
        if start >= keys.final:
            self._register_piece(table, keys.last, keys.final, start, full)
        else:
            for base, first, low, high in keys.pieces(start, full):
                self._register_piece(table, base, first, low, high)

    def _register_piece(self, table: Table, base: int, first: int, start: int, stop: int) -> None:
        span = self._spans.get(base)
        if span is None:
            span = self._spans[base] = CachedSpan(base, first)
        blocks = table.blocks[start:stop]
        span.add(start - first, blocks)
        table.span = span if base == table.keys.last else None
        owner = self._owner
        for block in blocks:
            owner[block] = span

    # --- invariants ---------------------------------------------------------------------------------------------

    def state(self) -> tuple[object, ...]:
        """All that the future depends on, comparable: tables, free queue in order, spans and their blocks in order."""
        tables = {request: (tuple(table.blocks), table.cached) for request, table in self._tables.items()}
        spans = {base: span.state() for base, span in self._spans.items()}
        return tables, self._free.first(len(self._free)), spans, self._sharers.copy()

    def check(self) -> None:
        """Raise InvariantBroken unless every block is free or held, and found by its key if it has one."""
        holders: dict[int, int] = {}
        for request_id, table in self._tables.items():
            if len(set(table.blocks)) != len(table.blocks):
                raise InvariantBroken("kv", f"request {request_id} holds a block twice: {table.blocks}")
            for block in table.blocks:
                holders[block] = holders.get(block, 0) + 1
        if {block: count for block, count in holders.items() if count > 1} != self._sharers:
            raise InvariantBroken("kv", f"blocks are shared as {holders}, counted as {self._sharers}")
        free = self._free.first(self.num_blocks)
        if len(free) != len(self._free) or sorted([*free, *holders]) != list(range(self.num_blocks)):
            raise InvariantBroken("kv", "a block is lost, or both free and held")
        found = [(block, span) for span in self._spans.values() for block in span.members()]
        twice = len({block for block, _ in found}) < len(found)
        if twice or any(self._owner[block] is not span for block, span in found):
            raise InvariantBroken("kv", "blocks and spans do not match")
        for span in self._spans.values():
            span.check()
