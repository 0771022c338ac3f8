"""The batcher on schedules worked out by hand, and what it takes, refuses and reports."""

from __future__ import annotations

import pytest

from rakka_sim.core.batching import Batcher, BatchingLimits, Event, Preempted, Sampled, SequenceSpec, Started
from rakka_sim.core.kv import KvCache
from rakka_sim.errors import BadRequest, ContextLengthExceeded, InputError, InvariantBroken
from rakka_sim.values import FinishReason, StepPlan

A, B, C = 1, 2, 3
STOP, LENGTH, CANCELLED = FinishReason.STOP, FinishReason.LENGTH, FinishReason.CANCELLED


def spec(number: int, prompt: int, output: int, max_tokens: int | None = None, priority: int = 0) -> SequenceSpec:
    return SequenceSpec(number, prompt, output, ((number, prompt),), max_tokens, 0, priority)


def make(blocks: int = 100, **limits: int | bool) -> Batcher:
    return Batcher(BatchingLimits(**limits), KvCache(blocks, 4))  # type: ignore[arg-type]


def planned(batcher: Batcher) -> StepPlan:
    plan = batcher.plan()
    assert plan is not None
    return plan


def rows(plan: StepPlan) -> list[tuple[int, int, int, bool]]:
    return [(row.request_id, row.tokens, row.context, row.samples) for row in plan.rows]


def finish_all(batcher: Batcher) -> list[Event]:
    events: list[Event] = []
    while (plan := batcher.plan()) is not None:
        events += batcher.commit(plan.steps)
        batcher.check()
    return events


# Three requests: A (prompt 10, output 4), B (6, 8), C (3, 6). Blocks of 4 tokens, 6 of them; 8 tokens a step; 3 seats.
# Each line: rows (request, tokens, context, samples); steps; free queue after the plan; running/waiting; what happens.
# fmt: off
THREE_REQUESTS = [
    # A takes the whole budget and blocks 0, 1. Nothing is left for B.
    ([(A, 8, 0, False)],                                     1, [2, 3, 4, 5], (1, 2), [Started(A, 0)]),
    # A's last 2 tokens (block 2); B's 6 are just what is left of the budget (3, 4).
    ([(A, 2, 8, True), (B, 6, 0, True)],                     1, [5],          (2, 1),
     [Started(B, 0), Sampled(A, 0, 1), Sampled(B, 0, 1)]),
    # A and B decode; C is seated in the last block, 5.
    ([(A, 1, 10, True), (B, 1, 6, True), (C, 3, 0, True)],   1, [],           (3, 0),
     [Started(C, 0), Sampled(A, 1, 1), Sampled(B, 1, 1), Sampled(C, 0, 1)]),
    # All decode and fill their last blocks: 12, 8 and 4 tokens. Nobody needs a block yet, but a second step would.
    ([(A, 1, 11, True), (B, 1, 7, True), (C, 1, 3, True)],   1, [],           (3, 0),
     [Sampled(A, 2, 1), Sampled(B, 2, 1), Sampled(C, 1, 1)]),
    # A needs a block: C, the last one, loses its only one (5) to A. B needs one too, and is the last one itself now:
    # it gives 4 and 3 back and waits before C. Nobody is seated in a step that preempts. A samples its 4th and ends.
    ([(A, 1, 12, True)],                                     1, [4, 3],       (1, 2),
     [Preempted(C), Preempted(B), Sampled(A, 3, 1, STOP)]),
    # Free are 4 3 and, from A's end, 5 2 1 0. B knows 9 tokens and finds its first 8 in 3 and 4, which nobody reused;
    # the 9th goes to 5. C knows 5 and finds nothing, since A has overwritten 5: it takes 2 and 1.
    ([(B, 1, 8, True), (C, 5, 0, True)],                     1, [0],          (2, 0),
     [Sampled(B, 3, 1, None, 1), Sampled(C, 2, 1, None, 1)]),
    # A run. B has 4 tokens to go, C 3. At the 4th step both would take a block, and one is left: 3 steps, then C ends.
    ([(B, 1, 9, True), (C, 1, 5, True)],                     3, [0],          (2, 0),
     [Sampled(B, 4, 3, None, 1), Sampled(C, 3, 3, STOP, 1)]),
    # C's blocks came back last first: 1, 2 behind 0. B's 13th token goes to 0, and B ends.
    ([(B, 1, 12, True)],                                     1, [1, 2],       (1, 0), [Sampled(B, 7, 1, STOP, 1)]),
]
# fmt: on


