"""Planning one step ahead, against vLLM's own loop: two steps under way, and results that are awaited afterwards.

The oracle schedules a step while the one before it is computed, counts tokens that are not there yet, and skips who
will have ended. `PipelinedBatcher` does none of this, and must compute the same steps.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rakka_sim.core.batching import Batcher, BatchingLimits, SequenceSpec
from rakka_sim.core.kv import KvCache
from rakka_sim.core.pipelined import PipelinedBatcher
from rakka_sim.values import FinishReason

Rows = list[tuple[int, int, int]]  # request, tokens, tokens computed before
SIZE = 4


@dataclass
class Request:
    number: int
    prompt: int
    end: int
    tokens: int = 0  # known
    coming: int = 0  # that steps under way will bring
    computed: int = 0
    blocks: int = 0

    def __post_init__(self) -> None:
        self.tokens = self.prompt


@dataclass
class Loop:
    """`EngineCore.step_with_batch_queue` and `Scheduler.schedule` of vLLM 0.19, without prefix caching."""

    limits: BatchingLimits
    free: int
    waiting: deque[Request] = field(default_factory=deque)
    running: list[Request] = field(default_factory=list)
    under_way: deque[list[tuple[Request, bool]]] = field(default_factory=deque)
    preemptions: int = 0

    def fits(self, request: Request, tokens: int) -> bool:
        missing = max(0, -(-tokens // SIZE) - request.blocks)
        if missing > self.free:
            return False
        self.free -= missing
        request.blocks += missing
        return True

    def give_back(self, request: Request) -> None:
        self.free += request.blocks
        request.blocks = 0

    def schedule(self) -> Rows:
        rows: Rows = []
        step: list[tuple[Request, bool]] = []
        budget, preempted, at = self.limits.max_num_batched_tokens, False, 0

        def put(request: Request, tokens: int) -> None:
            rows.append((request.number, tokens, request.computed))
            request.computed += tokens
            samples = request.computed == request.tokens + request.coming
            request.coming += samples
            step.append((request, samples))

        while at < len(self.running) and budget > 0:
            request = self.running[at]
            if request.tokens + request.coming == request.end:
                at += 1  # what is under way is its last
                continue
            tokens = min(request.tokens + request.coming - request.computed, budget)
            while not self.fits(request, request.computed + tokens):
                victim = self.running.pop()
                self.give_back(victim)
                victim.computed, preempted = 0, True
                self.waiting.appendleft(victim)
                if victim is request:
                    break
            else:
                put(request, tokens)
                budget -= tokens
                at += 1
                continue
            break
        while not preempted and self.waiting and budget > 0 and len(self.running) < self.limits.max_num_seqs:
            request = self.waiting[0]
            tokens = min(request.tokens - request.computed, budget)
            if -(-request.tokens // SIZE) > self.free or not self.fits(request, tokens):
                break
            self.running.append(self.waiting.popleft())
            put(request, tokens)
            budget -= tokens
        self.preemptions += preempted
        if step:
            self.under_way.append(step)
        return rows

    def update(self) -> None:
        for request, samples in self.under_way.popleft():
            if not samples:
                continue
            request.coming -= 1
            request.tokens += 1
            if request.tokens == request.end:
                self.give_back(request)
                if request in self.running:
                    self.running.remove(request)
                else:
                    self.waiting.remove(request)  # preempted after its last step had begun


Arrivals = list[tuple[int, int, int]]  # while which step somebody comes (-1: before the first), prompt, output


def by_the_loop(limits: BatchingLimits, blocks: int, arrivals: Arrivals) -> tuple[list[Rows], int]:
    """The steps, and how many of them preempted somebody. Who would come to an idle engine comes at once."""
    loop, steps, done, number = Loop(limits, blocks), [], 0, 0
    pending = deque(arrivals)
    while pending or loop.waiting or loop.running or loop.under_way:
        idle = not (loop.waiting or loop.running or loop.under_way)
        until = pending[0][0] + 1 if idle and pending else done
        while pending and pending[0][0] < max(until, done):
            number += 1
            _, prompt, output = pending.popleft()
            loop.waiting.append(Request(number, prompt, prompt + output))
        rows = loop.schedule()
        if rows:
            steps.append(rows)
        if loop.under_way and not (rows and len(loop.under_way) < 2):
            loop.update()
            done += 1
    return steps, loop.preemptions


def by_the_batcher(batcher: Batcher, arrivals: Arrivals) -> list[Rows]:
    steps: list[Rows] = []
    pending = deque(arrivals)
    number = 0

    def come(until: int) -> None:
        nonlocal number
        while pending and pending[0][0] < until:
            number += 1
            _, prompt, output = pending.popleft()
            batcher.add(SequenceSpec(number, prompt, output, ((number, prompt),), streamed=False))
            batcher.check()

    come(0)
    while True:
        plan = batcher.plan()
        batcher.check()
        if plan is None:
            if not pending:
                return steps
            come(max(pending[0][0] + 1, len(steps)))
            continue
        steps.append([(row.request_id, row.tokens, row.context) for row in plan.rows])
        come(len(steps))
        batcher.commit(1)
        batcher.check()


@st.composite
def workloads(draw: st.DrawFn) -> tuple[BatchingLimits, int, Arrivals]:
    blocks = draw(st.integers(4, 7))
    limits = BatchingLimits(draw(st.integers(1, 4)), draw(st.integers(4, 30)), blocks * SIZE)
    request = st.tuples(st.integers(-1, 12), st.integers(1, 8), st.integers(1, blocks * SIZE - 8))
    return limits, blocks, sorted(draw(st.lists(request, min_size=2, max_size=9)), key=lambda arrival: arrival[0])


@given(workloads())
def test_the_steps_are_those_of_the_loop(given_: tuple[BatchingLimits, int, Arrivals]) -> None:
    limits, blocks, arrivals = given_
    batcher = PipelinedBatcher(limits, KvCache(blocks, SIZE, prefix_caching=False), runs=False)
    assert by_the_batcher(batcher, arrivals) == by_the_loop(limits, blocks, arrivals)[0]


def test_a_seat_is_free_a_step_late_and_who_comes_waits_for_a_step() -> None:
    """B is there before the second step ends, but not before it begins; C takes A's seat one step after A's last."""
    arrivals = [(-1, 3, 2), (0, 2, 4), (1, 1, 1)]
    limits = BatchingLimits(2, 8, 40)
    late = by_the_batcher(PipelinedBatcher(limits, KvCache(10, SIZE), runs=False), arrivals)
    at_once = by_the_batcher(Batcher(limits, KvCache(10, SIZE), runs=False), arrivals)
    assert late == [
        [(1, 3, 0)],
        [(1, 1, 3)],
        [(2, 2, 0)],
        [(2, 1, 2), (3, 1, 0)],
        [(2, 1, 3)],
        [(2, 1, 4)],
    ]
    assert at_once == [[(1, 3, 0)], [(1, 1, 3), (2, 2, 0)], [(2, 1, 2), (3, 1, 0)], [(2, 1, 3)], [(2, 1, 4)]]


def test_who_is_over_gives_its_blocks_first() -> None:
    """A and B hold both blocks. A needs one more when B is over: nobody who runs is preempted, C comes a step later."""
    limits, arrivals = BatchingLimits(3, 12, 12), [(-1, 4, 4), (-1, 3, 1), (-1, 4, 1)]
    steps = by_the_batcher(PipelinedBatcher(limits, KvCache(2, SIZE, prefix_caching=False), runs=False), arrivals)
    assert steps == by_the_loop(limits, 2, arrivals)[0]
    assert steps[:3] == [[(1, 4, 0), (2, 3, 0)], [(1, 1, 4)], [(1, 1, 5)]]
    assert [(3, 4, 0)] in steps[3:]


def test_nobody_is_seated_in_a_step_that_has_preempted() -> None:
    """Nor if that was B, who is over: of its two blocks A takes one, and C has the other a step later."""
    limits, arrivals = BatchingLimits(3, 12, 12), [(-1, 4, 4), (-1, 7, 1), (-1, 3, 1)]
    steps = by_the_batcher(PipelinedBatcher(limits, KvCache(3, SIZE, prefix_caching=False), runs=False), arrivals)
    assert steps == by_the_loop(limits, 3, arrivals)[0]
    assert steps[:3] == [[(1, 4, 0), (2, 7, 0)], [(1, 1, 4)], [(1, 1, 5), (3, 3, 0)]]


def test_preemption_is_among_what_was_tried() -> None:
    limits, arrivals = BatchingLimits(3, 12, 24), [(-1, 7, 9), (0, 6, 9), (1, 5, 9)]
    steps, preemptions = by_the_loop(limits, 6, arrivals)
    assert preemptions > 0
    assert (
        by_the_batcher(PipelinedBatcher(limits, KvCache(6, SIZE, prefix_caching=False), runs=False), arrivals) == steps
    )


@pytest.mark.parametrize("waits", [True, False], ids=["in the queue", "in a step"])
def test_who_cancels_is_gone(waits: bool) -> None:
    batcher = PipelinedBatcher(BatchingLimits(1, 8, 40), KvCache(10, SIZE))
    batcher.add(SequenceSpec(1, 3, 5, ((1, 3),)))
    batcher.plan()
    batcher.add(SequenceSpec(2, 3, 5, ((2, 3),)))
    batcher.cancel(2 if waits else 1)
    batcher.commit(1)
    batcher.check()
    assert batcher.waiting == (0 if waits else 1)
    plan = batcher.plan()
    assert plan is not None
    assert [row.request_id for row in plan.rows] == [1 if waits else 2]


def test_a_lost_device_forgets_who_was_over() -> None:
    batcher = PipelinedBatcher(BatchingLimits(2, 8, 40), KvCache(10, SIZE))
    for number, output in ((1, 1), (2, 5)):
        batcher.add(SequenceSpec(number, 3, output, ((number, 3),)))
    batcher.plan()
    events = batcher.commit(1)
    assert [event.finish for event in events if getattr(event, "finish", None)] == [FinishReason.STOP]
    batcher.fail()
    batcher.check()
    assert (batcher.load.running, batcher.waiting) == (0, 1)
