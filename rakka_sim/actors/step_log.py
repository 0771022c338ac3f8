"""An engine's starts and steps in the event log, and where its tokens are there; what a step computes is not here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rakka_sim.core.batching import Sampled
from rakka_sim.errors import InvariantBroken
from rakka_sim.values import StepOutcome, StepPlan, Stretch

if TYPE_CHECKING:
    from rakka_sim.records import EventLog

Times = np.ndarray[Any, Any]


class StepLog:
    """What one engine tells the event log, as its replica `index` there. Its batcher numbers steps from 0 on."""

    def __init__(self, log: EventLog, index: int) -> None:
        self._log = log
        self._index = index
        self._origin = 0  # the number that the log has for the batcher's first step
        self._waiting = 0  # in the batcher's queue, and how that changed while the plan in flight was computed
        self._joined: list[tuple[float, int]] = []
        self.preempted = 0  # since the last plan that was noted

    def started(self, began: float, loaded: float, ready: float) -> None:
        """A context is ready (s)."""
        self._log.startup(self._index, began, loaded, ready)

    def begins(self, plan: StepPlan) -> None:
        """A plan is in flight."""
        self._waiting, self._joined = plan.waiting, []

    def queue(self, now: float, waiting: int) -> None:
        """So many wait at `now` (s), while a plan is in flight."""
        if waiting != self._waiting:
            self._waiting = waiting
            self._joined.append((now, waiting))

    def note(self, outcome: StepOutcome, done: int) -> int:
        """The plan in flight has come to this, after `done` steps; the number that the log has for its first one."""
        first = self._log.steps(self._index, outcome, self.preempted, self._joined)
        if done and first - done != self._origin:
            raise InvariantBroken("engine", f"somebody else logs steps as the log's replica {self._index}")
        self._origin = first - done
        self.preempted = 0
        return first

    def place(self, event: Sampled, times: Times, first: int) -> tuple[Times, tuple[Stretch, ...]]:
        """When and in which steps an event's tokens came; `times` are those of its steps, from number `first` on."""
        if event.steps:  # not streamed: these are all its tokens
            steps = tuple([(self._index, self._origin + step, count) for step, count in event.steps])
            return self._log.times_of(steps), steps
        return times, ((self._index, first, event.count),) if event.count else ()