def test_three_requests_by_hand() -> None:
    kv = KvCache(6, 4)
    batcher = Batcher(BatchingLimits(max_num_seqs=3, max_num_batched_tokens=8, max_model_len=24), kv)
    for request in (spec(A, 10, 4), spec(B, 6, 8), spec(C, 3, 6)):
        batcher.add(request)
    for number, (expected, steps, free, (running, waiting), events) in enumerate(THREE_REQUESTS):
        plan = planned(batcher)
        assert rows(plan) == expected, number
        assert (plan.steps, plan.running, plan.waiting) == (steps, running, waiting), number
        assert kv.next_free(6) == free, number
        batcher.check()
        assert batcher.commit(plan.steps) == events, number
    assert batcher.plan() is None
    assert kv.next_free(6) == [1, 2, 0, 5, 4, 3]


def test_a_step_says_what_it_costs_by() -> None:
    batcher = make(max_num_batched_tokens=20)
    batcher.add(spec(A, 5, 9))
    batcher.add(spec(B, 3, 9))
    first = planned(batcher)
    assert (first.prefill_tokens, first.decode_seqs, first.context_tokens, first.kv_blocks) == (8, 0, 0, 3)
    batcher.commit(1)
    batcher.add(spec(C, 30, 9))
    mixed = planned(batcher)
    assert rows(mixed) == [(A, 1, 5, True), (B, 1, 3, True), (C, 18, 0, False)]
    sizes = (mixed.prefill_tokens, mixed.decode_seqs, mixed.context_tokens, mixed.max_context, mixed.kv_blocks)
    assert sizes == (18, 2, 8, 5, 8)
    assert mixed.crossings == ()


def test_arrivals_while_a_plan_is_in_flight_wait_for_the_next() -> None:
    batcher = make()
    batcher.add(spec(A, 5, 9))
    planned(batcher)
    batcher.add(spec(B, 5, 9))
    batcher.commit(1)
    assert rows(planned(batcher)) == [(A, 1, 5, True), (B, 5, 0, True)]


def test_a_long_prompt_is_capped_by_the_threshold() -> None:
    batcher = make(max_num_batched_tokens=20, long_prefill_token_threshold=6)
    batcher.add(spec(A, 15, 2))
    batcher.add(spec(B, 4, 2))
    assert rows(planned(batcher)) == [(A, 6, 0, False), (B, 4, 0, True)]
    batcher.commit(1)
    assert rows(planned(batcher)) == [(A, 6, 6, False), (B, 1, 4, True)]


def test_without_chunked_prefill_a_prompt_waits_for_room_in_a_step() -> None:
    batcher = make(max_num_batched_tokens=20, max_model_len=20, chunked_prefill=False)
    batcher.add(spec(A, 12, 2))
    batcher.add(spec(B, 9, 2))
    assert rows(planned(batcher)) == [(A, 12, 0, True)]
    batcher.commit(1)
    assert rows(planned(batcher)) == [(A, 1, 12, True), (B, 9, 0, True)]


def test_a_prompt_that_does_not_fit_whole_waits_unless_told_otherwise() -> None:
    for reserve, expected in ((True, [(A, 1, 16, True)]), (False, [(A, 1, 16, True), (B, 7, 0, False)])):
        batcher = make(blocks=8, max_num_batched_tokens=8, scheduler_reserve_full_isl=reserve)
        batcher.add(spec(A, 16, 9))
        batcher.add(spec(B, 20, 9))
        for _ in range(2):
            planned(batcher)
            batcher.commit(1)
        plan = planned(batcher)
        assert rows(plan) == expected


