"""Plans made ahead against steps one by one: the same history and state, whether they come to pass or are dropped."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import pytest
from core.test_runs import counts, expanded
from hypothesis import event, given, settings
from hypothesis import strategies as st

from rakka_sim.core.ahead import AheadBatcher
from rakka_sim.core.batching import Batcher, BatchingLimits, Event, Preempted, Sampled, SequenceSpec, Started
from rakka_sim.core.kv import KvCache
from rakka_sim.errors import InvariantBroken
from rakka_sim.values import FinishReason, StepPlan


class Move(NamedTuple):
    """Longest runs, and whether the runner goes on; who comes or goes then, or how far the plan gets and what then."""

    most: int
    goes_on: bool
    arrivals: list[Urgent]
    cancels: list[int]
    cut: int
    fail: bool
    surprise: FinishReason | None


class Urgent(NamedTuple):
    """A request: prompts of one source begin alike, and lower priorities go first."""

    prompt: int
    source: int
    output: int
    priority: int


COMERS = st.lists(
    st.builds(
        Urgent,
        st.integers(1, 24) | st.integers(1, 60),
        st.integers(0, 6),
        st.integers(1, 40),
        st.sampled_from([0, 0, 0, 0, -1, 1]),
    ),
    max_size=5,
)
MOVES = st.builds(
    Move,
    most=st.sampled_from([1, 2, 5, 1000]),
    goes_on=st.sampled_from([True, True, True, False]),
    arrivals=st.just([]) | COMERS,
    cancels=st.just([]) | st.lists(st.integers(0, 14), max_size=3),  # by place among those known
    cut=st.integers(1, 30) | st.just(1000),
    fail=st.sampled_from([False] * 20 + [True]),
    surprise=st.sampled_from([None] * 6 + [FinishReason.STOP, FinishReason.ERROR]),
)
ON = Move(1000, True, [], [], 1000, False, None)
LIMITS = st.tuples(
    st.sampled_from([16, 8, 30, 60]),  # blocks
    st.sampled_from([4, 3, 1, 16]),  # tokens in each
    st.sampled_from([8, 5, 2]),  # seats
    st.sampled_from([64, 16, 7]),  # budget
    st.sampled_from([0, 0, 5]),  # the most that a prompt gets of it
    st.sampled_from([True, True, False]),  # the whole prompt must fit
    st.sampled_from([True, True, True, False]),  # prefixes are found again
)
Shape = tuple[int, int, int, int, int, bool, bool]


FIELDS = ["request_id", "_total", "_computed", "lead", "place", "end", "preemptions", "started", "running"]
FIELDS += ["cancelled", "told", "since", "stretches", "streamed"]


def trace(made: Batcher, looks: bool) -> object:
    """All that a batcher holds, down to each field of each sequence; what its cache has put off only if one `looks`."""
    sequences = [[getattr(seq, name) for name in FIELDS] for seq in made._sequences.values()]
    decoding = made._decoding
    ends = [(at, place, seq.request_id) for at, place, seq in decoding._ends]
    sums = (decoding.count, decoding._leads, decoding._beat.steps)
    flight = [seq.request_id for seq in made._flight]
    counts = (made._seated, made._clock, made._uncomputed, made._waiting.count, list(made._events))
    queue = made._kv._free
    free = ([list(one) for one in queue._portions], queue._at, dict(queue._stale), queue.count)
    state = made.state() if looks else made._kv.free_blocks
    return state, sequences, ends, sums, flight, id(made._plan), made._head, made._cut, counts, free


class AheadPair:
    """One batcher that looks ahead, and one that plans single steps and is told the same at the same boundaries."""

    def __init__(self, shape: Shape, looks: bool) -> None:
        self.looks = looks
        blocks, size, seats, budget, threshold, reserve, cached = shape
        limits = BatchingLimits(
            seats, budget, 64, long_prefill_token_threshold=threshold, scheduler_reserve_full_isl=reserve
        )
        self.made = AheadBatcher(limits, KvCache(blocks, size, cached))
        self.steps = Batcher(limits, KvCache(blocks, size, cached), runs=False)
        self.room = min(64, blocks * size) - 1
        self.next_id = 0
        self.plan: StepPlan | None = None
        self.followed = self.with_prompts = self.seated = 0

    def come(self, arrivals: list[Urgent], *whom: Batcher) -> None:
        for number, one in enumerate(arrivals, self.next_id):
            prompt = min(one.prompt, self.room)
            spec = SequenceSpec(number, prompt, one.output, ((one.source, prompt),), priority=one.priority)
            for batcher in whom:
                batcher.add(spec)

    def come_and_go(self, move: Move) -> list[Event]:
        """The one without a view of what follows hears of them."""
        self.come(move.arrivals, self.steps)
        return [event for number in move.cancels for event in self.steps.cancel(number)]

    def go(self, move: Move) -> bool:
        """One plan comes to an end; whether there was any."""
        if self.plan is None:
            self.plan = self.made.plan(move.most)
            assert expanded(self.plan) == expanded(self.steps.plan())
            assert self.made.take_events() == self.steps.take_events()
        if self.plan is None:
            return False
        if self.made.run_must_end:  # by who came too late to keep it from beginning
            move = move._replace(goes_on=False, cut=1)
        known = [*self.made._sequences, self.next_id]
        move = move._replace(cancels=[known[place % len(known)] for place in move.cancels])
        before = trace(self.made, self.looks)
        following = self.made.ahead(move.most)
        assert trace(self.made, self.looks) == before
        if following is not None and move.goes_on:
            self.follow_on(self.plan, following, move)
        else:
            self.land(self.plan, following, move)
        self.made.check()
        return True

    def singly(self, plan: StepPlan, steps: int) -> list[Event]:
        """All but the last of a plan's first steps, one by one, each as the plan says; with the last one in flight."""
        singles: list[Event] = []
        for step in range(1, steps):
            singles += self.steps.commit(1)
            assert expanded(self.steps.plan(), 0) == expanded(plan, step)
        return singles

    def follow_on(self, plan: StepPlan, following: StepPlan, move: Move) -> None:
        """The runner has gone on before it could hear of who came or went."""
        kv, promised = self.made._kv, self.made.promised_ahead()
        told = {row.request_id: [*kv.table(row.request_id), *promised[row.request_id]] for row in following.rows}
        singles = self.singly(plan, plan.steps)
        self.come(move.arrivals, self.made)
        gone = [event for number in move.cancels for event in self.made.cancel(number)]
        others: list[Event] = []
        if in_time := not self.made.run_must_end:  # what follows does not depend on them
            others += self.come_and_go(move)
        events, news, self.plan = self.made.go_on()
        assert counts(events) == counts(singles + self.steps.commit(1))
        first = self.steps.plan()
        others += self.steps.take_events()
        if not in_time:
            others += self.come_and_go(move)
        self.next_id += len(move.arrivals)
        assert sorted(map(str, gone + news)) == sorted(map(str, others))
        assert expanded(replace(self.plan, waiting=0)) == expanded(replace(first, waiting=0))
        assert self.plan.steps == following.steps
        assert move.cancels or self.plan.waiting == self.made.waiting
        assert expanded(replace(following, waiting=0)) == expanded(replace(first, waiting=0))
        for row in following.rows:  # the blocks that the runner was told of are those that it gets
            table, known = list(self.steps._kv.table(row.request_id)), told[row.request_id]
            assert known[: len(table)] == table
            assert len(known) * kv.block_size >= row.context + row.tokens + following.steps - 1
        self.followed += 1
        self.with_prompts += following.prefill_tokens > 0
        self.seated += any(isinstance(event, Started) for event in news)

    def land(self, plan: StepPlan, following: StepPlan | None, move: Move) -> None:
        """It ends sooner, or as planned with nothing after it; those who came and went are in time."""
        done = min(move.cut, plan.steps)
        singles = self.singly(plan, done)
        self.come(move.arrivals, self.made, self.steps)
        self.next_id += len(move.arrivals)
        ended = dict.fromkeys([row.request_id for row in plan.rows if row.samples][-1:], move.surprise)
        if move.surprise is None or move.fail:
            ended = {}
        before, after = list[Event](), list[Event]()
        for number in move.cancels:
            before += self.made.cancel(number)
        due = {row.request_id for row in plan.rows}
        put_off = [] if following is None else [number for number in move.cancels if number not in due]
        for number in move.cancels:
            if number not in put_off:
                singles += self.steps.cancel(number)
        if move.fail:
            done -= 1  # the step under way is lost, and those before it stand
            events = self.made.fail(done)
            singles += self.steps.fail()
        else:
            events = self.made.commit(done, ended)
            singles += self.steps.commit(1, ended)
        for number in put_off:
            after += self.steps.cancel(number)
        assert counts(before + events) == counts(singles + after)
        self.plan = None
        if self.looks:
            assert self.made.state() == self.steps.state()


