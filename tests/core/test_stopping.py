"""Text that stops: however it comes in pieces, what is said is the text before the first stop, and never too early."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rakka_sim.core.stopping import StoppingText

texts = st.text("ab.", max_size=20)


@given(st.lists(texts, max_size=8), st.lists(st.text("ab.", min_size=1, max_size=4), max_size=3))
def test_what_is_said_is_what_comes_before_the_first_stop(pieces: list[str], stops: list[str]) -> None:
    whole, said, text = "".join(pieces), "", StoppingText(stops)
    seen = ""
    for piece in pieces:
        seen += piece
        assert text.add(piece) == any(stop in seen for stop in stops)
        said += text.take()
        assert whole.startswith(said)
        if text.over:
            break
    said += text.take(final=True)
    ends = [seen.find(stop) for stop in stops if stop in seen]
    assert said == (seen[: min(ends)] if ends else whole)


@given(st.lists(texts, max_size=8))
def test_nothing_is_held_back_that_begins_no_stop(pieces: list[str]) -> None:
    text, seen, said = StoppingText(["ab."]), "", ""
    for piece in pieces:
        seen += piece
        if text.add(piece):
            return
        said += text.take()
        held = seen[len(said) :]
        assert held == next((end for end in ("ab", "a") if seen.endswith(end)), "")