def test_lower_priorities_are_seated_first_and_preempted_last() -> None:
    batcher = make(blocks=4, max_num_seqs=3)
    batcher.add(spec(A, 4, 5, priority=5))
    batcher.add(spec(B, 4, 5, priority=1))
    batcher.add(spec(C, 4, 5, priority=5))
    assert [row.request_id for row in planned(batcher).rows] == [B, A, C]
    batcher.commit(1)
    plan = planned(batcher)  # each needs a second block, and one is left
    assert rows(plan) == [(B, 1, 4, True), (A, 1, 4, True)]
    assert batcher.take_events() == [Preempted(C)]


def test_a_later_turn_finds_what_the_one_before_has_computed() -> None:
    batcher = make()
    batcher.add(SequenceSpec(A, 8, 6, ((7, 8),)))
    finish_all(batcher)
    batcher.add(SequenceSpec(B, 20, 1, ((7, 20),)))
    planned(batcher)
    assert batcher.take_events() == [Started(B, 12)]  # 13 were computed: the 14th was sampled, and nobody read it


@pytest.mark.parametrize(
    ("output", "max_tokens", "model_len", "count", "reason"),
    [
        (5, None, 100, 5, STOP),
        (5, 9, 100, 5, STOP),
        (5, 5, 100, 5, LENGTH),
        (5, 3, 100, 3, LENGTH),
        (50, None, 30, 20, LENGTH),
        (20, None, 30, 20, LENGTH),
        (50, 60, 30, 20, LENGTH),
        (0, None, 100, 1, STOP),
    ],
)
def test_where_a_request_ends(
    output: int, max_tokens: int | None, model_len: int, count: int, reason: FinishReason
) -> None:
    batcher = make(max_model_len=model_len)
    batcher.add(spec(A, 10, output, max_tokens))
    events = [event for event in finish_all(batcher) if isinstance(event, Sampled)]
    assert sum(event.count for event in events) == count
    assert events[-1].finish is reason


def test_a_small_pool_is_a_short_model() -> None:
    batcher = make(blocks=5)
    batcher.add(spec(A, 10, 100))
    assert finish_all(batcher)[-1] == Sampled(A, 1, 9, LENGTH)  # 20 tokens in all


def test_tokens_of_a_former_engine_are_prompt_and_are_not_reported_again() -> None:
    batcher = make(max_num_batched_tokens=100)
    batcher.add(SequenceSpec(A, 10, 6, ((1, 10),), max_tokens=8, generated=4))
    assert rows(planned(batcher)) == [(A, 14, 0, True)]
    assert batcher.commit(1) == [Started(A, 0), Sampled(A, 4, 1)]
    assert finish_all(batcher) == [Sampled(A, 5, 1, STOP)]


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        (SequenceSpec(A, 0, 5, ((1, 0),)), "a prompt needs at least one token"),
        (SequenceSpec(A, 5, 5, ((1, 4),)), "the content holds 4 tokens, the prompt 5"),
        (SequenceSpec(A, 5, 5, ()), "the content holds 0 tokens, the prompt 5"),
        (SequenceSpec(A, 5, 5, ((1, -1), (2, 6))), "negative source or length"),
        (SequenceSpec(A, 5, 5, ((-1, 5),)), "negative source or length"),
        (SequenceSpec(A, 5, -5, ((1, 5),)), "may not be negative"),
        (SequenceSpec(A, 5, 5, ((1, 5),), max_tokens=0), "max_tokens is 0"),
        (SequenceSpec(A, 5, 5, ((1, 5),), generated=5), "none of 5 is left"),
        (SequenceSpec(C, 5, 5, ((1, 5),)), "request id 3 is taken"),
    ],
)
def test_malformed_requests_are_refused(given: SequenceSpec, fault: str) -> None:
    batcher = make()
    batcher.add(spec(C, 5, 5))
    with pytest.raises(BadRequest) as refused:
        batcher.add(given)
    assert fault in refused.value.reason
    batcher.check()


@pytest.mark.parametrize(("blocks", "model_len", "most"), [(100, 50, 50), (5, 50, 20)])
def test_what_can_never_fit_is_refused(blocks: int, model_len: int, most: int) -> None:
    batcher = make(blocks, max_model_len=model_len)
    batcher.add(spec(A, most - 1, 5))
    with pytest.raises(ContextLengthExceeded) as refused:
        batcher.add(spec(B, most, 5))
    assert (refused.value.tokens, refused.value.max) == (most + 1, most)