@given(LIMITS, COMERS, st.lists(MOVES, max_size=25), st.booleans())
@settings(max_examples=300)
def test_a_plan_made_ahead_is_the_one_that_would_be_made_later(
    shape: Shape, first: list[Urgent], moves: list[Move], looks: bool
) -> None:
    pair = AheadPair(shape, looks)
    pair.come(first, pair.made, pair.steps)
    pair.next_id += len(first)
    for move in moves:
        pair.go(move)
    while pair.go(ON):
        pass
    assert pair.made.state() == pair.steps.state()
    event(f"followed: {min(pair.followed, 5)}")
    event(f"with prompts: {min(pair.with_prompts, 5)}")
    event(f"seated: {min(pair.seated, 5)}")


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


def chunked(prompt: int, *, seats: int = 4, blocks: int = 50) -> AheadBatcher:
    """One that decodes, beside another whose prompt takes chunks of seven tokens, the first of which is in flight."""
    made = AheadBatcher(BatchingLimits(seats, 8, 100), KvCache(blocks, 4))
    made.add(SequenceSpec(0, 4, 20, ((0, 4),)))
    made.plan()
    made.commit(1)
    made.add(SequenceSpec(1, prompt, 20, ((1, prompt),)))
    made.plan()
    return made


def rows_of(plan: StepPlan | None) -> list[tuple[int, int, int, bool]]:
    assert plan is not None
    return [(row.request_id, row.tokens, row.context, row.samples) for row in plan.rows]


