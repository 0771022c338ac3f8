"""The virtual clock: SimPy's, with messages beside its events. No policy may be in it, and no wall clock."""

from __future__ import annotations

import math
from collections.abc import Callable
from heapq import heappop
from typing import TYPE_CHECKING, Any

import simpy
from simpy.core import EmptySchedule

from rakka_sim.errors import AskTimeout, Stalled
from rakka_sim.runtime.agenda import JOB_END, Agenda, Due, Entry
from rakka_sim.runtime.base import ActorSystem
from rakka_sim.runtime.interrupts import Interrupts
from rakka_sim.runtime.refs import ActorRef
from rakka_sim.runtime.shuffle import ShuffledMail

if TYPE_CHECKING:
    import numpy as np

    from rakka_sim.runtime.replay import Trace

DELIVERIES_PER_TICK = 2_000


class ActorEnvironment(simpy.Environment):
    """A SimPy environment whose steps also deliver the messages of its actors; users run their own processes in it."""

    def __init__(self) -> None:
        super().__init__(0.0)
        self.agenda = Agenda(self._queue, self._eid)
        self.system: SimRuntime

    def peek(self) -> float:
        if self.system.mail:
            return self._now
        entry = self.agenda.first()
        return math.inf if entry is None else entry[0]

    def step(self) -> None:
        self.system.step()

    def jump(self, now: float) -> None:
        """Set the clock."""
        self._now = self.system.now = now


class SimRuntime(ActorSystem):
    """Actors on a virtual clock (`api.System`).

    Messages of the present instant are a queue that is drained before the clock moves on; what comes later stands
    in SimPy's own heap. `env` may be run by the user as well: ``env.run(until=...)`` delivers messages too.
    `shuffle_ties` seeds a shuffle of what happens at the same instant, as far as the contract leaves it open.
    """

    now = 0.0  # the environment's, kept here as well: every handler reads it, and a property costs more than it holds

    def __init__(
        self, seed: int | np.integer[Any] = 0, *, shuffle_ties: int | None = None, trace: Trace | None = None
    ) -> None:
        self.env = ActorEnvironment()
        self.env.system = self
        super().__init__(seed, trace, self.env.agenda)
        self._shuffled = shuffle_ties is not None
        if shuffle_ties is not None:
            mail = ShuffledMail(shuffle_ties, self.agenda, lambda: self.now)
            self.mail, self.post, self.schedule = mail, mail.append, mail.schedule

    def wait(self, promise: Any, timeout: float | None = None, tick: Callable[[], None] | None = None) -> Any:
        deadline = math.inf if timeout is None else self.now + timeout
        while not promise.done:
            with Interrupts() as interrupts:
                in_time = self._drive(promise, deadline, interrupts)
            if not in_time:
                raise AskTimeout(promise.ref.path, timeout or 0.0)
            if tick is not None:
                tick()
        return promise.result()

    def step(self) -> None:
        """One message, one timer, one end of a job, or one event of SimPy."""
        self.raise_failure()
        if self.mail:
            _, target, msg = self.mail.popleft()
            target.deliver(msg)
        else:
            entry = self.agenda.first()
            if entry is None:
                raise EmptySchedule
            self._advance(entry)
        if self.chores:
            self.settle()

    def _drive(self, promise: Any, deadline: float, interrupts: Interrupts) -> bool:
        """Step until the promise is kept, for one tick at most; False if the deadline comes first."""
        mail, chores, agenda = self.mail, self.chores, self.agenda
        self.raise_failure()
        for _ in range(DELIVERIES_PER_TICK):
            if mail:
                _, target, msg = mail.popleft()
                if type(target) is ActorRef:  # as its `deliver` does; most mail by far, and it keeps no promise
                    target.waiting -= 1
                    target.cell.take(msg)
                    if chores:
                        self.settle()
                        if self.failure is not None:
                            raise self.failure
                    if interrupts.pending:
                        break
                    continue
                target.deliver(msg)
            else:
                entry = agenda.first()
                if entry is None:
                    raise Stalled(promise.ref.path, self.now)
                if entry[0] > deadline:
                    self.env.jump(deadline)
                    return False
                self._advance(entry)
            if chores:
                self.settle()
            if promise.done or interrupts.pending:
                break
            if self.failure is not None:
                raise self.failure
        return True

    def _advance(self, entry: Entry) -> None:
        when, priority, _, due = entry
        self.env._now = self.now = when
        if not isinstance(due, Due):
            simpy.Environment.step(self.env)
            return
        if self._shuffled and priority != JOB_END:
            return  # it is in the mail now, with all that is due at this instant
        heappop(self.env._queue)
        due.fire()
