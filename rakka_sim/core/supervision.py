"""What becomes of an actor that failed: pure policy, upstream's defaults; no clock and no actor may be in it."""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from rakka_sim.errors import ContextPoisoned, OutOfMemory, Unrecoverable


class Directive(enum.StrEnum):
    """What to do with a child that failed."""

    RESUME = "resume"
    RESTART = "restart"
    STOP = "stop"
    ESCALATE = "escalate"


def by_tag(error: Exception) -> Directive:
    """Upstream's decision: by the kind of error, and anything unknown is the parent's problem."""
    if isinstance(error, ContextPoisoned):
        return Directive.RESTART
    if isinstance(error, OutOfMemory):
        return Directive.RESUME
    if isinstance(error, Unrecoverable):
        return Directive.STOP
    return Directive.ESCALATE


@dataclass(frozen=True, slots=True)
class Supervision:
    """One-for-one: at most `max_restarts` restarts within any `within_s` seconds, then escalate."""

    max_restarts: int = 10
    within_s: float = 60.0
    decide: Callable[[Exception], Directive] = by_tag


DEFAULT = Supervision()
WORKER_TIER = Supervision(max_restarts=3, within_s=60.0)


class RestartWindow:
    """Counts one child's restarts against its `Supervision`."""

    __slots__ = ("_times", "strategy")

    def __init__(self, strategy: Supervision) -> None:
        self.strategy = strategy
        self._times: deque[float] = deque()

    def decide(self, error: Exception, now: float) -> Directive:
        """The directive for a failure at `now`; a restart is counted, one too many becomes an escalation."""
        directive = self.strategy.decide(error)
        if directive is not Directive.RESTART:
            return directive
        times = self._times
        while times and now - times[0] >= self.strategy.within_s:
            times.popleft()
        if len(times) >= self.strategy.max_restarts:
            return Directive.ESCALATE
        times.append(now)
        return Directive.RESTART
