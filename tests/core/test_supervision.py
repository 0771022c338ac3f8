"""Supervision: the restart window against a list of all restarts there ever were, and upstream's table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rakka_sim.core.supervision import (
    DEFAULT,
    WORKER_TIER,
    Directive,
    RestartWindow,
    Supervision,
    by_tag,
)
from rakka_sim.errors import ContextPoisoned, Internal, OutOfMemory, ServerError, Unrecoverable

ERRORS = st.sampled_from([ContextPoisoned(), OutOfMemory(), Unrecoverable(), Internal(), ValueError()])
# Multiples of a power of two, so that a failure may fall on the very edge of a window.
GAPS = st.integers(0, 8).map(lambda n: n / 4)


@given(
    st.integers(0, 4),
    st.sampled_from([0.25, 1.0, 3.0]),
    st.sampled_from([by_tag, lambda _: Directive.RESTART]),
    st.lists(st.tuples(GAPS, ERRORS), max_size=30),
)
def test_restarts_within_any_window_stay_within_their_number(
    most: int, within: float, decide: object, failures: list[tuple[float, Exception]]
) -> None:
    strategy = Supervision(most, within, decide)  # type: ignore[arg-type]
    window = RestartWindow(strategy)
    restarts: list[float] = []
    now = 0.0
    for gap, error in failures:
        now += gap
        expected = strategy.decide(error)
        if expected is Directive.RESTART:
            if sum(1 for at in restarts if now - at < within) >= most:
                expected = Directive.ESCALATE
            else:
                restarts.append(now)
        assert window.decide(error, now) is expected
    for at in restarts:
        assert sum(1 for other in restarts if at <= other < at + within) <= most


@pytest.mark.parametrize(
    ("error", "directive"),
    [
        (ContextPoisoned("sticky"), Directive.RESTART),
        (OutOfMemory(), Directive.RESUME),
        (Unrecoverable(), Directive.STOP),
        (Internal("bug"), Directive.ESCALATE),
        (ServerError(503), Directive.ESCALATE),
        (KeyError("bug"), Directive.ESCALATE),
    ],
)
def test_upstreams_table(error: Exception, directive: Directive) -> None:
    assert by_tag(error) is directive


def test_upstreams_numbers() -> None:
    assert (DEFAULT.max_restarts, DEFAULT.within_s) == (10, 60.0)
    assert (WORKER_TIER.max_restarts, WORKER_TIER.within_s) == (3, 60.0)


def test_two_windows_of_one_strategy_count_apart() -> None:
    one, two = RestartWindow(WORKER_TIER), RestartWindow(WORKER_TIER)
    for _ in range(3):
        assert one.decide(ContextPoisoned(), 0.0) is Directive.RESTART
    assert one.decide(ContextPoisoned(), 59.9) is Directive.ESCALATE
    assert two.decide(ContextPoisoned(), 59.9) is Directive.RESTART
    assert one.decide(ContextPoisoned(), 60.0) is Directive.RESTART
