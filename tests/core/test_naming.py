"""Names for real prompts, held against the law of contents: a block key stands for one sequence of tokens, and hits are
those of a cache that compares the tokens themselves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rakka_sim.core.content import BlockKeys
from rakka_sim.core.naming import ContentNames
from rakka_sim.errors import InputError

BLOCK = 4
# Few different tokens and blocks of them, so that prompts often begin alike.
pieces = st.sampled_from([(1, 1, 1, 1), (1, 2, 1, 2), (2,), (3, 3), (1, 1, 1, 2, 2, 2, 2)])
prompts = st.lists(pieces, min_size=1, max_size=6).map(lambda found: tuple(token for piece in found for token in piece))


@given(st.lists(st.tuples(prompts, st.lists(st.integers(1, 3), max_size=9), st.booleans()), max_size=12))
def test_a_key_stands_for_the_same_tokens_always_and_no_shared_block_is_missed(
    turns: list[tuple[tuple[int, ...], list[int], bool]],
) -> None:
    names = ContentNames(BLOCK)
    meaning: dict[int, tuple[int, ...]] = {}  # block key -> every token up to the block's end
    history: list[tuple[int, ...]] = []
    for prompt, answer, goes_on in turns:
        asked = (*history[-1], *prompt) if goes_on and history else prompt
        content = names.name(asked)
        assert sum(tokens for _, tokens in content) == len(asked)
        said = (*asked, *answer)
        keys = BlockKeys(content, BLOCK)
        found = 0
        for block in range((len(asked) - 1) // BLOCK):
            if keys.key(block) not in meaning:
                break
            found += 1
        known = {sequence[:end] for sequence in history for end in range(BLOCK, len(sequence) + 1, BLOCK)}
        shared = 0
        while (shared + 1) * BLOCK < len(asked) and asked[: (shared + 1) * BLOCK] in known:
            shared += 1
        assert found == shared
        for block in range(len(said) // BLOCK):
            upto = said[: (block + 1) * BLOCK]
            assert meaning.setdefault(keys.key(block), upto) == upto
        names.remember(content, said)
        history.append(said)


def test_two_requests_with_one_prompt_do_not_share_what_they_generate() -> None:
    names = ContentNames(BLOCK)
    prompt = tuple(range(9))
    first = names.name(prompt)
    names.remember(first, prompt)
    second = names.name(prompt)
    ours, theirs = BlockKeys(first, BLOCK), BlockKeys(second, BLOCK)
    assert [ours.key(n) == theirs.key(n) for n in range(4)] == [True, True, False, False]


def test_the_oldest_blocks_are_forgotten_first() -> None:
    names = ContentNames(BLOCK, capacity=3)
    old, new = (1,) * 9, (2,) * 9
    names.remember(names.name(old), old)
    names.remember(names.name(new), new)
    assert len(names.name(new)) == 2
    assert len(names.name(old)) == 1
    with pytest.raises(InputError, match="capacity"):
        ContentNames(capacity=0)
