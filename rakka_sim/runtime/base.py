"""What both runtimes share: mail, chores, the agenda, dead letters, streams. No clock may be read here."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from rakka_sim.errors import InputError
from rakka_sim.runtime import lifecycle
from rakka_sim.runtime.agenda import Agenda, Due
from rakka_sim.runtime.api import DeadLetter
from rakka_sim.runtime.asks import ADDRESSES
from rakka_sim.runtime.cell import Cell, RecordedCell
from rakka_sim.runtime.dues import JobRun
from rakka_sim.runtime.refs import ActorRef, Letterbox, Mail, MailQueue

if TYPE_CHECKING:
    from rakka_sim.core.supervision import Supervision
    from rakka_sim.runtime.api import Actor, Job
    from rakka_sim.runtime.replay import Trace

KEPT_DEAD_LETTERS = 100

Chore = tuple[Callable[[Cell, Any], None], Cell, Exception | None]


class ActorSystem(ABC):
    """The part of a `System` that knows no clock.

    Nothing nests: a handler runs to its end, then the chores it left (starts, stops, failures) are carried out, and
    only then comes the next message. `failure` is the error that a top-level actor escalated, if one has.
    """

    def __init__(self, seed: Any, trace: Trace | None, agenda: Agenda) -> None:
        self.failure: BaseException | None = None
        self.stopped = False
        self.mail: MailQueue = deque()
        self.post: Callable[[Mail], None] = self.mail.append
        self.chores: deque[Chore] = deque()
        self.agenda = agenda
        self.schedule: Callable[[Due, float, int], None] = agenda.add
        self._seed = checked_seed(seed)
        self._trace = trace
        self._counts: dict[str, int] = {}
        self._last: deque[DeadLetter] = deque(maxlen=KEPT_DEAD_LETTERS)
        make_root = Cell if trace is None else RecordedCell
        self.root = make_root(self, None, "", _no_actor)

    @property
    @abstractmethod
    def now(self) -> float:
        """Seconds since the system started."""

    @property
    def dead_letters(self) -> dict[str, int]:
        return dict(self._counts)

    @property
    def last_dead_letters(self) -> list[DeadLetter]:
        return list(self._last)

    # --- from outside -------------------------------------------------------------------------------------------

    def spawn(
        self,
        name: str,
        make: Callable[[], Actor],
        strategy: Supervision | None = None,
        mailbox: int | np.integer[Any] | None = None,
    ) -> ActorRef:
        if self.stopped:
            raise InputError("spawn", name, "nothing: the system has been stopped")
        ref = self.root.spawn(name, make, strategy, mailbox)
        self.settle()
        return ref

    def tell(self, to: Any, msg: Any) -> None:
        check_address(to)
        self.root.tell(to, msg)
        if self.stopped:
            self._drain()

    def promise(self, name: str) -> Letterbox:
        return Letterbox(self, f"?{name}")

    def ask(self, to: Any, msg: Any, timeout: float) -> Any:
        return self.wait(self.question(to, msg, timeout))

    def question(self, to: Any, msg: Any, timeout: float) -> Letterbox:
        """Ask from outside; the answer, or the error in its place, comes to the promise returned."""
        question = self.root.ask(to, msg, timeout)
        box = self.promise(f"answer of {question.to.path}")
        question.waiter = lambda: box.keep(question.answer)
        if self.stopped:
            self._drain()
        return box

    @abstractmethod
    def wait(
        self, promise: Any, timeout: float | np.number[Any] | None = None, tick: Callable[[], None] | None = None
    ) -> Any:
        """Until the promise is kept (`api.System.wait`)."""

    def stop(self) -> None:
        """Stop every actor; what they told on the way goes to those outside, the rest is dead letters.

        Raises the error of a `stopped` hook that its parents could not deal with.
        """
        if self.stopped:
            return
        self.stopped = True
        failure = self.failure
        lifecycle.end_belongings(self.root)
        self.settle()
        self._drain()
        if self.failure is not None and self.failure is not failure:
            raise self.failure

    # --- from cells ---------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Carry out the chores that the last handler left, and those that these leave."""
        chores = self.chores
        while chores:
            chore, cell, error = chores.popleft()
            chore(cell, error)

    def fail(self, error: BaseException) -> None:
        """A top-level actor escalated: nothing is delivered from now on. The first such error counts."""
        if self.failure is None:
            self.failure = error

    def raise_failure(self) -> None:
        """Raise the error that has ended the system, if one has."""
        if self.failure is not None:
            raise self.failure

    def run_job(self, cell: Cell, job: Job[Any], then: Callable[[Any], object]) -> JobRun:
        run = JobRun(cell, job, then)
        run.start()
        return run

    def stream(self, path: str) -> np.random.Generator:
        """The random stream of an actor: a function of the root seed and the path alone."""
        words = np.frombuffer(hashlib.sha256(path.encode()).digest(), dtype="<u4")
        return np.random.default_rng(np.random.SeedSequence(self._seed, spawn_key=tuple(map(int, words))))

    def dead_letter(self, reason: str, to: str, msg: object) -> None:
        self._counts[reason] = self._counts.get(reason, 0) + 1
        self._last.append(DeadLetter(reason, to, msg, self.now))

    def record(self, to: str, msg: object) -> None:
        if self._trace is not None:
            self._trace.record(self.now, to, msg)

    def _drain(self) -> None:
        # Every actor is gone, so nothing that is delivered now can lead to more.
        while self.mail:
            _, target, msg = self.mail.popleft()
            target.deliver(msg)


def checked_seed(given: object) -> int:
    """A seed as Python's integer, numpy's among those taken; raises InputError for anything else."""
    if isinstance(given, bool) or not isinstance(given, int | np.integer) or given < 0:
        raise InputError("seed", given, "an integer, at least 0")
    return int(given)


def check_address(to: object) -> None:
    """Raises InputError if nothing can be told to it."""
    if not isinstance(to, ADDRESSES):
        raise InputError("tell", to, "a Ref")


def _no_actor() -> Actor:
    raise InputError("the root of the system", None, "nothing: it has no actor of its own")
