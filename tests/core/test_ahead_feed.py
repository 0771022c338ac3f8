"""What a runner is told of plans that it goes on with unasked, or drops: it draws every token from the right ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from core.test_feed import BLOCK, STOP, VOCAB, Believer, alone
from hypothesis import event, given, settings
from hypothesis import strategies as st

from rakka_sim.core.ahead import AheadBatcher
from rakka_sim.core.batching import BatchingLimits, Event, Preempted, Sampled, SequenceSpec
from rakka_sim.core.feed import TokenFeed
from rakka_sim.core.kv import KvCache
from rakka_sim.values import ExecuteBatch, FinishReason, Sampling, StepFeed, StepOutcome, StepPlan

requests = st.lists(
    st.tuples(st.integers(1, 16), st.integers(1, 16), st.integers(0, 2), st.booleans()), min_size=1, max_size=12
)
acts = st.lists(st.sampled_from(["on", "on", "on", "drop", "late", "early", "fail", "cut"]), max_size=40)


class Stack:
    """Cores and a runner, as an engine and its worker hold them; half of the requests come later."""

    def __init__(self, blocks: int, given_requests: list[tuple[int, int, int, bool]]) -> None:
        kv = KvCache(blocks, BLOCK)
        self.batcher = AheadBatcher(BatchingLimits(3, 16, 48, scheduler_reserve_full_isl=False), kv)
        self.feed, self.runner, self.blocks = TokenFeed(kv, VOCAB), Believer(blocks), blocks
        self.asked: dict[int, tuple[ExecuteBatch, int]] = {}
        self.heard: dict[int, list[int]] = {}
        self.over: dict[int, FinishReason] = {}
        self.coming = list(enumerate(given_requests))
        self.went_on = self.unknown = self.gone = 0
        for _ in range(-(-len(given_requests) // 2)):
            self.come()

    def come(self) -> None:
        n, (prompt, output, shared, stops) = self.coming.pop(0)
        first = tuple((3 * place + 1) % VOCAB for place in range(8 * shared))
        ids = first + tuple((n + 2) * (place + 1) % VOCAB for place in range(prompt))
        content = ((1000, 8 * shared), (n, prompt)) if shared else ((n, prompt),)
        sampling = Sampling(stop_ids=(STOP,) if stops else ())
        batch = ExecuteBatch(n, "m", len(ids), output, content, sampling, token_ids=ids)
        self.batcher.add(SequenceSpec(n, len(ids), output, content))
        self.feed.add(batch, ())
        self.asked[n], self.heard[n] = (batch, output), []

    def disturb(self) -> None:
        """Somebody comes, and the newest goes."""
        if self.coming:
            self.come()
        known = [n for n in self.asked if n not in self.over]
        if len(known) > 2:
            self.note(self.batcher.cancel(known[-1]))

    def note(self, events: list[Event]) -> None:
        for one in events:
            if isinstance(one, Preempted):
                self.feed.unseat(one.request_id)
            elif isinstance(one, Sampled):
                self.heard[one.request_id] += self.feed.say(one.request_id, one.count)[1]
                if one.finish is not None:
                    self.feed.drop(one.request_id)
                    self.over[one.request_id] = one.finish

    def plan(self) -> tuple[StepPlan, StepFeed] | None:
        plan = self.batcher.plan(5)
        self.note(self.batcher.take_events())
        return None if plan is None else (plan, self.feed.inputs(plan, self.batcher.promised_blocks(plan)))

    def step(self, plan: StepPlan, told: StepFeed, act: str) -> tuple[StepPlan, StepFeed] | None:
        """A plan is computed, or not; what is in flight then."""
        if act == "fail":
            self.runner = Believer(self.blocks)
            self.note(self.batcher.fail())
            self.feed.forget()
            return None
        before = (self.feed.inputs_ahead(plan, {}), self.batcher.ahead(5))
        following = before[1]
        then = following and self.feed.inputs_ahead(following, self.batcher.promised_ahead())
        assert self.feed.inputs_ahead(plan, {}) == before[0]  # nothing counts as told that may be dropped
        if act == "early":
            self.disturb()
        stops = any(self.asked[row.request_id][0].sampling.stop_ids for row in plan.rows)
        steps = 1 if act == "cut" or stops else plan.steps
        tokens = self.runner.run(plan, told, steps)
        ended = self.feed.took(StepOutcome(plan, 0.0, np.arange(steps), tokens))
        as_planned = steps == plan.steps and not ended and act in ("on", "late")
        if not as_planned or following is None or then is None or self.batcher.run_must_end:
            self.note(self.batcher.commit(steps, ended))
            return None
        if act == "late":
            self.disturb()
        events, news, made = self.batcher.go_on()
        self.feed.note(then)
        self.note(events)
        self.note(news)
        self.went_on += 1
        self.unknown += len(then.new)
        self.gone += len(then.gone)
        return made, then


@given(requests, acts, st.sampled_from([12, 24]))
@settings(max_examples=300)
def test_every_token_is_drawn_from_the_right_ones(
    given_requests: list[tuple[int, int, int, bool]], what: list[str], blocks: int
) -> None:
    stack = Stack(blocks, given_requests)
    todo = iter(what)
    flight = stack.plan()
    while flight is not None:
        flight = stack.step(*flight, next(todo, "on"))
        stack.batcher.check()
        if flight is None:
            flight = stack.plan()
        while flight is None and stack.coming:
            stack.come()
            flight = stack.plan()

    assert sorted(stack.over) == sorted(stack.asked)
    for n, (batch, output) in stack.asked.items():
        whole = alone(batch.token_ids, output, bool(batch.sampling.stop_ids))
        if stack.over[n] is FinishReason.CANCELLED:
            assert stack.heard[n] == whole[: len(stack.heard[n])]
        else:
            assert stack.heard[n] == whole
    event(f"went on: {min(stack.went_on, 3)}")
    event(f"told ahead of new ones: {min(stack.unknown, 3)}, of gone ones: {min(stack.gone, 1)}")


def test_who_has_ended_is_forgotten_by_a_runner_that_is_never_asked() -> None:
    stack = Stack(24, [(3, 2 + number % 3, 0, False) for number in range(12)])
    while stack.coming:
        stack.come()
    flight = stack.plan()
    for _ in range(200):
        if flight is None:
            break
        flight = stack.step(*flight, "on")
    assert len(stack.over) == 12
    assert set(stack.runner.tokens) <= {9, 10, 11}


def test_what_counts_as_told_is_not_told_again() -> None:
    stack = Stack(24, [(6, 9, 0, False)] * 4)
    flight = stack.plan()
    assert flight is not None
    plan, told = flight
    assert [fed.request_id for fed in told.new] == [0, 1]
    assert stack.feed.inputs_ahead(plan, {}) == StepFeed((), {}, ())
    nobody = replace(plan, rows=[])
    stack.feed.drop(0)
    then = stack.feed.inputs_ahead(nobody, {})
    assert then.gone == (0,)
    stack.feed.drop(1)  # after that was made
    stack.feed.note(then)
    assert stack.feed.inputs_ahead(nobody, {}).gone == (1,)
