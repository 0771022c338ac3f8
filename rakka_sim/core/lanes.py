"""Tables that grow by a token a step, all with one beat; what is cached, and which blocks are free, is not known here.

Whoever takes a block at the same step of a cycle is in the same lane, and takes one each time that step comes round. So
it is enough to note which blocks a lane has taken. They are dealt to its tables when somebody comes, leaves or looks:
where many replicas take turns, looking at every table is mostly waiting for memory.
"""

from __future__ import annotations

from bisect import insort
from operator import attrgetter

from rakka_sim.core.cached_span import CachedSpan
from rakka_sim.core.content import BlockKeys
from rakka_sim.core.free_queue import Block
from rakka_sim.errors import InvariantBroken

_by_place = attrgetter("place")


class Table:
    """One request's blocks, in order, the first `cached` of which have their keys registered.

    `spans` are those of its content in which it has registered blocks, or found some. In a lane it holds its `lead` and
    the beat together in tokens, and blocks that are not written down yet.
    """

    __slots__ = ("blocks", "cached", "keys", "lane", "lead", "place", "spans")

    def __init__(self, keys: BlockKeys, blocks: list[Block]) -> None:
        self.keys = keys
        self.blocks = blocks
        self.cached = len(blocks)
        self.spans: list[CachedSpan] = []
        self.lane = -1  # in none
        self.lead = 0
        self.place = (0, 0)  # in the order of those who run

    def copy(self) -> Table:
        """One like it, in no lane and known by no span; all of its blocks must be written down."""
        made = Table(self.keys, self.blocks.copy())
        made.cached = self.cached
        return made


class Lanes:
    """One for each step of a cycle of `block_size` steps, counted from beat 0."""

    __slots__ = ("_blocks", "_counts", "_tables", "beat", "block_size", "by_base", "count")

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self.beat = 0  # the steps for which blocks have been taken
        self.count = 0  # of tables
        self._tables: list[list[Table]] = [[] for _ in range(block_size)]  # each in order of place
        self._counts = [0] * block_size  # how long those lists are
        # What a lane has taken and not dealt: the first one's block, the second one's and so on, over and over.
        self._blocks: list[list[Block]] = [[] for _ in range(block_size)]
        self.by_base: dict[int, list[Table]] = {}  # those whose last span has it

    def join(self, table: Table, tokens: int, place: tuple[int, int]) -> None:
        """It holds so many tokens, and one more with each step from now on."""
        table.lead = lead = tokens - self.beat
        table.lane = lane = -lead % self.block_size
        table.place = place
        self.deal(lane)
        tables = self._tables[lane]
        if tables and tables[-1].place > place:
            insort(tables, table, key=_by_place)
        else:
            tables.append(table)
        self._counts[lane] += 1
        self.count += 1
        self.by_base.setdefault(table.keys.last, []).append(table)

    def has_twin(self, table: Table) -> bool:
        """Whether another one's last span has the same base."""
        return len(self.by_base[table.keys.last]) > 1

    def copy(self, copies: list[tuple[Table, Table]]) -> Lanes:
        """Lanes like these, of the copies of their tables, each given beside its original; nothing may be put off."""
        made = Lanes(self.block_size)
        for table, its_copy in copies:
            if table.lane >= 0:
                made.join(its_copy, table.lead + self.beat, table.place)
        return made

    def leave(self, table: Table) -> None:
        """Its blocks are written down, and it grows no more."""
        lane = table.lane
        tables, blocks = self._tables[lane], self._blocks[lane]
        turn = tables.index(table)
        if blocks:
            table.blocks += blocks[turn :: len(tables)]
            del blocks[turn :: len(tables)]
        del tables[turn]
        table.lane = -1
        self._counts[lane] -= 1
        self.count -= 1
        base = table.keys.last
        same = self.by_base[base]
        if len(same) == 1:
            del self.by_base[base]
        else:
            same.remove(table)

    def needed(self, steps: int) -> int:
        """How many blocks all take in the next `steps` steps."""
        size, counts = self.block_size, self._counts
        at, blocks = self.beat % size, steps // size * self.count
        for _ in range(steps % size):
            blocks += counts[at]
            at = at + 1 if at + 1 < size else 0
        return blocks

    def crossings(self) -> list[int]:
        """How many take a block at each step of a cycle, from the next step on."""
        at = self.beat % self.block_size
        return self._counts[at:] + self._counts[:at]

    def step(self, steps: int, blocks: list[Block]) -> None:
        """These are the blocks that all have taken in the next `steps` steps, in order."""
        at, size, counts, total = self.beat % self.block_size, self.block_size, self._counts, len(blocks)
        self.beat += steps
        start = 0
        for _ in range(min(steps, size)):
            if start >= total:
                break
            turns = counts[at]
            if turns:
                taken, first = self._blocks[at], start
                while first < total:
                    taken += blocks[first : first + turns]
                    first += self.count
                start += turns
            at = at + 1 if at + 1 < size else 0

    def deal(self, lane: int) -> None:
        """Write down who of a lane holds which blocks."""
        blocks = self._blocks[lane]
        if blocks:
            tables = self._tables[lane]
            for turn, table in enumerate(tables):
                table.blocks += blocks[turn :: len(tables)]
            blocks.clear()

    def full(self, table: Table) -> int:
        """How many blocks of a table are full that is in a lane or has just left one."""
        return (table.lead + self.beat) // self.block_size

    def blocks_of(self, table: Table) -> list[Block]:
        """All blocks of a table, without writing down what is not."""
        if table.lane < 0:
            return table.blocks
        tables = self._tables[table.lane]
        return table.blocks + self._blocks[table.lane][tables.index(table) :: len(tables)]

    def check(self, tables: list[Table]) -> None:
        """Raise InvariantBroken unless each of these that is in a lane is in its own, with the blocks it needs."""
        members = {id(table) for table in tables if table.lane >= 0}
        known = [(lane, table) for lane, these in enumerate(self._tables) for table in these]
        bases = [(base, table) for base, these in self.by_base.items() for table in these]
        if not members == {id(table) for _, table in known} == {id(table) for _, table in bases}:
            raise InvariantBroken("kv", "who is in a lane is not known")
        if not len(members) == len(known) == len(bases) == self.count or self._counts != [*map(len, self._tables)]:
            raise InvariantBroken("kv", "how many are in lanes is not known")
        for lane, table in known:
            tokens, blocks = table.lead + self.beat, len(self.blocks_of(table))
            if table.lane != lane or lane != -table.lead % self.block_size or blocks != -(-tokens // self.block_size):
                raise InvariantBroken("kv", f"a table of {tokens} tokens has {blocks} blocks, and is in lane {lane}")
        if any(base != table.keys.last for base, table in bases):
            raise InvariantBroken("kv", "a table is known by another content's base")
        if any(these != sorted(these, key=_by_place) for these in self._tables):
            raise InvariantBroken("kv", "a lane is out of order")
