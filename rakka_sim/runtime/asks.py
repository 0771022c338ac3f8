"""Questions: a message out, one answer or an error back before a deadline. What an actor answers may not be here."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from rakka_sim.errors import AskTimeout, InputError, MailboxFull
from rakka_sim.runtime.agenda import NORMAL, Due
from rakka_sim.runtime.refs import ActorRef, Letterbox

if TYPE_CHECKING:
    from rakka_sim.runtime.cell import Cell


class Question(Due):
    """The address of an answer, and what a flow awaits (`api.Ask`); due at its deadline."""

    __slots__ = ("_seconds", "_serial", "answer", "capacity", "done", "holder", "to", "waiter", "waiting")

    def __init__(self, asker: Cell, to: Any, seconds: float) -> None:
        if not isinstance(to, ActorRef):
            raise InputError(f"ask by {asker.ref.path}", to, "the Ref of an actor")
        if not 0.0 <= seconds < math.inf:
            raise InputError(f"timeout of an ask to {to.path}", seconds, "a finite number of seconds, at least 0")
        super().__init__(asker)
        asker.asked += 1
        self._serial = asker.asked
        self._seconds = seconds
        self.answer: Any = None
        self.to: ActorRef = to
        self.done = False
        self.holder: Cell | None = None  # the actor that has the question and owes the answer
        self.waiter: Callable[[], None] | None = None
        self.waiting = 0
        self.capacity = 1 << 62  # an answer is never refused

    @property
    def path(self) -> str:
        return f"{self.ref.path}?{self._serial}"

    @property
    def lane(self) -> ActorRef:
        return self.ref

    def send(self, msg: Any) -> None:
        """Send `msg`, with this address as its `reply_to`."""
        system, to = self.ref.cell.system, self.to
        if "reply_to" not in getattr(type(msg), "__dataclass_fields__", ()):
            raise InputError(f"ask to {to.path}", msg, "a message with a reply_to")
        letter = dataclasses.replace(msg, reply_to=self)
        system.schedule(self, float(system.now + self._seconds), NORMAL)
        if to.waiting >= to.capacity:
            system.dead_letter("overflow", to.path, letter)
            self.end(to, MailboxFull(to.path, to.capacity))
        else:
            to.waiting += 1
            system.post((self.ref, Asked(self), letter))

    def deliver(self, msg: Any) -> None:
        """Take the answer; only the first one counts."""
        system, late = self.ref.cell.system, self.done or not self.current
        self._close()
        if late:
            system.dead_letter("stale", self.path, msg)
            return
        system.record(self.path, msg)
        self.answer = msg
        waiter, self.waiter = self.waiter, None
        if waiter is not None:
            waiter()

    def end(self, by: ActorRef, error: BaseException) -> None:
        """Answer with an error, unless an answer `by` the same actor is under way already."""
        self.ref.cell.system.post((by, Ending(self), error))

    def result(self) -> Any:
        """The answer. Raises it if it is an exception."""
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer

    def __await__(self) -> Generator[Question, None, Any]:
        if not self.done:
            yield self
        return self.result()

    def fire(self) -> None:
        self.deliver(AskTimeout(self.to.path, self._seconds))

    def lapse(self) -> None:
        self._close()

    def _close(self) -> None:
        self.cancel()
        self.done = True
        if self.holder is not None:
            self.holder.questions.pop(self, None)
            self.holder = None

    def _accepts(self, msg: Any) -> None: ...

    def __repr__(self) -> str:
        return f"<{self.path}>"


class _Leg:
    """A question's mail that is not the answer itself."""

    __slots__ = ("capacity", "question", "waiting")

    def __init__(self, question: Question) -> None:
        self.question = question
        self.waiting = 0
        self.capacity = 1


class Asked(_Leg):
    """The way out: whoever takes the message holds the question."""

    __slots__ = ()

    @property
    def path(self) -> str:
        return self.question.to.path

    @property
    def lane(self) -> ActorRef:
        return self.question.to

    def deliver(self, msg: Any) -> None:
        to = self.question.to
        to.waiting -= 1
        to.cell.take_question(self.question, msg)


class Ending(_Leg):
    """The way back of an error that the runtime puts in the place of an answer."""

    __slots__ = ()

    @property
    def path(self) -> str:
        return self.question.path

    @property
    def lane(self) -> ActorRef:
        return self.question.lane

    def deliver(self, error: BaseException) -> None:
        if not self.question.done:
            self.question.deliver(error)


# What a message can hold for others to tell something to.
ADDRESSES = (ActorRef, Letterbox, Question)
