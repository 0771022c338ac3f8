"""Timers and jobs under way: what their end does. When they end is the agenda's business."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rakka_sim.errors import InputError
from rakka_sim.runtime.agenda import JOB_END, Due
from rakka_sim.runtime.api import Job, JobFailed

if TYPE_CHECKING:
    from rakka_sim.runtime.cell import Cell


class MessageTimer(Due):
    """A message to oneself (`api.Timer`)."""

    __slots__ = ("_msg",)

    def __init__(self, cell: Cell, msg: object) -> None:
        super().__init__(cell)
        self._msg = msg

    def fire(self) -> None:
        self.cancel()
        self.ref.cell.take(self._msg)

    def lapse(self) -> None:
        self.ref.cell.system.dead_letter("stale", self.ref.path, self._msg)


class JobRun(Due):
    """A job whose end a model knows (`api.Running`)."""

    __slots__ = ("_end", "_then", "job")

    def __init__(self, cell: Cell, job: Job[Any], then: Callable[[Any], object]) -> None:
        super().__init__(cell)
        self.job = job
        self._then = then
        self._end = math.inf

    def start(self) -> None:
        """Let it end when its model says."""
        cell: Any = self.ref.cell
        now = cell.system.now
        self._enter(now, self.job.ends_at(now, cell.rng))

    def interrupt(self) -> None:
        if self.active:
            now = self.ref.cell.system.now
            # On a wall clock it may be overdue: its end has come, and nobody has had the time to say so.
            self._enter(now, max(now, self.job.cut(now)))

    def abandon(self) -> None:
        self.cancel()

    def fire(self) -> None:
        try:
            result = self.job.execute()
        except Exception as error:
            self.finish(error, failed=True)
        else:
            self.finish(result)

    def finish(self, result: Any, failed: bool = False) -> None:
        """Hand the result, or the error in its place, to the actor that ran the job."""
        self.cancel()
        cell: Any = self.ref.cell  # no grave: it is current
        if failed:
            cell.take(JobFailed(result))
            return
        try:
            msg = self._then(result)
        except Exception as error:
            cell.failed(error)
        else:
            cell.take(msg)

    def lapse(self) -> None:
        self.ref.cell.system.dead_letter("stale", self.ref.path, self.job)

    def _enter(self, now: float, end: float) -> None:
        if not now <= end < math.inf:
            raise InputError(f"job of {self.ref.path}", end, f"an end from now on ({now} s)")
        if end != self._end:
            self._end = float(end)
            self.ref.cell.system.schedule(self, self._end, JOB_END)
