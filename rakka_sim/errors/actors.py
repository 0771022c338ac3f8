"""What the actor runtime could not do, whoever the actors are; nothing about serving may be here."""

from __future__ import annotations

from dataclasses import dataclass

from rakka_sim.errors.base import RakkaError


class ActorError(RakkaError):
    """The runtime could not do what was asked of it."""


@dataclass(eq=False)
class ActorStopped(ActorError):
    """The actor asked stopped before it answered."""

    path: str

    def __str__(self) -> str:
        return f"{self.path} stopped before it answered"


@dataclass(eq=False)
class ActorRestarted(ActorError):
    """The actor asked was restarted before it answered; its former state is gone."""

    path: str

    def __str__(self) -> str:
        return f"{self.path} was restarted before it answered"


@dataclass(eq=False)
class AskTimeout(ActorError):
    """No answer within the deadline."""

    path: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.path} did not answer within {self.seconds} s"


@dataclass(eq=False)
class MailboxFull(ActorError):
    """The actor's mailbox holds as many messages as it may."""

    path: str
    capacity: int

    def __str__(self) -> str:
        return f"the mailbox of {self.path} is full ({self.capacity} messages)"


@dataclass(eq=False)
class NameTaken(ActorError):
    """A sibling of that name is alive."""

    path: str

    def __str__(self) -> str:
        return f"an actor named {self.path} is alive already"


@dataclass(eq=False)
class Stalled(ActorError):
    """Nothing is left to happen, and what was waited for has not come."""

    waiting_for: str
    now: float

    def __str__(self) -> str:
        return f"nothing is left to happen at t={self.now} s, but {self.waiting_for} has not come"


@dataclass(eq=False)
class Unhandled(ActorError):
    """The actor asked does not understand the question."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path} does not understand {self.message}"


@dataclass(eq=False)
class NotDeterministic(ActorError):
    """Two runs differ: the first message in which they do, by position, as each run has it (None: it had ended)."""

    index: int
    first: str | None
    second: str | None

    def __str__(self) -> str:
        return f"message {self.index} differs between two runs:\n  first:  {self.first}\n  second: {self.second}"