@pytest.mark.parametrize(
    ("limits", "where"),
    [
        ({"max_num_seqs": 0}, "max_num_seqs"),
        ({"max_num_batched_tokens": 0}, "max_num_batched_tokens"),
        ({"max_model_len": 1}, "max_model_len"),
        ({"long_prefill_token_threshold": -1}, "long_prefill_token_threshold"),
        ({"chunked_prefill": False, "max_num_batched_tokens": 99, "max_model_len": 100}, "max_num_batched_tokens"),
    ],
)
def test_impossible_limits_are_refused(limits: dict[str, int], where: str) -> None:
    with pytest.raises(InputError) as refused:
        make(**limits)
    assert refused.value.where == where


def test_cancel_at_every_stage() -> None:
    batcher = make(max_num_seqs=2)
    for number in (A, B, C):
        batcher.add(spec(number, 5, 9))
    assert batcher.cancel(C) == [Sampled(C, 0, 0, CANCELLED)]  # waiting: at once
    planned(batcher)
    assert batcher.cancel(A) == []  # in flight: when its step is done
    assert batcher.cancel(A) == []
    events = batcher.commit(1)
    assert events == [Started(A, 0), Started(B, 0), Sampled(A, 0, 0, CANCELLED), Sampled(B, 0, 1)]
    assert batcher.cancel(B) == [Sampled(B, 1, 0, CANCELLED)]  # running, between steps: at once
    assert batcher.cancel(B) == []
    assert batcher.cancel(99) == []
    assert batcher.plan() is None
    assert batcher.load.kv_usage == 0


def test_cancel_of_one_that_runs_but_has_no_row_in_flight() -> None:
    batcher = make(max_num_batched_tokens=4)
    batcher.add(spec(A, 3, 9, priority=5))
    planned(batcher)
    batcher.commit(1)
    batcher.add(spec(B, 20, 9))
    assert rows(planned(batcher)) == [(A, 1, 3, True), (B, 3, 0, False)]
    batcher.commit(1)
    assert rows(planned(batcher)) == [(B, 4, 3, False)]  # the more urgent one takes the whole budget now
    assert batcher.cancel(A) == [Sampled(A, 2, 0, CANCELLED)]
    batcher.check()
    assert batcher.commit(1) == []
    assert rows(planned(batcher)) == [(B, 4, 7, False)]


def test_a_lost_context_is_computed_again_in_order_with_the_tokens_there_were() -> None:
    batcher = make(max_num_seqs=2)
    for number in (A, B, C):
        batcher.add(spec(number, 8, 9))
    first = planned(batcher)
    batcher.commit(first.steps)
    run = planned(batcher)
    batcher.commit(3)
    planned(batcher)
    batcher.cancel(B)
    assert run.steps == 8
    assert batcher.fail() == [Sampled(B, 4, 0, CANCELLED)]
    batcher.check()
    assert batcher.load.kv_usage == 0
    again = planned(batcher)
    assert rows(again) == [(A, 12, 0, True), (C, 8, 0, True)]  # nothing is found: the blocks are new
    assert batcher.commit(1) == [Started(C, 0), Sampled(A, 4, 1), Sampled(C, 0, 1)]


def test_load_counts_what_is_not_computed_yet() -> None:
    batcher = make(max_num_seqs=2, max_num_batched_tokens=10, blocks=50)
    for number in (A, B, C):
        batcher.add(spec(number, 12, 9))
    assert (batcher.load.waiting, batcher.load.queued_tokens) == (3, 36)
    planned(batcher)
    batcher.commit(1)
    load = batcher.load
    assert (load.running, load.waiting, load.capacity) == (1, 2, 2)
    assert load.queued_tokens == 2 + 12 + 12 - 1  # the next token of the one that runs is not queued
    assert load.kv_usage == 3 / 50


def test_check_sees_a_request_that_is_lost() -> None:
    batcher = make()
    batcher.add(spec(A, 5, 5))
    planned(batcher)
    batcher._running.clear()
    with pytest.raises(InvariantBroken, match="lost, or in two places"):
        batcher.check()
