"""Batching one step ahead of its results (vLLM's `async_scheduling`); what a step may hold is not decided here.

While the device computes a step, the next one has been planned already: its planner knew neither what that step brings
nor who has come since it began. Here a step is planned when it begins, from what was known one step before:

* who has come since the step before began waits for one step more;
* who ended with the step before still holds a seat and blocks.

That a token will be there is known before it is, so nothing else changes. When nothing could be computed so, the engine
looks again with all that is known: a device that idles is not ahead of anybody.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain

from rakka_sim.core.batching import NOBODY, Batcher, BatchingLimits, Event, SequenceSpec
from rakka_sim.core.kv import KvCache
from rakka_sim.core.runs import ANY
from rakka_sim.core.sequence import Sequence
from rakka_sim.core.step import Step
from rakka_sim.core.waiting import WaitingQueue
from rakka_sim.errors import InvariantBroken
from rakka_sim.values import FinishReason, StepPlan


class _Queue(WaitingQueue):
    """A queue whose newest are counted but not called yet."""

    __slots__ = ("unseen",)

    def __init__(self) -> None:
        super().__init__()
        self.unseen: dict[int, Sequence] = {}

    def __iter__(self) -> Iterator[Sequence]:
        return chain(super().__iter__(), self.unseen.values())

    def hide(self, seq: Sequence) -> None:
        """It has come too late for the next call."""
        self.remove(seq)
        self.count += 1
        self.unseen[seq.request_id] = seq

    def show(self) -> None:
        """All may be called from here on."""
        self.count -= len(self.unseen)
        for seq in self.unseen.values():
            self.push(seq)
        self.unseen.clear()

    def remove(self, seq: Sequence) -> None:
        if self.unseen.pop(seq.request_id, None) is None:
            super().remove(seq)
        else:
            self.count -= 1


class PipelinedBatcher(Batcher):
    """A `Batcher` that knows less than it could.

    A run is planned only by who knows all, and ends with the step in which somebody comes who might have a seat: the
    step after it is planned without them. Where all seats are taken nobody needs to look, since those of whoever ends
    the run are held for one step more.
    """

    def __init__(self, limits: BatchingLimits, kv: KvCache, runs: bool = True) -> None:
        super().__init__(limits, kv, runs)
        self._queue = _Queue()
        self._waiting = self._queue
        self._over: list[Sequence] = []  # they ended with the last step, in the order in which they were seated
        self._before: list[int] = []  # how many of those running were seated before each of them

    def add(self, spec: SequenceSpec) -> None:
        super().add(spec)
        self._queue.hide(self._sequences[spec.request_id])

    def plan(self, most: int = ANY) -> StepPlan | None:
        self._must_be_idle()
        if not self._over and not self._queue.unseen and self._plan_run(most):
            return self._plan
        for _ in range(2):
            self._plan_step()
            self._catch_up()
            if self._flight:
                return self._plan
        self._plan = None
        return None

    @property
    def run_must_end(self) -> bool:
        if super().run_must_end:
            return True
        in_a_run = self._plan is not None and self._plan.steps > 1
        return in_a_run and bool(self._queue.unseen) and len(self._running) < self.limits.seats

    def _catch_up(self) -> None:
        """A step is planned; what has happened meanwhile is known to whoever plans the one after it."""
        for seq in self._over:
            super()._give_back(seq)
        self._over = []
        self._queue.show()

    def _schedule_running(self, step: Step) -> bool:
        over = len(self._over)
        return super()._schedule_running(step) and len(self._over) == over

    def _preempt_last(self) -> Sequence:
        """Who is over, and was seated last, is preempted like anybody, and does not mind."""
        if not self._over or self._before[len(self._over) - 1] < len(self._running):
            return super()._preempt_last()
        seq = self._over.pop()
        super()._give_back(seq)
        return seq

    def _seat_waiting(self, step: Step) -> None:
        limits = self.limits
        seats = limits.max_num_seqs - len(self._over)
        if len(self._running) < seats:
            self.limits = replace(limits, max_num_seqs=seats)
            super()._seat_waiting(step)
            self.limits = limits

    def _give_back(self, seq: Sequence) -> None:
        if seq in self._flight:
            self._over.append(seq)
        else:
            super()._give_back(seq)

    def commit(self, steps_done: int, ended: Mapping[int, FinishReason] = NOBODY) -> list[Event]:
        seated = self._running
        events = super().commit(steps_done, ended)
        if self._over:
            over = {seq.request_id for seq in self._over}
            self._over = [seq for seq in seated if seq.request_id in over]
            running = 0
            self._before = []
            for seq in seated:
                running += seq.running
                if seq.request_id in over:
                    self._before.append(running)
        return events

    def fail(self, steps_done: int = 0) -> list[Event]:
        self._over = []
        events = super().fail(steps_done)
        self._queue.show()
        return events

    # --- what there is ------------------------------------------------------------------------------------------

    def state(self) -> tuple[object, ...]:
        return *super().state(), [seq.request_id for seq in self._over], [seq.request_id for seq in self._waiting]

    def check(self) -> None:
        super().check()
        if len(self._running) + len(self._over) > self.limits.seats:
            raise InvariantBroken("batcher", f"{len(self._running)} requests run, and {len(self._over)} are over")
        if not all(self._kv.table(seq.request_id) for seq in self._over):
            raise InvariantBroken("batcher", "a request that is over has lost its blocks too early")
