"""Addresses: where a message can be told to. What an actor does with its messages may not be here."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from rakka_sim.errors import ActorStopped, Stalled
from rakka_sim.runtime.api import Terminated

if TYPE_CHECKING:
    from rakka_sim.runtime.asks import Question
    from rakka_sim.runtime.base import ActorSystem
    from rakka_sim.runtime.cell import Cell
    from rakka_sim.runtime.watches import Watch


class Target(Protocol):
    """What mail can be put down at. `lane` is whom it is for: mail of one sender to one lane keeps its order."""

    waiting: int

    @property
    def capacity(self) -> int: ...

    @property
    def path(self) -> str: ...

    @property
    def lane(self) -> object: ...

    def deliver(self, msg: Any) -> None: ...


class ActorRef:
    """An actor's address and its mailbox's room; leads straight to its cell, or to its grave."""

    __slots__ = ("capacity", "cell", "path", "waiting")

    cell: Cell | Grave

    def __init__(self, path: str, capacity: int) -> None:
        self.path = path
        self.capacity = capacity
        self.waiting = 0

    @property
    def lane(self) -> ActorRef:
        return self

    def deliver(self, msg: Any) -> None:
        self.waiting -= 1
        self.cell.take(msg)

    def _accepts(self, msg: Any) -> None: ...

    def __repr__(self) -> str:
        return f"<{self.path}>"


# Who sends, where to, what.
Mail = tuple[ActorRef, Target, Any]


class MailQueue(Protocol):
    """Mail of the present instant, not delivered yet."""

    def append(self, mail: Mail, /) -> None: ...

    def popleft(self) -> Mail: ...

    def __len__(self) -> int: ...


class Grave:
    """What the address of a stopped actor leads to."""

    __slots__ = ("error", "path", "system")

    generation = -1  # no incarnation's

    def __init__(self, system: ActorSystem, path: str, error: BaseException | None) -> None:
        self.system = system
        self.path = path  # and not the address, which would make a cycle of the two
        self.error = error

    def take(self, msg: Any) -> None:
        self.system.dead_letter("stopped", self.path, msg)

    def take_question(self, question: Question, msg: Any) -> None:
        self.take(msg)
        question.end(question.to, ActorStopped(self.path))

    def add_watch(self, watch: Watch) -> None:
        self.system.post((watch.watched, watch, Terminated(watch.watched, self.error)))

    def remove_watch(self, watch: Watch) -> None:
        pass


class Letterbox:
    """An address outside the actor system that keeps the first message told to it (`api.Promise`)."""

    __slots__ = ("_message", "_notify", "_system", "capacity", "done", "path", "waiting")

    def __init__(self, system: ActorSystem, path: str, notify: Callable[[], None] | None = None) -> None:
        self.path = path
        self.waiting = 0
        self.capacity = 1 << 62  # an answer is never refused
        self.done = False
        self._system = system
        self._notify = notify
        self._message: Any = None

    @property
    def ref(self) -> Letterbox:
        return self

    @property
    def lane(self) -> Letterbox:
        return self

    def deliver(self, msg: Any) -> None:
        self._system.record(self.path, msg)
        self.keep(msg)

    def keep(self, msg: Any) -> None:
        """The first message stays; later ones are of no interest."""
        if self.done:
            return
        self._message = msg
        self.done = True
        if self._notify is not None:
            self._notify()

    def result(self) -> Any:
        """The message. Raises it if it is an exception; raises `Stalled` if it has not come."""
        if not self.done:
            raise Stalled(self.path, self._system.now)
        if isinstance(self._message, BaseException):
            raise self._message
        return self._message

    def _accepts(self, msg: Any) -> None: ...

    def __repr__(self) -> str:
        return f"<{self.path}>"
