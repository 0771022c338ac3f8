"""Runs of steps against the same steps one by one: the same history, the same state, wherever a run is cut."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rakka_sim.core.batching import Batcher, BatchingLimits, Event, Sampled, SequenceSpec
from rakka_sim.core.kv import KvCache
from rakka_sim.errors import InvariantBroken
from rakka_sim.values import FinishReason, StepPlan


class Arrival(NamedTuple):
    prompt: int
    source: int
    output: int


class Turn(NamedTuple):
    """What comes between two steps, or while they are in flight, and where a run is cut."""

    cut: int
    arrivals: list[Arrival]
    cancel: int
    in_flight: bool
    fail: bool


ARRIVALS = st.lists(st.builds(Arrival, st.integers(1, 24), st.integers(0, 6), st.integers(1, 40)), max_size=5)
TURNS = st.builds(
    Turn,
    cut=st.integers(1, 30) | st.just(1000),
    arrivals=st.just([]) | ARRIVALS,
    cancel=st.integers(-8, 12),
    in_flight=st.booleans(),
    fail=st.sampled_from([False] * 20 + [True]),
)
SHAPES = st.tuples(
    st.sampled_from([16, 8, 30, 60]),  # blocks
    st.sampled_from([4, 3, 1, 16]),  # tokens in each
    st.sampled_from([8, 5, 2]),  # seats
    st.sampled_from([64, 16]),  # budget
    st.sampled_from([True, True, False]),  # the whole prompt must fit
)


def batcher(shape: tuple[int, int, int, int, bool], runs: bool) -> Batcher:
    blocks, size, seats, budget, reserve = shape
    limits = BatchingLimits(seats, budget, 64, scheduler_reserve_full_isl=reserve)
    return Batcher(limits, KvCache(blocks, size), runs)


class Pair:
    """One batcher with runs, one without, that see the same things at the same boundaries.

    Their states are compared there, or only at the end: looking at a state writes down what is put off until then.
    """

    def __init__(self, shape: tuple[int, int, int, int, bool], looks: bool = True) -> None:
        self.looks = looks
        self.runs, self.steps = batcher(shape, True), batcher(shape, False)
        self.room = min(64, shape[0] * shape[1]) - 1
        self.next_id = 0

    def disturb(self, turn: Turn) -> int:
        """How many more wait."""
        for arrival in turn.arrivals:
            prompt = min(arrival.prompt, self.room)
            spec = SequenceSpec(self.next_id, prompt, arrival.output, ((arrival.source, prompt),))
            self.runs.add(spec)
            self.steps.add(spec)
            self.next_id += 1
        ended = self.runs.cancel(turn.cancel)
        assert self.steps.cancel(turn.cancel) == ended
        return len(turn.arrivals) - len(ended)

    def go(self, turn: Turn) -> bool:
        """One plan of the one, as many of the other; whether there was any."""
        if not turn.in_flight:
            self.disturb(turn)
        plan = self.runs.plan()
        assert expanded(plan) == expanded(self.steps.plan())
        if plan is None:
            return False
        events = self.steps.take_events()
        assert self.runs.take_events() == events
        done = min(turn.cut, plan.steps)
        singles = self.follow(plan, 1, done)
        if turn.in_flight:  # in the last step so far
            more_waiting = self.disturb(turn)
            if not self.runs.run_must_end:
                singles += self.follow(plan, done, plan.steps, more_waiting)
                done = plan.steps
        if turn.fail and done == 1:
            assert self.runs.fail() == self.steps.fail()
        else:
            singles += self.steps.commit(1)
            assert counts(self.runs.commit(done)) == counts(singles)
        self.compare(self.looks)
        return True

    def compare(self, states: bool = True) -> None:
        """Between plans."""
        if states:
            assert self.runs.state() == self.steps.state()

    def follow(self, plan: StepPlan, start: int, stop: int, more_waiting: int = 0) -> list[Event]:
        """Commit steps `start` to `stop` - 1 one by one, with the next one planned, which must be as the run says."""
        singles: list[Event] = []
        for step in range(start, stop):
            singles += self.steps.commit(1)
            assert expanded(self.steps.plan(), 0, -more_waiting) == expanded(plan, step)
        return singles


def expanded(plan: StepPlan | None, step: int = 0, more_waiting: int = 0) -> object:
    """What one step of a plan is to a record."""
    if plan is None:
        return None
    rows = [(row.request_id, row.tokens, row.context + step, row.samples) for row in plan.rows]
    taken = sum(plan.crossings[later % len(plan.crossings)] for later in range(1, step + 1))
    context = plan.context_tokens + step * plan.decode_seqs
    longest = plan.max_context + (step if plan.decode_seqs else 0)
    sizes = (plan.prefill_tokens, plan.decode_seqs, context, longest, plan.running, plan.waiting + more_waiting)
    return rows, sizes, plan.kv_blocks + taken


def counts(events: list[Event]) -> dict[int, list[object]]:
    """Tokens and end of each request, however the tokens came in portions."""
    found: dict[int, list[object]] = {}
    for event in events:
        assert isinstance(event, Sampled)
        first, count, _, _ = found.get(event.request_id, [event.first, 0, None, 0])
        found[event.request_id] = [first, count + event.count, event.finish, event.preemptions]  # type: ignore[operator]
    return found


@settings(max_examples=4 * settings.default.max_examples)
@given(SHAPES, ARRIVALS, st.lists(TURNS, max_size=25), st.booleans())
def test_a_run_is_its_steps(
    shape: tuple[int, int, int, int, bool], first: list[Arrival], turns: list[Turn], looks: bool
) -> None:
    pair = Pair(shape, looks)
    pair.disturb(Turn(1, first, -1, False, False))
    for turn in turns:
        pair.go(turn)
    pair.compare()
    while pair.go(Turn(1000, [], -1, False, False)):
        pass


def decoding(outputs: list[int], prompts: list[int], blocks: int = 100, size: int = 4, waiting: int = 0) -> Batcher:
    """A batcher whose sequences have all sampled their first token."""
    limits = BatchingLimits(len(outputs), 1000, 1000)
    made = Batcher(limits, KvCache(blocks, size))
    for number, (output, prompt) in enumerate(zip(outputs, prompts, strict=True)):
        made.add(SequenceSpec(number, prompt, output, ((number, prompt),)))
    for number in range(100, 100 + waiting):
        made.add(SequenceSpec(number, 3, 3, ((number, 3),)))
    made.plan()
    made.commit(1)
    return made


def planned(made: Batcher) -> StepPlan:
    plan = made.plan()
    assert plan is not None
    return plan


def test_a_run_goes_to_the_nearest_end() -> None:
    assert planned(decoding([30, 12, 25], [5, 5, 5])).steps == 11


def test_a_run_goes_as_far_as_the_free_blocks() -> None:
    # Three sequences of 6 tokens in 2 blocks each; 10 blocks. They take a block at steps 2 and 6: 3 + 1 do not suffice.
    made = decoding([30, 30, 30], [6, 6, 6], blocks=10)
    plan = planned(made)
    assert plan.steps == 6
    assert plan.crossings == (0, 0, 3, 0)
    assert plan.kv_blocks == 6
    assert made.promised_blocks(plan) == {0: [6], 1: [7], 2: [8]}


def test_a_run_takes_no_block_before_it_is_committed() -> None:
    made = decoding([30, 30], [4, 4], blocks=20)
    plan = planned(made)
    assert plan.kv_blocks == 2 + 2
    assert made._kv.blocks_in_use == 2
    made.commit(1)
    assert made._kv.blocks_in_use == 4


def test_full_seats_let_a_run_go_on_though_others_wait() -> None:
    plan = planned(decoding([30, 30], [5, 5], waiting=3))
    assert (plan.steps, plan.waiting) == (29, 3)


def test_a_prompt_in_progress_makes_single_steps() -> None:
    made = Batcher(BatchingLimits(4, 8, 100), KvCache(50, 4))
    made.add(SequenceSpec(0, 4, 20, ((0, 4),)))
    made.plan()
    made.commit(1)
    made.add(SequenceSpec(1, 40, 20, ((1, 40),)))
    steps = []
    for _ in range(8):
        steps.append(planned(made).steps)
        made.commit(1)
    assert steps[:6] == [1] * 6  # the prompt of 40 in chunks of 7 beside one decode row
    assert steps[6] > 1


def test_a_head_of_the_queue_that_finds_no_blocks_does_not_end_runs() -> None:
    made = Batcher(BatchingLimits(4, 100, 100), KvCache(12, 4))
    made.add(SequenceSpec(0, 8, 30, ((0, 8),)))
    made.add(SequenceSpec(1, 44, 30, ((1, 44),)))  # 11 blocks, and 10 are left
    assert planned(made).waiting == 1
    made.commit(1)
    plan = planned(made)
    assert (plan.steps, plan.waiting) == (29, 1)


def test_a_run_ends_before_a_row_fills_the_block_that_the_head_of_the_queue_misses() -> None:
    made = Batcher(BatchingLimits(4, 100, 100), KvCache(12, 4))
    made.add(SequenceSpec(0, 8, 30, ((0, 8),)))
    made.add(SequenceSpec(1, 12, 30, ((1, 12),)))
    planned(made)
    made.commit(1)
    # The first session later: 44 tokens. Two blocks are found, 9 are missing, 7 free; a third will be found when the
    # first row has computed 12 tokens.
    made.add(SequenceSpec(2, 44, 1, ((0, 44),)))
    plan = planned(made)
    assert plan.steps == 3
    made.commit(3)
    assert planned(made).steps == 1  # the block fills up in this step, and the head is looked up with it


def test_where_only_a_chunk_must_fit_nothing_is_sure_of_a_waiting_head() -> None:
    made = Batcher(BatchingLimits(4, 40, 100, scheduler_reserve_full_isl=False), KvCache(12, 4))
    made.add(SequenceSpec(0, 8, 30, ((0, 8),)))
    planned(made)
    made.commit(1)
    made.add(SequenceSpec(1, 46, 30, ((1, 46),)))
    assert planned(made).steps == 1


def test_who_may_be_seated_ends_a_run_and_who_must_wait_does_not() -> None:
    free_seat = Batcher(BatchingLimits(3), KvCache(100, 4))
    full = Batcher(BatchingLimits(2), KvCache(100, 4))
    for made in (free_seat, full):
        for number in (0, 1):
            made.add(SequenceSpec(number, 5, 30, ((number, 5),)))
        planned(made)
        assert not made.run_must_end  # it is no run
        made.commit(1)
        assert not made.run_must_end  # nothing is in flight
        assert planned(made).steps == 29
        assert not made.run_must_end
        made.add(SequenceSpec(9, 5, 30, ((9, 5),)))
    assert free_seat.run_must_end
    assert not full.run_must_end
    full.cancel(9)
    assert not full.run_must_end
    full.cancel(0)
    assert full.run_must_end
    full.commit(1)
    assert not full.run_must_end


def test_behind_a_head_that_finds_no_blocks_only_the_more_urgent_end_a_run() -> None:
    def stuck() -> Batcher:
        made = Batcher(BatchingLimits(4, 100, 100), KvCache(12, 4))
        made.add(SequenceSpec(0, 8, 30, ((0, 8),)))
        made.add(SequenceSpec(1, 44, 30, ((1, 44),)))
        planned(made)
        made.commit(1)
        assert planned(made).steps == 29
        made.add(SequenceSpec(2, 1, 30, ((2, 1),)))
        assert not made.run_must_end
        return made

    urgent = stuck()
    urgent.add(SequenceSpec(3, 1, 30, ((3, 1),), priority=-1))
    assert urgent.run_must_end
    gone = stuck()
    gone.cancel(1)  # and the small one behind it fits
    assert gone.run_must_end


@pytest.mark.parametrize("done", [1, 2, 7])
def test_a_cancel_in_a_run_keeps_the_tokens_of_the_steps_before(done: int) -> None:
    made = decoding([30, 30], [5, 5])
    planned(made)
    assert made.cancel(0) == []
    events = made.commit(done)
    assert events == [Sampled(0, 1, done - 1, FinishReason.CANCELLED), Sampled(1, 1, done)]
    assert made.load.running == 1


@pytest.mark.parametrize("done", [0, 30])
def test_a_plan_is_committed_as_far_as_it_goes(done: int) -> None:
    made = decoding([30], [5])
    planned(made)
    with pytest.raises(InvariantBroken, match=f"{done} steps are done of 29"):
        made.commit(done)


def test_who_stops_long_before_its_end_is_not_kept() -> None:
    made = Batcher(BatchingLimits(4, 100, 100_000), KvCache(30_000, 4))
    made.add(SequenceSpec(0, 4, 2000, ((0, 4),)))  # the next to come to its end, all the time
    for number in range(1, 1000):
        made.add(SequenceSpec(number, 4, 90_000, ((number, 4),)))
    while made.waiting:
        plan = made.plan(1)
        assert plan is not None
        made.commit(1, {row.request_id: FinishReason.STOP for row in plan.rows if row.request_id and row.context > 4})
        assert len(made._decoding._ends) < 100
    made.check()


def test_plan_and_commit_alternate() -> None:
    made = decoding([30], [5])
    planned(made)
    with pytest.raises(InvariantBroken, match="in flight already"):
        made.plan()
    made.commit(3)
    with pytest.raises(InvariantBroken, match="1 steps are done of None"):
        made.commit(1)