def test_chunks_of_a_prompt_follow_each_other_beside_those_who_decode_and_a_run_follows_the_last() -> None:
    made = chunked(18)
    assert rows_of(made.ahead(6)) == [(0, 1, 5, True), (1, 7, 7, False)]
    # Twelve tokens are in blocks of the plan in flight; of fourteen, two are new.
    assert made.promised_ahead() == {0: [], 1: [4, 5]}
    made.go_on()
    assert rows_of(made.ahead(6)) == [(0, 1, 6, True), (1, 4, 14, True)]
    made.go_on()
    following = made.ahead(6)
    assert rows_of(following) == [(0, 1, 7, True), (1, 1, 18, True)]
    assert following is not None
    assert following.steps == 6


def test_who_waits_is_seated_with_the_blocks_it_finds_and_those_it_gets() -> None:
    made = AheadBatcher(BatchingLimits(4, 16, 100), KvCache(50, 4))
    for number in (0, 1, 2):
        made.add(SequenceSpec(number, 14, 20, ((9, 12), (number, 2))))  # three blocks are common to all
    made.plan()
    assert rows_of(made.ahead()) == [(0, 1, 14, True), (1, 1, 14, True), (2, 2, 12, True)]
    assert made.promised_ahead() == {0: [], 1: [], 2: [0, 1, 2, 5]}
    _, news, plan = made.go_on()
    assert news == [Started(2, 12)]
    assert (plan.running, plan.waiting) == (3, 0)


def test_a_prefix_is_not_counted_on_where_its_blocks_are_reused_by_then() -> None:
    made = AheadBatcher(BatchingLimits(2, 100, 100), KvCache(5, 4))
    made.add(SequenceSpec(0, 9, 1, ((0, 9),)))  # leaves two blocks that may be found: 1 and 0, after 3, 4 and 2
    made.plan()
    made.commit(1)
    made.add(SequenceSpec(1, 12, 9, ((1, 12),)))
    made.add(SequenceSpec(2, 3, 1, ((2, 3),)))
    made.plan()  # takes all but block 0
    made.add(SequenceSpec(3, 6, 5, ((0, 6),)))
    assert rows_of(made.ahead()) == [(1, 1, 12, True)]  # which takes the last block, with the only hit in it
    made.go_on()
    assert made._kv.lookup(made._sequences[3].keys, 6) == []


def test_who_is_preempted_by_what_follows_is_still_there_if_that_is_dropped() -> None:
    def short() -> AheadBatcher:
        made = AheadBatcher(BatchingLimits(4, 100, 100), KvCache(4, 4))
        for number in (0, 1):
            made.add(SequenceSpec(number, 7, 9, ((number, 7),)))
        made.plan()
        made.commit(1)
        made.plan(1)
        assert rows_of(made.ahead()) == [(0, 1, 8, True)]
        made.add(SequenceSpec(2, 3, 3, ((2, 3),)))
        assert not made.run_must_end  # nobody is seated in a step that preempts
        return made

    dropped = short()
    assert len(dropped.commit(1)) == 2
    gone_on = short()
    gone_on.cancel(1)  # too late for that
    events, news, plan = gone_on.go_on()
    assert [event.request_id for event in events] == [0, 1]
    assert news == [Preempted(1), Sampled(1, 2, 0, FinishReason.CANCELLED, 1)]
    assert plan.waiting == 2


