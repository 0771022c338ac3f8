"""Closed loops and conversations: what an end schedules, and what it must not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rakka_sim.config.workload import WorkloadConfig
from rakka_sim.errors import InvariantBroken
from rakka_sim.values import ExecuteBatch
from rakka_sim.workload.source import Source, make_source

Build = Callable[..., Any]
SPREAD = {"kind": "lognormal", "prompt": {"median": 50, "sigma": 1}, "output": {"mean": 20, "cv": 1}}
FIXED = {"kind": "fixed", "prompt": 10, "output": 5}


def tables() -> st.SearchStrategy[dict[str, Any]]:
    """Workloads in which ends matter."""
    turns = st.sampled_from(
        [
            {"kind": "fixed", "turns": 2},
            {"kind": "uniform", "min": 1, "max": 4},
            {"kind": "geometric", "mean": 3.0, "max": 6},
        ]
    )
    sessions = st.fixed_dictionaries(
        {"turns": turns, "think_time_s": st.sampled_from([0.0, 2.0]), "think_cv": st.sampled_from([0.0, 1.0])},
        optional={"max_context_tokens": st.integers(20, 400)},
    )
    closed = st.fixed_dictionaries(
        {
            "kind": st.just("closed"),
            "concurrency": st.integers(1, 6),
            "think_time_s": st.sampled_from([0.0, 1.5]),
            "think_cv": st.sampled_from([0.0, 0.7]),
            "ramp_s": st.sampled_from([0.0, 4.0]),
        }
    )
    limits = st.sampled_from([{"requests": 25}, {"duration_s": 12.0}, {"requests": 40, "duration_s": 30.0}])
    shared = {
        "lengths": st.sampled_from([FIXED, SPREAD]),
        "prefix": st.sampled_from([None, {"groups": 2, "tokens": 8}]),
    }
    with_sessions = {"arrivals": st.sampled_from([{"kind": "poisson", "rate": 2.0}]), "sessions": sessions, **shared}
    closed_loop = {"arrivals": closed, "sessions": st.one_of(st.none(), sessions), **shared}
    kinds = st.one_of(st.fixed_dictionaries(closed_loop), st.fixed_dictionaries(with_sessions))
    return st.tuples(kinds, limits).map(lambda pair: {**pair[0], **pair[1]})


class FeedbackMachine(RuleBasedStateMachine):
    """A source against what anybody can count from outside: who is under way, what was said, how many there were."""

    @initialize(table=tables(), seed=st.integers(0, 99))
    def start(self, table: dict[str, Any], seed: int) -> None:
        self.config = WorkloadConfig.model_validate(table)
        rng = np.random.default_rng(seed)
        self.source: Source = make_source(self.config, model="m", rng=rng, base_dir=Path())
        self.now = 0.0
        self.made = 0
        self.under_way: dict[int, ExecuteBatch] = {}
        self.said: dict[int, tuple[tuple[int, int], ...]] = {}
        self.turns: dict[int, int] = {}

    @rule()
    @precondition(lambda self: self.source.peek() is not None)
    def arrive(self) -> None:
        at = self.source.peek()
        assert at is not None
        assert at >= self.now
        assert self.config.duration_s is None or at < self.config.duration_s
        self.now = at
        request = self.source.pop()
        self.made += 1
        assert request.request_id == self.made
        assert request.prompt_tokens == sum(tokens for _, tokens in request.content)
        assert request.output_tokens >= 1
        if self.config.sessions is not None:
            assert request.session not in {other.session for other in self.under_way.values()}
            self._extends_what_was_said(request)
        self.under_way[request.request_id] = request

    def _extends_what_was_said(self, request: ExecuteBatch) -> None:
        self.turns[request.session] = self.turns.get(request.session, 0) + 1
        before = self.said.get(request.session)
        if before is not None:
            *shared, (source, tokens) = request.content
            assert tuple(shared) == before[:-1]
            assert source == before[-1][0]
            assert tokens > before[-1][1]
            most = self.config.sessions.max_context_tokens  # type: ignore[union-attr]
            assert most is None or request.prompt_tokens + request.output_tokens <= most

    @rule(whose=st.integers(0, 9), seconds=st.floats(0, 3), share=st.sampled_from([0.0, 0.5, 1.0]))
    @precondition(lambda self: bool(self.under_way))
    def end(self, whose: int, seconds: float, share: float) -> None:
        request = self.under_way.pop(list(self.under_way)[whose % len(self.under_way)])
        upcoming = self.source.peek()
        self.now = min(self.now + seconds, upcoming) if upcoming is not None else self.now + seconds
        output = int(request.output_tokens * share)
        self.source.ended(request.request_id, self.now, output)
        *shared, (source, tokens) = request.content
        self.said[request.session] = (*shared, (source, tokens + output))

    @rule()
    @precondition(lambda self: self.source.exhausted)
    def stay_exhausted(self) -> None:
        self.source.ended(self.made + 1, self.now, 3)
        assert self.source.exhausted

    @invariant()
    def nobody_is_lost(self) -> None:
        if self.config.arrivals.kind == "closed":
            assert len(self.under_way) <= self.config.arrivals.concurrency
        assert self.config.requests is None or self.made <= self.config.requests
        if self.source.exhausted:
            assert self.source.peek() is None
        elif self.source.peek() is None:
            assert self.under_way, "nothing is scheduled, nothing can end, and yet it is not exhausted"

    def teardown(self) -> None:
        """Whatever happened, it comes to an end: every request ended, the limits are reached."""
        if not hasattr(self, "source"):
            return
        for _ in range(5_000):
            at = self.source.peek()
            if at is not None:
                self.now = at
                request = self.source.pop()
                self.made += 1
                self.under_way[request.request_id] = request
            elif self.under_way:
                ended = self.under_way.pop(min(self.under_way))
                self.now += 0.5
                self.source.ended(ended.request_id, self.now, ended.output_tokens)
            else:
                break
        assert self.source.exhausted
        assert self.config.duration_s is not None or self.made == self.config.requests


TestFeedback = FeedbackMachine.TestCase


def test_users_start_wait_think_and_start_again(build: Build) -> None:
    arrivals = {"kind": "closed", "concurrency": 2, "think_time_s": 3.0, "ramp_s": 1.0}
    source = build({"requests": 4, "arrivals": arrivals, "lengths": FIXED})
    assert (source.total, source.peek()) == (4, 0.0)
    source.pop()
    assert source.peek() == 0.5  # the second of two users, half-way up the ramp
    source.pop()
    assert (source.peek(), source.exhausted) == (None, False)
    source.ended(2, 10.0, 5)
    assert source.peek() == 13.0
    source.ended(1, 9.0, 5)
    assert source.peek() == 12.0
    assert [source.pop().request_id, source.peek(), source.pop().request_id] == [3, 13.0, 4]
    assert (source.peek(), source.exhausted) == (None, True)


def test_a_closed_loop_ends_with_its_duration(build: Build) -> None:
    source = build({"duration_s": 10.0, "arrivals": {"kind": "closed", "concurrency": 1}, "lengths": FIXED})
    source.pop()
    assert not source.exhausted
    source.ended(1, 10.0, 5)
    assert (source.peek(), source.exhausted) == (None, True)


def test_the_nth_request_is_the_same_whatever_ends_first(build: Build) -> None:
    arrivals = {"kind": "closed", "concurrency": 5, "think_time_s": 1.0, "think_cv": 1.0}
    table = {"requests": 200, "arrivals": arrivals, "lengths": SPREAD}

    def play(order: Callable[[list[int]], int]) -> list[ExecuteBatch]:
        source, open_ids, now, made = build(table), [], 0.0, []
        while not source.exhausted:
            if (at := source.peek()) is not None:
                now = max(now, at)
                made.append(source.pop())
                open_ids.append(made[-1].request_id)
            else:
                now += 1.0
                source.ended(open_ids.pop(order(open_ids)), now, 1)
        return made

    assert play(lambda ids: 0) == play(lambda ids: len(ids) - 1)


def test_a_conversation_carries_its_whole_past(build: Build) -> None:
    table = {
        "duration_s": 1.5,
        "arrivals": {"kind": "constant", "rate": 1},
        "lengths": FIXED,
        "prefix": {"tokens": 100},
        "sessions": {"turns": {"kind": "fixed", "turns": 3}, "think_time_s": 0.1},
    }
    source = build(table)
    one = source.pop()
    assert (one.session, one.prompt_tokens, one.content) == (1, 110, ((6, 100), (5, 10)))
    source.ended(one.request_id, 1.2, 5)
    assert source.peek() == pytest.approx(1.3)
    two = source.pop()
    assert (two.session, two.prompt_tokens, two.content) == (1, 125, ((6, 100), (5, 25)))
    source.ended(two.request_id, 1.35, 0)  # it failed: its user goes on all the same
    three = source.pop()
    assert (three.prompt_tokens, three.content) == (135, ((6, 100), (5, 35)))
    source.ended(three.request_id, 1.4, 5)
    assert (source.peek(), source.exhausted) == (None, True)


def test_a_conversation_stops_before_its_context_is_full(build: Build, drain: Build) -> None:
    sessions = {"turns": {"kind": "fixed", "turns": 10}, "max_context_tokens": 45}
    table = {"requests": 9, "arrivals": {"kind": "closed", "concurrency": 1}, "lengths": FIXED, "sessions": sessions}
    got = [(request.session, request.prompt_tokens) for _, request in drain(build(table))]
    assert got == [(s, p) for s in (1, 2, 3) for p in (10, 25, 40)]


@pytest.mark.parametrize(
    ("turns", "mean"),
    [({"kind": "uniform", "min": 2, "max": 6}, 4.0), ({"kind": "geometric", "mean": 3.0}, 3.0)],
)
def test_turns_have_their_mean(build: Build, drain: Build, turns: dict[str, Any], mean: float) -> None:
    table = {"duration_s": 2000, "arrivals": {"kind": "constant", "rate": 2}, "lengths": FIXED}
    got = drain(build({**table, "sessions": {"turns": turns}}), service_s=0.0)
    sessions = {request.session for _, request in got}
    assert len(got) / len(sessions) == pytest.approx(mean, rel=0.05)


def test_to_pop_what_is_not_there_is_a_bug(build: Build) -> None:
    for arrivals in ({"kind": "closed", "concurrency": 1}, {"kind": "poisson", "rate": 1}):
        source = build({"requests": 1, "arrivals": arrivals, "lengths": FIXED})
        source.pop()
        with pytest.raises(InvariantBroken):
            source.pop()
