"""The KV cache against a naive one: lists, sets and whole prefixes in place of queues, counts and keys."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rakka_sim.core.content import BlockKeys
from rakka_sim.core.kv import KvCache
from rakka_sim.errors import InputError, InvariantBroken
from rakka_sim.values import Content

# Some share all, some a prefix, some nothing; the last span goes on for ever.
CONTENTS: tuple[Content, ...] = (((1, 9),), ((1, 6), (2, 3)), ((1, 6), (3, 3)), ((4, 1),), ((1, 4), (2, 9)))


def token(content: Content, place: int) -> object:
    """What tells this token from every other, its predecessors included."""
    chain: tuple[tuple[int, int], ...] = ()
    for source, length in content[:-1]:
        if place < length:
            return chain, source, place
        chain += ((source, length),)
        place -= length
    return chain, content[-1][0], place


class NaiveCache:
    """Says the same in the plainest way."""

    def __init__(self, blocks: int, size: int, caching: bool) -> None:
        self.size, self.caching = size, caching
        self.queue = list(range(blocks))
        self.tables: dict[int, list[int]] = {}
        self.contents: dict[int, Content] = {}
        self.registered: list[tuple[int, tuple[object, ...]]] = []  # (block, every token up to its end), oldest first

    def prefix(self, content: Content, blocks: int) -> tuple[object, ...]:
        return tuple(token(content, place) for place in range(blocks * self.size))

    def lookup(self, content: Content, tokens: int) -> list[int]:
        hits: list[int] = []
        while (len(hits) + 1) * self.size < tokens:
            wanted = self.prefix(content, len(hits) + 1)
            found = [block for block, text in self.registered if text == wanted]
            if not found:
                break
            hits.append(found[0])
        return hits

    def fits(self, tokens: int, hits: list[int]) -> bool:
        rest = [block for block in self.queue if block not in hits]
        return len(hits) + len(rest) >= -(-tokens // self.size)

    def allocate(self, request: int, content: Content, tokens: int, hits: list[int]) -> bool:
        if not self.fits(tokens, hits):
            return False
        self.queue = [block for block in self.queue if block not in hits]
        self.tables[request] = list(hits)
        self.contents[request] = content
        return self.grow(request, tokens)

    def grow(self, request: int, tokens: int) -> bool:
        table = self.tables[request]
        missing = max(0, -(-tokens // self.size) - len(table))
        if missing > len(self.queue):
            return False
        for _ in range(missing):
            block = self.queue.pop(0)
            self.registered = [entry for entry in self.registered if entry[0] != block]
            table.append(block)
        for full in range(tokens // self.size if self.caching else 0):
            if all(block != table[full] for block, _ in self.registered):
                self.registered.append((table[full], self.prefix(self.contents[request], full + 1)))
        return True

    def step(self, tokens: dict[int, int]) -> bool:
        """A token more for each of these that hold so many, in order."""
        if sum(tokens[request] % self.size == 0 for request in tokens) > len(self.queue):
            return False
        return all([self.grow(request, tokens[request] + 1) for request in tokens])

    def free(self, request: int) -> None:
        for block in reversed(self.tables.pop(request)):
            if all(block not in table for table in self.tables.values()):
                self.queue.append(block)


class KvMachine(RuleBasedStateMachine):
    """Between looks nobody sees the tables: what is put off until somebody does must make no difference."""

    @initialize(blocks=st.integers(1, 20), size=st.integers(1, 4), caching=st.sampled_from([True, True, False]))
    def start(self, blocks: int, size: int, caching: bool) -> None:
        self.kv = KvCache(blocks, size, caching)
        self.naive = NaiveCache(blocks, size, caching)
        self.tokens: dict[int, int] = {}
        self.places: dict[int, tuple[int, int]] = {}  # of those that decode
        self.next_id = 0

    def resting(self) -> list[int]:
        return [request for request in self.tokens if request not in self.places]

    @rule(content=st.sampled_from(CONTENTS), tokens=st.integers(1, 20), known=st.integers(0, 5), reuse=st.booleans())
    def allocate(self, content: Content, tokens: int, known: int, reuse: bool) -> None:
        keys = BlockKeys(content, self.kv.block_size)
        hits = self.kv.lookup(keys, tokens + known)
        assert hits == self.naive.lookup(content, tokens + known)
        hits = hits if reuse else []  # what came at the same time is computed twice
        tokens = max(tokens, len(hits) * self.kv.block_size + 1)
        fits = self.kv.allocate(self.next_id, keys, tokens, hits)
        assert fits == self.naive.allocate(self.next_id, content, tokens, hits)
        if fits:
            self.tokens[self.next_id] = tokens
        self.next_id += 1

    @precondition(lambda self: self.resting())
    @rule(data=st.data(), more=st.integers(1, 6))
    def grow(self, data: st.DataObject, more: int) -> None:
        request = data.draw(st.sampled_from(self.resting()))
        tokens = self.tokens[request] + more
        grown = self.kv.grow(request, tokens)
        assert grown == self.naive.grow(request, tokens)
        if grown:
            self.tokens[request] = tokens

    def whole(self) -> list[int]:
        """Who has its whole prompt computed."""
        contents = self.naive.contents
        return [n for n in self.resting() if self.tokens[n] >= sum(length for _, length in contents[n])]

    @precondition(lambda self: self.whole())
    @rule(data=st.data(), priority=st.integers(0, 1))
    def join(self, data: st.DataObject, priority: int) -> None:
        request = data.draw(st.sampled_from(self.whole()))
        self.places[request] = (priority, request)
        self.kv.join(request, self.tokens[request], self.places[request])

    @precondition(lambda self: self.places)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(list(self.places)))
        self.kv.leave(request)
        del self.places[request]

    @rule(steps=st.integers(1, 9))
    def step(self, steps: int) -> None:
        order = sorted(self.places, key=self.places.__getitem__)
        later = {request: self.tokens[request] + steps for request in order}
        size = self.kv.block_size
        needed = sum(-(-later[request] // size) - -(-self.tokens[request] // size) for request in order)
        fits = needed <= len(self.naive.queue)
        crossings = [sum(self.tokens[request] % size == -step % size for request in order) for step in range(size)]
        assert self.kv.crossings() == crossings
        assert self.kv.step(steps) == fits
        for _ in range(steps if fits else 0):
            assert self.naive.step({request: self.tokens[request] for request in order})
            self.tokens |= {request: self.tokens[request] + 1 for request in order}

    @precondition(lambda self: self.resting())
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(self.resting()))
        self.kv.free(request)
        self.naive.free(request)
        del self.tokens[request]

    @rule()
    def reset(self) -> None:
        self.kv.reset()
        self.naive = NaiveCache(self.kv.num_blocks, self.kv.block_size, self.kv.prefix_caching)
        self.tokens, self.places = {}, {}

    @precondition(lambda self: self.tokens)
    @rule(data=st.data())
    def look_at_one(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(list(self.tokens)))
        assert list(self.kv.table(request)) == self.naive.tables[request]

    @rule()
    def look_at_all(self) -> None:
        found = [
            [block, *others.get(place, ())]
            for _, blocks, others in self.kv.state()[2].values()  # type: ignore[attr-defined]
            for place, block in enumerate(blocks)
            if block is not None
        ]
        by_text: dict[object, list[int]] = {}  # all blocks of one text, oldest first
        for block, text in self.naive.registered:
            by_text.setdefault(text, []).append(block)
        assert sorted(found) == sorted(by_text.values())
        assert {request: list(self.kv.table(request)) for request in self.tokens} == self.naive.tables

    @invariant()
    def they_agree(self) -> None:
        if not hasattr(self, "kv"):
            return
        self.kv.check()
        assert self.kv.next_free(self.kv.num_blocks) == self.naive.queue
        assert {request: self.kv.blocks_of(request) for request in self.tokens} == {
            request: len(table) for request, table in self.naive.tables.items()
        }
        held = {block for table in self.naive.tables.values() for block in table}
        assert self.kv.blocks_in_use == len(held)
        assert self.kv.free_blocks == self.kv.num_blocks - len(held)
        assert self.kv.usage == len(held) / self.kv.num_blocks

    def teardown(self) -> None:
        if hasattr(self, "kv"):
            self.look_at_all()


TestKvMachine = KvMachine.TestCase


def keys_of(source: int) -> BlockKeys:
    return BlockKeys(((source, 8),), 4)


def test_the_end_of_a_sequence_is_forgotten_before_its_beginning() -> None:
    kv = KvCache(4, block_size=4)
    kv.allocate(1, keys_of(1), 12)
    kv.free(1)
    assert kv.next_free(4) == [3, 2, 1, 0]  # 3 was never used; then the last block first
    kv.allocate(2, keys_of(2), 8)
    assert kv.lookup(keys_of(1), 13) == [0, 1]  # 2 was reused


def test_the_last_token_is_never_served_from_the_cache() -> None:
    kv = KvCache(4, block_size=4)
    kv.allocate(1, keys_of(1), 8)
    assert kv.lookup(keys_of(1), 8) == [0]
    assert kv.lookup(keys_of(1), 9) == [0, 1]


def test_a_hit_is_shared_and_stays_until_its_last_holder_leaves() -> None:
    kv = KvCache(4, block_size=4)
    kv.allocate(1, keys_of(1), 8)
    hits = kv.lookup(keys_of(1), 9)
    assert kv.shortage(9, hits) == -1  # one new block of the two that are free
    kv.allocate(2, keys_of(1), 9, hits)
    kv.free(1)
    assert kv.next_free(4) == [3]
    kv.free(2)
    assert kv.next_free(4) == [3, 2, 1, 0]


def test_of_two_blocks_with_one_key_the_first_is_found_and_then_the_other() -> None:
    kv = KvCache(3, block_size=4)
    kv.allocate(1, keys_of(1), 4)
    kv.allocate(2, keys_of(1), 4)  # the same tokens, computed twice because both came at once
    assert kv.lookup(keys_of(1), 5) == [0]
    kv.free(1)
    kv.allocate(3, keys_of(3), 8)  # takes 2, then 0
    assert kv.lookup(keys_of(1), 5) == [1]


def test_of_many_blocks_with_one_key_the_oldest_is_found() -> None:
    kv = KvCache(4, block_size=4)
    for request in (1, 2, 3):
        kv.allocate(request, keys_of(1), 4)
    kv.free(1)
    kv.allocate(4, keys_of(4), 8)  # takes 3, then 0
    assert kv.lookup(keys_of(1), 5) == [1]
    kv.check()


def test_of_many_blocks_with_one_key_one_in_the_middle_may_go() -> None:
    kv = KvCache(4, block_size=4)
    for request in (1, 2, 3):
        kv.allocate(request, keys_of(1), 4)
    kv.free(2)
    kv.allocate(4, keys_of(4), 8)  # takes 3, then 1
    kv.free(1)
    kv.allocate(5, keys_of(5), 4)  # takes 0
    assert kv.lookup(keys_of(1), 5) == [2]
    kv.check()


def test_a_hit_that_nobody_holds_uses_up_a_free_block() -> None:
    kv = KvCache(2, block_size=4)
    kv.allocate(1, keys_of(1), 4)
    kv.free(1)
    hits = kv.lookup(keys_of(1), 12)
    assert kv.shortage(12, hits) == 1  # three blocks: the hit, and two where one is left
    assert not kv.allocate(2, keys_of(1), 12, hits)
    assert kv.next_free(2) == [1, 0]


def test_without_prefix_caching_nothing_is_found() -> None:
    kv = KvCache(4, block_size=4, prefix_caching=False)
    kv.allocate(1, keys_of(1), 8)
    assert kv.lookup(keys_of(1), 9) == []
    assert all(span is None for span in kv._owner)  # nor is any work done for it


@pytest.mark.parametrize(("blocks", "size"), [(0, 16), (4, 0), (-1, 16)])
def test_impossible_sizes_are_refused(blocks: int, size: int) -> None:
    with pytest.raises(InputError, match="at least 1"):
        KvCache(blocks, size)


def test_check_sees_a_block_that_is_free_and_held() -> None:
    kv = KvCache(4, block_size=4)
    kv.allocate(1, keys_of(1), 8)
    kv._free.give([0])
    with pytest.raises(InvariantBroken, match="lost, or both free and held"):
        kv.check()