def test_who_comes_ends_a_step_only_if_it_has_a_part_in_the_next() -> None:
    spent, full = chunked(30), chunked(10, seats=2)
    for made in (spent, full):
        made.ahead()
        assert not made.run_must_end
        made.add(SequenceSpec(9, 5, 5, ((9, 5),)))
        assert not made.run_must_end  # the prompt takes all that the other one leaves; both seats are taken
    last = chunked(10)
    last.ahead()
    last.add(SequenceSpec(9, 5, 5, ((9, 5),)))
    assert last.run_must_end  # three tokens of the prompt are left, and four for somebody else
    assert rows_of(last.ahead()) == [(0, 1, 5, True), (1, 3, 7, True), (9, 4, 0, False)]
    assert not last.run_must_end
    last.add(SequenceSpec(10, 5, 5, ((9, 5),)))
    assert not last.run_must_end  # behind it
    last.add(SequenceSpec(11, 5, 5, ((9, 5),), priority=-1))
    assert last.run_must_end


def test_behind_a_head_that_finds_no_blocks_only_the_more_urgent_and_its_end_count() -> None:
    def stuck() -> AheadBatcher:
        made = AheadBatcher(BatchingLimits(4, 100, 100), KvCache(12, 4))
        made.add(SequenceSpec(0, 8, 30, ((0, 8),)))
        made.add(SequenceSpec(1, 44, 30, ((1, 44),)))  # 11 blocks, and 10 are left
        made.plan()
        following = made.ahead(5)
        assert following is not None
        assert following.steps == 5
        made.add(SequenceSpec(2, 1, 30, ((2, 1),)))
        assert not made.run_must_end
        return made

    urgent = stuck()
    urgent.add(SequenceSpec(3, 1, 30, ((3, 1),), priority=-1))
    assert urgent.run_must_end
    gone = stuck()
    assert gone.cancel(1) != []
    assert gone.run_must_end
    later = stuck()
    later.go_on()
    assert not later.run_must_end
    later.cancel(1)  # and the small one behind it fits
    assert later.run_must_end


@pytest.mark.parametrize("what", ["goes on", "ends", "fails"])
def test_who_is_cancelled_when_a_seat_has_been_foreseen_for_it_ends_with_its_step_or_before(what: str) -> None:
    made = chunked(10)
    made.add(SequenceSpec(9, 5, 5, ((9, 5),)))
    made.ahead()
    made.take_events()
    assert made.cancel(9) == []  # its row may be under way
    assert made.run_must_end
    made.check()
    if what == "goes on":
        assert made.go_on()[1] == [Started(9, 0)]
        assert Sampled(9, 0, 0, FinishReason.CANCELLED) in made.commit(1)
    else:
        assert (made.commit(1) if what == "ends" else made.fail())[-1] == Sampled(9, 0, 0, FinishReason.CANCELLED)
    assert made._kv.table(9) == ()


def test_a_row_that_is_cancelled_ends_a_step_that_something_is_to_follow() -> None:
    made = decoding([30, 30])
    made.commit(3)
    made.plan(1)
    made.ahead(1)
    assert not made.run_must_end
    made.cancel(1)
    assert made.run_must_end
    assert made.ahead() is None  # the plan will not end as planned


def test_who_waits_for_a_seat_that_becomes_free_is_in_the_next_plan() -> None:
    made = decoding([4, 30], seats=2)
    assert made.ahead() is not None
    assert not made.run_must_end
    made.add(SequenceSpec(9, 5, 5, ((9, 5),)))
    assert made.run_must_end
    assert rows_of(made.ahead()) == [(1, 1, 8, True), (9, 5, 0, True)]
    assert not made.run_must_end


def test_blocks_that_are_free_only_later_are_counted_on() -> None:
    made = decoding([4, 11], blocks=4)  # all are taken, until the first one gives its two back
    following = made.ahead()
    assert following is not None
    assert following.steps == 7
    assert made.promised_ahead() == {1: [1, 0]}  # its last one first


def test_a_request_that_is_cancelled_too_late_keeps_its_blocks_until_its_last_step_has_ended() -> None:
    made = decoding([30, 30])
    made.ahead(2)
    assert made.cancel(0) == []
    assert made.run_must_end
    held = made._kv.blocks_in_use
    events, news, _ = made.go_on()
    assert events == [Sampled(0, 1, 3), Sampled(1, 1, 3)]
    assert news == []
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


def test_without_runs_each_step_is_followed_by_one() -> None:
    made = AheadBatcher(BatchingLimits(4), KvCache(50, 4), runs=False)
    made.add(SequenceSpec(0, 5, 20, ((0, 5),)))
    made.plan()
    for step in range(19):
        following = made.ahead()
        assert following is not None
        assert (following.steps, following.max_context) == (1, 5 + step)
        made.go_on()
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
