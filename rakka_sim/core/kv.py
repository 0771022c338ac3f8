"""The paged KV cache: which blocks a request holds, which prefix it finds; no scheduling and no tensor may be here.

vLLM V1's rules. Free blocks queue up in the order they will be reused; a request gives its blocks back last one first,
so that the end of a sequence is forgotten before its beginning. A full block is found by its key from the moment its
tokens are scheduled until the block is reused. Of several blocks with one key, the first is found; a request keeps its
own nevertheless, so that block tables only ever grow.

Who decodes takes and fills blocks in lanes (`core.lanes`), and nothing is done about each one: a table is written when
somebody looks at it, and keys are registered when their request leaves, or before whoever could find them looks.
"""

from __future__ import annotations

from collections.abc import Sequence

from rakka_sim.core.cached_span import CachedSpan, held_together
from rakka_sim.core.content import BlockKeys
from rakka_sim.core.free_queue import Block, FreeQueue
from rakka_sim.core.lanes import Lanes, Table
from rakka_sim.errors import InputError, InvariantBroken


class KvCache:
    """Blocks 0 .. `num_blocks` - 1 of `block_size` tokens each."""

    __slots__ = (
        "_free",
        "_lanes",
        "_owner",
        "_sharers",
        "_spans",
        "_tables",
        "block_size",
        "num_blocks",
        "prefix_caching",
    )

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
        self._lanes = Lanes(self.block_size)
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
        if table is None:
            return ()
        if table.lane >= 0:
            self._lanes.deal(table.lane)
        return table.blocks

    def blocks_of(self, request_id: int) -> int:
        """How many blocks a request holds."""
        table = self._tables.get(request_id)
        return len(self._lanes.blocks_of(table)) if table is not None else 0

    def next_free(self, count: int) -> list[int]:
        """The blocks that the next `count` allocations will take, in order."""
        return self._free.first(count)

    def lookup(self, keys: BlockKeys, tokens: int) -> list[Block]:
        """The blocks that hold the longest cached prefix of a sequence of `tokens`.

        Its last token is never among them: something must be left to compute.
        """
        hits: list[Block] = []
        if self.prefix_caching:
            spans, growing = self._spans, self._lanes.by_base
            for base, first, start, stop in keys.pieces(0, (tokens - 1) // self.block_size):
                if base in growing:
                    self._catch_up(base)
                span = spans.get(base)
                if span is None:
                    break
                hits += span.find(start - first, stop - first)
                if len(hits) < stop:
                    break
        return hits

    def shortage(self, tokens: int, hits: Sequence[Block] = ()) -> int:
        """Blocks that are missing for a new table of `tokens` that starts with `hits`; none are if it is 0 or less."""
        # A hit that nobody holds is missing as well: taking it takes it out of the free blocks.
        missing = -(-tokens // self.block_size) - self._free.count
        if hits:
            held = self._held_together(hits)
            missing -= held
            for number in range(held, len(hits)):
                missing -= self._is_held(hits[number], number)
        return missing

    def _held_together(self, hits: Sequence[Block]) -> int:
        return held_together(hits, self._owner)

    def _is_held(self, block: Block, number: int) -> bool:
        """Whether a request holds a block that is found as number so-and-so of a content."""
        span = self._owner[block]
        return span is not None and span.is_held(block, number)

    # --- taking and giving back ---------------------------------------------------------------------------------

    def allocate(self, request_id: int, keys: BlockKeys, tokens: int, hits: Sequence[Block] = ()) -> bool:
        """Start a table with `hits` (of `lookup`) and blocks for `tokens` in all; False if blocks are too few."""
        if self.shortage(tokens, hits) > 0:
            return False
        if request_id in self._tables:
            raise InvariantBroken("kv", f"request {request_id} has a table already")
        table = self._tables[request_id] = Table(keys, list(hits))
        if hits:
            self._use(table)
        return self.grow(request_id, tokens)

    def _use(self, table: Table) -> None:
        """All that a table has so far has been found."""
        free, sharers = self._free, self._sharers
        held = self._held_together(table.blocks)
        for number, block in enumerate(table.blocks):
            if number < held or self._is_held(block, number):
                sharers[block] = sharers.get(block, 1) + 1
            else:
                free.claim(block)
        for base, *_ in table.keys.pieces(0, len(table.blocks)):
            self._note(table, base)

    def _note(self, table: Table, base: int) -> None:
        """Some of a table's blocks can be found in a span."""
        span = self._spans[base]
        span.tables += (table.blocks,)
        table.spans.append(span)

    def grow(self, request_id: int, tokens: int) -> bool:
        """Extend a table to `tokens` in all and register the blocks full by then; False if blocks are too few."""
        table = self._tables[request_id]
        blocks = table.blocks
        missing = -(-tokens // self.block_size) - len(blocks)
        if missing > 0:
            if missing > self._free.count:
                return False
            blocks += self._take(missing)
        full = tokens // self.block_size
        if full > table.cached:
            start, table.cached = table.cached, full
            if self.prefix_caching:
                self._register(table, start, full)
        return True

    def free(self, request_id: int) -> None:
        """Take a request's blocks back; their content may be found until they are reused."""
        table = self._tables.pop(request_id)
        for span in table.spans:
            span.tables = tuple([blocks for blocks in span.tables if blocks is not table.blocks])
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

    # --- who decodes --------------------------------------------------------------------------------------------

    def join(self, request_id: int, tokens: int, place: tuple[int, int]) -> None:
        """A table that holds all of its content, and `tokens` in all, grows by one with each `step` from now on.

        `place`: in the order of those who do.
        """
        self._lanes.join(self._tables[request_id], tokens, place)

    def leave(self, request_id: int) -> None:
        """It does so no more."""
        lanes, table = self._lanes, self._tables[request_id]
        if lanes.has_twin(table):
            self._catch_up(table.keys.last)
        lanes.leave(table)
        full = lanes.full(table)
        if full > table.cached:
            self._fill(table, full)

    def step(self, steps: int) -> bool:
        """Extend all tables that have joined by one token `steps` times; False, and nothing is done, if blocks are too
        few."""
        count = self._lanes.needed(steps)
        if count > self._free.count:
            return False
        self._lanes.step(steps, self._take(count) if count else [])
        return True

    def crossings(self) -> list[int]:
        """How many of them take a block at each step of a cycle, from the next step on."""
        return self._lanes.crossings()

    def settle(self) -> None:
        """Do what has been put off: write down all tables and register all that is full."""
        for base in self._lanes.by_base:
            self._catch_up(base)
        for lane in range(self.block_size):
            self._lanes.deal(lane)

    def _catch_up(self, base: int) -> None:
        """Register what those have filled whose last span has this base, in the order in which they filled it."""
        lanes, size = self._lanes, self.block_size
        tables = lanes.by_base[base]
        if len(tables) == 1:
            table, full = tables[0], lanes.full(tables[0])
            if full > table.cached:
                lanes.deal(table.lane)
                self._fill(table, full)
            return
        filled: list[tuple[int, tuple[int, int], int]] = []
        for turn, table in enumerate(tables):
            lanes.deal(table.lane)
            blocks = range(table.cached + 1, lanes.full(table) + 1)
            filled += [(block * size - table.lead, table.place, turn) for block in blocks]
        for _, _, turn in sorted(filled):
            self._fill(tables[turn], tables[turn].cached + 1)

    def _fill(self, table: Table, full: int) -> None:
        """Register the blocks of a table up to `full`, all in its last span."""
        start, table.cached = table.cached, full
        if self.prefix_caching:
            self._register_piece(table, table.keys.last, table.keys.final, start, full)

    def _take(self, count: int) -> list[Block]:
        """Blocks from the head of the free queue; what they held is forgotten."""
        taken = self._free.take(count)
        owner, at = self._owner, 0 if self._spans else count
        while at < count:
            span = owner[taken[at]]
            if span is None or not span.blocks:
                at += 1
                continue
            at += span.forget(taken, at)
            if not span.blocks:
                del self._spans[span.base]
        return taken

    def _register(self, table: Table, start: int, full: int) -> None:
        keys, growing = table.keys, self._lanes.by_base
        one = start >= keys.final  # by far the commonest
        for base, first, low, high in [(keys.last, keys.final, start, full)] if one else keys.pieces(start, full):
            if base in growing:
                self._catch_up(base)
            self._register_piece(table, base, first, low, high)

    def _register_piece(self, table: Table, base: int, first: int, start: int, stop: int) -> None:
        span = self._spans.get(base)
        if span is None:
            span = self._spans[base] = CachedSpan(base, first)
        if not table.spans or table.spans[-1] is not span:
            self._note(table, base)
        blocks = table.blocks[start:stop]
        span.add(start - first, blocks)
        owner = self._owner
        for block in blocks:
            owner[block] = span

    # --- invariants ---------------------------------------------------------------------------------------------

    def state(self) -> tuple[object, ...]:
        """All that the future depends on, comparable: tables, free queue in order, spans and their blocks in order."""
        self.settle()
        tables = {request: (tuple(self.table(request)), table.cached) for request, table in self._tables.items()}
        spans = {base: span.state() for base, span in self._spans.items()}
        return tables, self._free.first(len(self._free)), spans, self._sharers.copy()

    def check(self) -> None:
        """Raise InvariantBroken unless every block is free or held, and found by its key if it has one."""
        self._lanes.check([*self._tables.values()])
        holders: dict[int, int] = {}
        for request_id, table in self._tables.items():
            blocks = self._lanes.blocks_of(table)
            if len(set(blocks)) != len(blocks):
                raise InvariantBroken("kv", f"request {request_id} holds a block twice: {blocks}")
            for block in blocks:
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
            for number, block in enumerate(span.blocks, span.first):
                if block is not None and self._is_held(block, number) != (block in holders):
                    raise InvariantBroken("kv", f"it is not known whether block {block} is held")
            tables = [id(table.blocks) for table in self._tables.values() if span in table.spans]
            if sorted(tables) != sorted(map(id, span.tables)):
                raise InvariantBroken("kv", f"who has blocks in a span is not known: {span.state()}")
