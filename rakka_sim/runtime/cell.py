"""One actor's cell: what outlives its incarnations, and the `Context` its handlers see. No lifecycle may be in it."""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from rakka_sim.core.supervision import DEFAULT, RestartWindow, Supervision
from rakka_sim.errors import InputError, NameTaken, Unhandled
from rakka_sim.runtime import lifecycle
from rakka_sim.runtime.agenda import NORMAL
from rakka_sim.runtime.asks import Question
from rakka_sim.runtime.dues import JobRun, MessageTimer
from rakka_sim.runtime.flows import Flow
from rakka_sim.runtime.refs import ActorRef, Grave
from rakka_sim.runtime.watches import Watch

if TYPE_CHECKING:
    import numpy as np

    from rakka_sim.runtime.api import Actor, Job
    from rakka_sim.runtime.base import ActorSystem

MAILBOX = 100_000


class Cell:
    """An actor from its start to its stop, over all its restarts (`api.Context`)."""

    __slots__ = (
        "_rng",
        "_strategy",
        "_window",
        "actor",
        "asked",
        "children",
        "flows",
        "generation",
        "in_hand",
        "make",
        "name",
        "parent",
        "questions",
        "ref",
        "self",
        "stopping",
        "system",
        "watchers",
        "watching",
    )

    ref: ActorRef
    generation: int
    asked: int

    def __init__(
        self,
        system: ActorSystem,
        parent: Cell | None,
        name: str,
        make: Callable[[], Actor],
        strategy: Supervision | None = None,
        mailbox: int | np.integer[Any] | None = None,
    ) -> None:
        path = f"{parent.ref.path}/{name}" if parent is not None else ""
        self.ref = ActorRef(path, MAILBOX if mailbox is None else int(mailbox))
        self.ref.cell = self
        self.self = self.ref  # as its handlers call it; no property, because they ask often
        self.system = system
        self.parent = parent
        self.name = name
        self.make = make
        self.actor: Actor | None = None
        self.generation = 0
        self.stopping = False
        self.children: dict[str, Cell] = {}
        self.watchers: dict[Watch, None] = {}
        self.watching: dict[ActorRef, Watch] = {}
        self.questions: dict[Question, None] = {}  # whose answers this actor owes
        self.flows: dict[Flow, None] = {}
        self.in_hand: Question | None = None  # the question that the handler now running is about
        self.asked = 0
        self._strategy = strategy
        self._window: RestartWindow | None = None
        self._rng: np.random.Generator | None = None

    # --- the context of its handlers ----------------------------------------------------------------------------

    @property
    def now(self) -> float:
        return self.system.now

    @property
    def rng(self) -> np.random.Generator:
        if self._rng is None:
            self._rng = self.system.stream(self.ref.path)
        return self._rng

    def tell(self, to: Any, msg: Any) -> None:
        if to.waiting >= to.capacity:
            self.system.dead_letter("overflow", to.path, msg)
            return
        to.waiting += 1
        self.system.post((self.ref, to, msg))

    def ask(self, to: Any, msg: Any, timeout: float) -> Question:
        question = Question(self, to, timeout)
        question.send(msg)
        return question

    def flow(self, steps: Coroutine[Any, Any, None]) -> None:
        Flow(self, steps).start()

    def after(self, seconds: float, msg: object) -> MessageTimer:
        if not 0.0 <= seconds < math.inf:
            raise InputError(f"timer of {self.ref.path}", seconds, "a finite number of seconds, at least 0")
        timer = MessageTimer(self, msg)
        self.system.schedule(timer, float(self.system.now + seconds), NORMAL)
        return timer

    def spawn(
        self,
        name: str,
        make: Callable[[], Actor],
        strategy: Supervision | None = None,
        mailbox: int | np.integer[Any] | None = None,
    ) -> ActorRef:
        self._must_live(name)
        if not name or "/" in name:
            raise InputError(f"name of a child of {self.ref.path or '/'}", name, "a name without '/'")
        if mailbox is not None and mailbox < 1:
            raise InputError(f"mailbox of {self.ref.path}/{name}", mailbox, "room for at least 1 message")
        sibling = self.children.get(name)
        if sibling is not None:
            if not sibling.stopping:
                raise NameTaken(sibling.ref.path)
            # Its stop comes as soon as this handler has ended; until then it stands under a name nobody can give.
            sibling.name = f"{name}/{len(self.children)}"
            self.children[sibling.name] = self.children.pop(name)
        cell = self.children[name] = type(self)(self.system, self, name, make, strategy, mailbox)
        self.system.chores.append((lifecycle.start, cell, None))
        return cell.ref

    def stop(self, ref: Any = None) -> None:
        cell = self if ref is None else ref.cell
        if isinstance(cell, Grave):
            return
        if cell is not self and cell.parent is not self:
            raise InputError(f"stop by {self.ref.path}", ref, "itself or one of its children")
        cell.stopping = True
        self.system.chores.append((lifecycle.stop, cell, None))

    def watch(self, ref: Any) -> None:
        if not isinstance(ref, ActorRef):
            raise InputError(f"watch by {self.ref.path}", ref, "the Ref of an actor")
        if ref not in self.watching:
            watch = self.watching[ref] = Watch(self, ref)
            ref.cell.add_watch(watch)

    def unwatch(self, ref: Any) -> None:
        watch = self.watching.pop(ref, None)
        if watch is not None:
            watch.kept = False
            ref.cell.remove_watch(watch)

    def run(self, job: Job[Any], then: Callable[[Any], object]) -> JobRun:
        if self.ref.cell is not self:
            self._must_live(job)
        return self.system.run_job(self, job, then)

    def unhandled(self, msg: object) -> None:
        self.system.dead_letter("unhandled", self.ref.path, msg)
        if self.in_hand is not None:
            self.in_hand.end(self.ref, Unhandled(self.ref.path, type(msg).__name__))

    def _must_live(self, wanted: object) -> None:
        if self.ref.cell is not self:
            raise InputError(f"context of {self.ref.path}", wanted, "nothing: that actor has stopped")

    # --- what comes in ------------------------------------------------------------------------------------------

    def take(self, msg: Any) -> None:
        """Have the actor handle a message; an error is a failure of the actor."""
        try:
            self.actor.receive(self, msg)  # type: ignore[union-attr]
        except Exception as error:
            self.failed(error)

    def take_question(self, question: Question, msg: Any) -> None:
        """Hold the question until it is answered, and have the actor handle its message."""
        if not question.done:
            question.holder = self
            self.questions[question] = None
        self.in_hand = question
        try:
            self.take(msg)
        finally:
            self.in_hand = None

    def failed(self, error: Exception) -> None:
        """A handler, a hook or a flow raised: what follows comes before any other message."""
        if self.in_hand is not None:
            self.in_hand.end(self.ref, error)
        self.system.chores.append((lifecycle.supervise, self, error))

    def restart_window(self) -> RestartWindow:
        if self._window is None:
            self._window = RestartWindow(self._strategy or DEFAULT)
        return self._window

    def add_watch(self, watch: Watch) -> None:
        self.watchers[watch] = None

    def remove_watch(self, watch: Watch) -> None:
        self.watchers.pop(watch, None)

    def forget_watch(self, ref: ActorRef) -> None:
        self.watching.pop(ref, None)


class RecordedCell(Cell):
    """A cell whose messages go into the system's trace first."""

    __slots__ = ()

    def take(self, msg: Any) -> None:
        self.system.record(self.ref.path, msg)
        super().take(msg)
