"""Mail in an order shuffled as far as the contract leaves it open. Ends of jobs are not here: they come after it."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np

from rakka_sim.runtime.agenda import JOB_END, NORMAL, Due
from rakka_sim.runtime.refs import ActorRef, Mail

if TYPE_CHECKING:
    from collections.abc import Callable

    from rakka_sim.runtime.agenda import Agenda


class ShuffledMail:
    """Stands in for the queue of mail: takes the oldest of a lane drawn at random, among them the timers due now.

    A lane is what one sender has sent to one receiver; an actor's timers go by its lane to itself.
    """

    def __init__(self, seed: int, agenda: Agenda, clock: Callable[[], float]) -> None:
        self._rng = np.random.default_rng(seed)
        self._agenda = agenda
        self._clock = clock
        self._lanes: dict[tuple[object, object], deque[Mail]] = {}
        self._open: list[tuple[object, object]] = []

    def append(self, mail: Mail) -> None:
        key = (mail[0], mail[1].lane)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = deque()
            self._open.append(key)
        lane.append(mail)

    def __len__(self) -> int:
        self._gather_timers()
        return len(self._open)

    def popleft(self) -> Mail:
        chosen = int(self._rng.integers(len(self._open)))
        key = self._open[chosen]
        lane = self._lanes[key]
        mail = lane.popleft()
        if not lane:
            del self._lanes[key]
            self._open[chosen] = self._open[-1]
            self._open.pop()
        return mail

    def schedule(self, due: Due, when: float, priority: int) -> None:
        """Enter it in the agenda; jobs that end at the same instant do so in an order drawn at random."""
        rank = int(self._rng.integers(1 << 31)) if priority == JOB_END else 0
        self._agenda.add(due, when, priority, rank)

    def _gather_timers(self) -> None:
        now = self._clock()
        while (entry := self._agenda.first()) is not None:
            when, priority, _, due = entry
            if when > now or priority != NORMAL or not isinstance(due, Due):
                return
            self._agenda.pop()
            self.append((due.ref, _DueNow(due), None))


class _DueNow:
    """A timer that is due but waits for its turn; it can still be cancelled or lapse."""

    __slots__ = ("_due", "_number", "capacity", "waiting")

    def __init__(self, due: Due) -> None:
        self._due = due
        self._number = due.number
        self.waiting = 0
        self.capacity = 1

    @property
    def path(self) -> str:
        return self._due.ref.path

    @property
    def lane(self) -> ActorRef:
        return self._due.ref

    def deliver(self, msg: Any) -> None:
        if self._due.number != self._number:
            return
        if self._due.current:
            self._due.fire()
        else:
            self._due.lapse()
