"""Prompts with ids: what contents share is shared, and a conversation is quoted word for word."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rakka_sim.values import ExecuteBatch, TokenChunk
from rakka_sim.workload.scribe import Scribe, tokens_of

contents = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), min_size=1, max_size=4).map(tuple)


def batch(request_id: int, content: tuple[tuple[int, int], ...], session: int = 0) -> ExecuteBatch:
    return ExecuteBatch(request_id, "m", sum(tokens for _, tokens in content), 5, content, session=session)


@given(contents, contents)
def test_ids_are_shared_exactly_where_contents_are(one: tuple, other: tuple) -> None:
    scribe = Scribe(1 << 40)  # so large that no two tokens meet by chance
    first, second = (scribe.write(batch(n, content)).token_ids for n, content in enumerate((one, other)))
    assert len(first) == sum(tokens for _, tokens in one)
    places = [[(source, n) for source, tokens in content for n in range(tokens)] for content in (one, other)]
    for at, (a, b) in enumerate(zip(*places, strict=False)):
        assert (first[at] == second[at]) == (a == b)


def test_ids_do_not_depend_on_how_a_content_is_cut() -> None:
    whole = tokens_of(5, 0, 1000, 512).tolist()
    assert whole == [*tokens_of(5, 0, 3, 512).tolist(), *tokens_of(5, 3, 1000, 512).tolist()]
    assert 0 <= min(whole) < max(whole) < 512
    assert len(set(whole)) > 400  # of 512, when 1,000 are drawn evenly: about 440


def test_what_an_engine_said_is_part_of_the_next_turn() -> None:
    scribe = Scribe(512)
    first = scribe.write(batch(1, ((9, 4), (6, 10)), session=3))
    for tokens in ((101, 102), (103,)):
        scribe.hear(TokenChunk(1, [0.0] * len(tokens), tokens=tokens))
    scribe.ended(1)
    second = scribe.write(batch(2, ((9, 4), (6, 18)), session=3))
    assert second.token_ids[:17] == (*first.token_ids, 101, 102, 103)
    assert second.token_ids[17:] == tuple(tokens_of(6, 13, 18, 512).tolist())
    assert scribe.write(batch(3, ((6, 18),), session=4)).token_ids == tuple(tokens_of(6, 0, 18, 512).tolist())
