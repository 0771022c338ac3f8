"""The root of the error tree, and what may go wrong anywhere; nothing that belongs to one part may be here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


def _rebuild(cls: type[RakkaError], fields: dict[str, Any]) -> RakkaError:
    error = cls.__new__(cls)
    error.__dict__.update(fields)
    return error


class RakkaError(Exception):
    """The base of every error of this package."""

    def __reduce__(self) -> tuple[Any, ...]:
        # The default rebuilds from `args`, which loses fields given by keyword on the way out of a worker process.
        return _rebuild, (type(self), dict(self.__dict__))


@dataclass(eq=False)
class NotBuilt(RakkaError):
    """A part of the design that this version does not have yet."""

    what: str
    instead: str = ""

    def __str__(self) -> str:
        hint = f"; {self.instead}" if self.instead else ""
        return f"{self.what} is not built in this version{hint}"


@dataclass(eq=False)
class InvariantBroken(RakkaError):
    """A state that must not be: a bug in this package, never the user's fault."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what} (please report this: it is a bug in rakka_sim)"


@dataclass(eq=False)
class RunFailed(RakkaError):
    """A run that ended before its workload did."""

    reason: str
    at_s: float
    completed: int

    def __str__(self) -> str:
        return f"the run failed at t={self.at_s:.3f} s after {self.completed} requests: {self.reason}"
