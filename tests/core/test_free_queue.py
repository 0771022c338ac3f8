"""The free queue against a list."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rakka_sim.core.free_queue import FreeQueue


@given(
    st.integers(1, 6), st.lists(st.tuples(st.sampled_from(["take", "claim", "give"]), st.integers(0, 5)), max_size=60)
)
def test_it_is_a_list_that_one_may_take_from_the_middle_of(blocks: int, moves: list[tuple[str, int]]) -> None:
    queue, plain = FreeQueue(blocks), list(range(blocks))
    for move, number in moves:
        held = [block for block in range(blocks) if block not in plain]
        if move == "take":
            count = number % (len(plain) + 1)
            assert queue.first(count) == plain[:count]
            assert queue.take(count) == plain[:count]
            del plain[:count]
        elif move == "claim" and plain:
            block = plain.pop(number % len(plain))
            queue.claim(block)
        elif move == "give":
            queue.give(held[: number + 1])
            plain += held[: number + 1]
        assert queue.first(blocks) == plain
        assert len(queue) == len(plain)


def test_blocks_that_come_and_go_do_not_make_it_grow() -> None:
    queue = FreeQueue(10)
    for _ in range(1000):
        for block in (7, 8, 9):
            queue.claim(block)
        queue.give([9, 8, 7])
    assert queue._entries <= 20
    assert queue.take(10) == [0, 1, 2, 3, 4, 5, 6, 9, 8, 7]
