"""Block keys against brute force: every token written out with all that stands before it."""

from __future__ import annotations

import subprocess
import sys
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rakka_sim.core.content import BlockKeys
from rakka_sim.values import Content

SPAN = st.tuples(st.integers(0, 2), st.integers(0, 9))
CONTENT: st.SearchStrategy[Content] = st.lists(SPAN, min_size=1, max_size=4).map(tuple)


def written_out(content: Content, tokens: int) -> list[object]:
    """The identity of each of a sequence's first tokens: the spans before it, its source, its place in the source."""
    identities: list[object] = []
    chain: tuple[tuple[int, int], ...] = ()
    for at, (source, length) in enumerate(content):
        last = at == len(content) - 1
        take = tokens - len(identities) if last else length
        identities += [(chain, source, place) for place in range(take)]
        if length:
            chain += ((source, length),)
    return identities[:tokens]


@settings(max_examples=4 * settings.default.max_examples)
@given(CONTENT, CONTENT, st.integers(1, 5), st.integers(0, 12))
def test_keys_are_shared_exactly_as_far_as_the_tokens_are(
    one: Content, other: Content, block_size: int, generated: int
) -> None:
    tokens = [sum(length for _, length in content) + generated for content in (one, other)]
    texts = [written_out(content, count) for content, count in zip((one, other), tokens, strict=True)]
    keys = [BlockKeys(content, block_size) for content in (one, other)]
    blocks = [count // block_size for count in tokens]
    for i, j in product(range(blocks[0]), range(blocks[1])):
        same = i == j and texts[0][: (i + 1) * block_size] == texts[1][: (j + 1) * block_size]
        assert (keys[0].key(i) == keys[1].key(j)) == same


@given(CONTENT, st.integers(1, 5), st.integers(0, 20), st.integers(0, 20))
def test_a_span_of_keys_is_its_keys_one_by_one(content: Content, block_size: int, start: int, count: int) -> None:
    keys = BlockKeys(content, block_size)
    assert list(keys.span(start, start + count)) == [keys.key(block) for block in range(start, start + count)]


def test_the_next_turn_of_a_session_finds_prompt_and_answer_of_the_one_before() -> None:
    first = BlockKeys(((1, 500), (77, 100)), 16)  # a system prompt, then the session
    second = BlockKeys(((1, 500), (77, 100 + 60 + 40)), 16)  # 60 were generated, 40 are new
    assert list(first.span(0, 660 // 16)) == list(second.span(0, 660 // 16))
    stranger = BlockKeys(((1, 500), (78, 100)), 16)
    assert list(first.span(0, 31)) == list(stranger.span(0, 31))  # 31 full blocks of the system prompt
    assert first.key(31) != stranger.key(31)  # this one straddles the two spans


def test_a_length_is_part_of_what_follows_it() -> None:
    assert BlockKeys(((1, 16), (2, 16)), 16).key(1) != BlockKeys(((1, 15), (2, 17)), 16).key(1)


def test_no_two_keys_meet_among_many_sequences() -> None:
    keys = {BlockKeys(((source, 64),), 16).key(3) for source in range(3000)}
    # Spans of one source that end elsewhere: the first block beyond them differs.
    keys |= {BlockKeys(((0, length), (1, 64)), 16).key(length // 16) for length in range(1, 3000)}
    assert len(keys) == 3000 + 2999


@pytest.mark.parametrize("hash_seed", ["0", "1", "random"])
def test_keys_do_not_depend_on_the_process(hash_seed: str) -> None:
    code = "from rakka_sim.core.content import BlockKeys; print(BlockKeys(((5, 100), (6, 7)), 16).key(6))"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONHASHSEED": hash_seed}, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == BlockKeys(((5, 100), (6, 7)), 16).key(6)
