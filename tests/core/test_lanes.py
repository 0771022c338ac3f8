"""Rows that decode: what is put off about their blocks until somebody looks is as if each step had seen to it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rakka_sim.core.content import BlockKeys
from rakka_sim.core.kv import KvCache

KEYS = BlockKeys(((1, 100),), 4)
OTHERS = BlockKeys(((2, 100),), 4)


def decoding(*rows: tuple[int, int]) -> KvCache:
    """Requests 0, 1 .. of one content, that decode from so many tokens on, in such order; all started at once."""
    kv = KvCache(40, block_size=4)
    for request, (tokens, place) in enumerate(rows):
        assert kv.allocate(request, KEYS, tokens)
        kv.join(request, tokens, (0, place))
    return kv


def test_a_block_that_has_been_filled_is_found() -> None:
    kv = decoding((7, 1))
    assert kv.step(6)
    assert kv.lookup(KEYS, 100) == [0, 1, 2]
    kv.check()


def test_who_leaves_has_its_blocks_and_they_are_found() -> None:
    kv = decoding((7, 1), (7, 2))
    assert kv.step(6)
    kv.leave(0)
    assert kv.table(0) == [0, 1, 4, 6]
    assert kv.step(4)
    kv.leave(1)
    assert kv.table(1) == [2, 3, 5, 7, 8]
    kv.free(0)
    kv.free(1)
    assert kv.lookup(KEYS, 13) == [0, 1, 4]
    kv.check()


def test_who_leaves_alone_has_its_blocks_found() -> None:
    kv = decoding((7, 1))
    assert kv.step(6)
    kv.leave(0)
    kv.free(0)
    assert kv.lookup(KEYS, 100) == [0, 1, 2]


def test_of_rows_with_one_content_who_fills_a_block_first_is_found() -> None:
    kv = decoding((9, 1), (10, 2))  # the second one fills its third block a step earlier
    assert kv.step(10)
    assert kv.lookup(KEYS, 13) == [0, 1, 5]
    kv.leave(0)
    assert kv.lookup(KEYS, 17) == [0, 1, 5, 6]


def test_so_it_is_when_the_other_one_leaves_first() -> None:
    kv = decoding((9, 1), (10, 2))
    assert kv.step(6)
    kv.leave(0)
    kv.free(0)
    assert kv.lookup(KEYS, 13) == [0, 1, 5]


def test_in_one_step_rows_fill_their_blocks_in_order_of_place() -> None:
    kv = decoding((9, 2), (9, 1))
    assert kv.step(4)
    assert kv.lookup(KEYS, 13) == [0, 1, 5]


def test_who_comes_later_with_the_same_content_registers_it_later() -> None:
    kv = decoding((9, 1))
    assert kv.step(6)
    assert kv.allocate(1, KEYS, 13)  # nothing was looked up before
    assert kv.lookup(KEYS, 13) == [0, 1, 2]


def test_a_lane_is_dealt_in_order_of_place() -> None:
    kv = decoding((8, 2), (8, 1))
    assert kv.step(5)
    assert kv.table(1) == [2, 3, 4, 6]
    assert kv.table(0) == [0, 1, 5, 7]


def test_who_joins_a_lane_has_no_part_in_what_it_took_before() -> None:
    kv = decoding((8, 1))
    assert kv.step(4)
    assert kv.allocate(1, OTHERS, 12)
    kv.join(1, 12, (0, 2))
    kv.check()
    assert kv.step(1)
    assert kv.table(0) == [0, 1, 2, 6]
    assert kv.table(1) == [3, 4, 5, 7]


def test_a_step_without_enough_blocks_is_none() -> None:
    kv = KvCache(4, block_size=4)
    for request, keys in enumerate((KEYS, OTHERS)):
        kv.allocate(request, keys, 4)
        kv.join(request, 4, (0, request))
    assert not kv.step(5)
    assert kv.blocks_in_use == 2
    assert kv.crossings() == [2, 0, 0, 0]
    assert kv.step(4)
    assert kv.blocks_in_use == 4


def test_a_hit_is_free_or_held_as_its_holders_come_and_go() -> None:
    kv = KvCache(6, block_size=4)
    kv.allocate(0, KEYS, 8)
    hits = kv.lookup(KEYS, 9)
    assert kv.shortage(9, hits) == 3 - 4 - 2  # both are held
    kv.allocate(1, KEYS, 9, hits)
    kv.free(0)
    assert kv.shortage(9, hits) == 3 - 3 - 2  # by one who found them
    kv.free(1)
    assert kv.shortage(9, hits) == 3 - 6  # they must be taken as well
    kv.check()


def test_a_hit_that_nobody_holds_is_free_though_another_block_of_the_same_text_is_held() -> None:
    kv = KvCache(6, block_size=4)
    kv.allocate(0, KEYS, 4)
    kv.allocate(1, KEYS, 4)
    kv.free(0)
    assert kv.lookup(KEYS, 9) == [0]
    assert kv.shortage(9, [0]) == 3 - 5
    kv.check()


def test_a_hit_that_nobody_holds_is_free_though_a_later_one_is_held_beside_another_block_of_its_text() -> None:
    kv = KvCache(6, block_size=4)
    kv.allocate(0, KEYS, 4)
    kv.allocate(1, KEYS, 8)
    kv.free(0)
    hits = kv.lookup(KEYS, 9)
    assert hits == [0, 2]
    assert kv.shortage(9, hits) == 3 - 4 - 1
    kv.allocate(2, KEYS, 9, hits)
    assert kv.free_blocks == 2
    kv.check()


def test_of_a_prefix_that_is_held_in_part_the_rest_is_free() -> None:
    """Two requests begin alike; one has gone, and of its own span nothing is held."""
    kv = KvCache(8, block_size=4)
    keys = [BlockKeys(((1, 8), (source, 8)), 4) for source in (2, 3)]
    for request in (0, 1):
        kv.allocate(request, keys[request], 16, kv.lookup(keys[request], 16))
    kv.free(1)
    hits = kv.lookup(keys[1], 17)
    assert hits == [0, 1, 4, 5]
    assert kv.shortage(17, hits) == 5 - 4 - 2
    kv.allocate(2, keys[1], 17, hits)
    assert kv.free_blocks == 1
    kv.free(0)
    assert kv.shortage(17, hits) == 5 - 3 - 4
    kv.check()


ROWS = st.lists(st.tuples(st.integers(1, 14), st.integers(0, 3), st.integers(1, 9)), min_size=1, max_size=5)


@given(ROWS, st.lists(st.integers(0, 4), max_size=3), st.integers(1, 4))
def test_it_makes_no_difference_whether_somebody_looks_after_each_step(
    rows: list[tuple[int, int, int]], leaving: list[int], size: int
) -> None:
    """All of one content; each: tokens that it starts with, its priority, and steps until the next one comes."""
    keys = BlockKeys(((1, 100),), size)
    seen, unseen = KvCache(400, size), KvCache(400, size)
    members: set[int] = set()
    for request, (tokens, priority, steps) in enumerate(rows):
        for kv in (seen, unseen):
            assert kv.allocate(request, keys, tokens)
            kv.join(request, tokens, (priority, request))
        members.add(request)
        for _ in range(steps):
            assert seen.step(1)
            seen.state()
        assert unseen.step(steps)
        for gone in members.intersection(leaving[:request]):
            for kv in (seen, unseen):
                kv.leave(gone)
                kv.free(gone)
            members.remove(gone)
        unseen.check()
    assert unseen.state() == seen.state()
