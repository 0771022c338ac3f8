"""Plans made ahead against steps one by one: the same history and state, whether they come to pass or are dropped."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from core.test_runs import ARRIVALS, SHAPES, Arrival, Pair, Turn, counts, expanded
from hypothesis import event, given, settings
from hypothesis import strategies as st

from rakka_sim.core.ahead import AheadBatcher
from rakka_sim.core.batching import Batcher, BatchingLimits, Sampled, SequenceSpec
from rakka_sim.core.kv import KvCache
from rakka_sim.errors import InvariantBroken
from rakka_sim.values import FinishReason, StepPlan


class Move(NamedTuple):
    """Longest runs, and whether the runner goes on; who comes or goes then, or how far the plan gets and what then."""

    most: int
    goes_on: bool
    arrivals: list[Arrival]
    cancel: int
    cut: int
    fail: bool


MOVES = st.builds(
    Move,
    most=st.sampled_from([1, 2, 5, 1000]),
    goes_on=st.sampled_from([True, True, True, False]),
    arrivals=st.just([]) | ARRIVALS,
    cancel=st.integers(-8, 12),
    cut=st.integers(1, 30) | st.just(1000),
    fail=st.sampled_from([False] * 20 + [True]),
)


class AheadPair(Pair):
    """One batcher that looks ahead, and one that plans single steps and is told the same at the same boundaries."""

    def __init__(self, shape: tuple[int, int, int, int, bool], looks: bool) -> None:
        super().__init__(shape, looks)
        blocks, size, seats, budget, reserve = shape
        limits = BatchingLimits(seats, budget, 64, scheduler_reserve_full_isl=reserve)
        self.runs: AheadBatcher = AheadBatcher(limits, KvCache(blocks, size))
        self.plan: StepPlan | None = None
        self.followed = 0

    def go(self, move: Move) -> bool:
        """One plan comes to an end; whether there was any."""
        if self.plan is None:
            self.plan = self.runs.plan(move.most)
            assert expanded(self.plan) == expanded(self.steps.plan())
            assert self.runs.take_events() == self.steps.take_events()
        if self.plan is None:
            return False
        if self.runs.run_must_end:  # by who came too late to keep it from beginning
            move = move._replace(goes_on=False, cut=1, arrivals=[], cancel=-1)
        following = self.runs.ahead(move.most)
        if following is not None and move.goes_on:
            self.follow_on(self.plan, following, move)
        else:
            self.land(self.plan, move)
        self.runs.check()
        return True

    def follow_on(self, plan: StepPlan, following: StepPlan, move: Move) -> None:
        """The runner has gone on before it heard of who came or went."""
        before = {row.request_id: list(self.runs._kv.table(row.request_id)) for row in following.rows}
        promised = self.runs.promised_ahead()
        singles = self.follow(plan, 1, plan.steps)
        if move.cancel in {row.request_id for row in plan.rows} - before.keys():  # it has ended, which nobody knows yet
            self.disturb(Turn(1, [], move.cancel, True, False))
            move = move._replace(cancel=-1)
        singles += self.steps.commit(1)
        first = self.steps.plan()
        self.disturb(Turn(1, move.arrivals, move.cancel, True, False))
        events, self.plan = self.runs.go_on()
        assert counts(events) == counts(singles)
        came = len(move.arrivals) > 0 or move.cancel >= 0
        rows, sizes, blocks = expanded(self.plan)
        assert (rows, blocks) == (expanded(first)[0], expanded(first)[2])
        assert came or sizes == expanded(first)[1]
        for request_id, table in before.items():
            now, told = self.runs._kv.table(request_id), [*table, *promised.get(request_id, [])]
            assert told[: len(now)] == list(now)
            assert len(told) * self.runs._kv.block_size >= self.contexts[request_id] + self.plan.steps
        self.followed += 1

    @property
    def contexts(self) -> dict[int, int]:
        assert self.plan is not None
        return {row.request_id: row.context for row in self.plan.rows}

    def land(self, plan: StepPlan, move: Move) -> None:
        """It ends sooner, or as planned with nothing after it."""
        done = min(move.cut, plan.steps)
        singles = self.follow(plan, 1, done)
        self.disturb(Turn(1, move.arrivals, move.cancel, True, False))
        if move.fail:
            done -= 1  # the step under way is lost, and those before it stand
            assert counts(self.runs.fail(done)) == counts([*singles, *self.steps.fail()])
        else:
            assert counts(self.runs.commit(done)) == counts([*singles, *self.steps.commit(1)])
        self.plan = None
        self.compare(self.looks)


@given(SHAPES, ARRIVALS, st.lists(MOVES, max_size=25), st.booleans())
@settings(max_examples=300)
def test_a_plan_made_ahead_is_the_one_that_would_be_made_later(
    shape: tuple[int, int, int, int, bool], first: list[Arrival], moves: list[Move], looks: bool
) -> None:
    pair = AheadPair(shape, looks)
    pair.disturb(Turn(1, first, -1, False, False))
    for move in moves:
        pair.go(move)
    while pair.go(Move(1000, True, [], -1, 1000, False)):
        pass
    pair.compare()
    event(f"followed: {min(pair.followed, 5)}")


def decoding(outputs: list[int], seats: int = 4, size: int = 4, blocks: int = 100) -> AheadBatcher:
    """Sequences that have drawn their first token, and a run of theirs of up to three steps in flight."""
    made = AheadBatcher(BatchingLimits(seats, 1000, 1000), KvCache(blocks, size))
    for number, output in enumerate(outputs):
        made.add(SequenceSpec(number, 5, output, ((number, 5),)))
    made.plan()
    made.commit(1)
    made.plan(3)
    return made


def test_who_ends_with_the_plan_in_flight_has_no_row_in_the_next() -> None:
    following = decoding([4, 30, 9]).ahead()
    assert following is not None
    assert [(row.request_id, row.context) for row in following.rows] == [(1, 8), (2, 8)]
    assert following.steps == 5


def test_a_prompts_last_step_is_followed_by_a_run_and_the_others_by_who_knows() -> None:
    made = AheadBatcher(BatchingLimits(4, 8, 100), KvCache(50, 4))
    made.add(SequenceSpec(0, 12, 20, ((0, 12),)))
    made.plan()
    assert made.ahead() is None
    made.commit(1)
    made.plan()
    following = made.ahead(6)
    assert following is not None
    assert (following.steps, [row.context for row in following.rows]) == (6, [12])


def test_who_waits_for_a_seat_that_becomes_free_makes_the_next_plan_unknown() -> None:
    made = decoding([4, 30], seats=2)
    assert made.ahead() is not None
    assert not made.run_must_end
    made.add(SequenceSpec(9, 5, 5, ((9, 5),)))
    assert made.run_must_end
    assert made.ahead() is None


def test_blocks_that_are_free_only_later_are_not_counted_on() -> None:
    made = decoding([4, 11], blocks=4)  # all are taken, until the first one gives its two back
    assert made.ahead() is None
    made.commit(3)
    following = made.plan()
    assert following is not None
    assert following.steps > 2


def test_a_request_that_is_cancelled_too_late_keeps_its_blocks_until_its_last_step_has_ended() -> None:
    made = decoding([30, 30])
    made.ahead(2)
    assert made.cancel(0) == []
    assert made.run_must_end
    held = made._kv.blocks_in_use
    events, _ = made.go_on()
    assert events == [Sampled(0, 1, 3), Sampled(1, 1, 3)]
    assert len(made._kv.table(0)) == 2
    assert made._kv.blocks_in_use >= held
    assert made.run_must_end
    assert made.commit(2) == [Sampled(0, 4, 1, FinishReason.CANCELLED), Sampled(1, 4, 2)]
    assert made._kv.table(0) == ()


def test_nothing_follows_a_plan_that_was_not_made() -> None:
    made = decoding([30])
    with pytest.raises(InvariantBroken, match="nothing was made ahead"):
        made.go_on()
    made.ahead()
    made.fail()
    with pytest.raises(InvariantBroken, match="nothing was made ahead"):
        made.go_on()


def test_without_runs_every_step_waits_for_the_one_before() -> None:
    made = AheadBatcher(BatchingLimits(4), KvCache(50, 4), runs=False)
    made.add(SequenceSpec(0, 5, 20, ((0, 5),)))
    made.plan()
    assert made.ahead() is None


def test_a_limit_on_runs_makes_as_many_steps_in_all() -> None:
    limited, free = decoding([30]), Batcher(BatchingLimits(4, 1000, 1000), KvCache(100, 4))
    free.add(SequenceSpec(0, 5, 30, ((0, 5),)))
    free.plan()
    free.commit(1)
    assert free.plan().steps == 29
    steps = [3]
    limited.commit(3)
    while (plan := limited.plan(10)) is not None:
        steps.append(plan.steps)
        limited.commit(plan.steps)
    assert steps == [3, 10, 10, 6]
