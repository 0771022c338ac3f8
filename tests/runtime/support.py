"""What the tests of the runtimes are made of: actors from functions, a few messages and jobs. No test is here."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from typing import Any

from rakka_sim.core.supervision import Directive, Supervision
from rakka_sim.errors import Stalled
from rakka_sim.runtime.api import Actor, Context, Ref
from rakka_sim.runtime.base import ActorSystem
from rakka_sim.runtime.sim import SimRuntime
from rakka_sim.values import value

SOON = 0.02  # s; long enough for a wall clock to tell two of them apart
LONG = 20.0  # s; only a test that hangs gets there

RESTART = Supervision(decide=lambda _: Directive.RESTART)
RESUME = Supervision(decide=lambda _: Directive.RESUME)
STOP = Supervision(decide=lambda _: Directive.STOP)
ESCALATE = Supervision(decide=lambda _: Directive.ESCALATE)


@value
class Ping:
    """Every actor of these tests answers it with "pong"."""

    reply_to: Any = None


@value
class Say:
    """A message with a text, that may be asked."""

    text: str
    reply_to: Any = None


class Boom(Exception):
    """What actors of these tests fail with."""


class Acting(Actor):
    """An actor made of functions."""

    def __init__(self, receive: Callable[..., None] | None, **hooks: Callable[..., None]) -> None:
        self._receive = receive
        self._hooks = hooks

    def receive(self, ctx: Context, msg: Any) -> None:
        if type(msg) is Ping:
            ctx.tell(msg.reply_to, "pong")
        elif self._receive is not None:
            self._receive(ctx, msg)

    def started(self, ctx: Context) -> None:
        self._hooks.get("started", _nothing)(ctx)

    def stopped(self, ctx: Context) -> None:
        self._hooks.get("stopped", _nothing)(ctx)

    def child_failed(self, ctx: Context, child: Ref[Any], error: Exception, directive: Directive) -> None:
        self._hooks.get("child_failed", _nothing)(ctx, child, error, directive)


def _nothing(*_: object) -> None: ...


def acting(receive: Callable[..., None] | None = None, **hooks: Callable[..., None]) -> Callable[[], Acting]:
    """Makes such an actor at each start."""
    return lambda: Acting(receive, **hooks)


def boom(ctx: Context, msg: Any) -> None:
    """Fail at any message, with the message."""
    raise Boom(msg)


class Steps:
    """A modelled job of `count` steps of `step` s each; its result is how many were done."""

    real = False

    def __init__(self, step: float, count: int) -> None:
        self._step = step
        self._count = count
        self._start = 0.0

    def ends_at(self, start: float, rng: Any) -> float:
        self._start = start
        return self._end

    @property
    def _end(self) -> float:
        return self._start + self._step * self._count

    def cut(self, now: float) -> float:
        self._count = min(self._count, max(1, math.ceil((now - self._start) / self._step)))
        return self._end

    def execute(self) -> int:
        return self._count


class Broken(Steps):
    """A job whose work fails."""

    def execute(self) -> int:
        raise Boom("work")


def quiesce(system: ActorSystem) -> None:
    """Until nothing waits and nothing is due."""
    if isinstance(system, SimRuntime):
        with contextlib.suppress(Stalled):
            system.wait(system.promise("never"))
        return

    def idle() -> bool:
        return not system.mail and system.agenda.first() is None

    while not system._call(idle):  # type: ignore[attr-defined]
        if system.failure is not None:
            raise system.failure
        time.sleep(0.002)
