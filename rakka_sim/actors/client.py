"""The load generator: submits what a workload's source says, when it says so. No distribution may be here."""

from __future__ import annotations

from typing import Any, Protocol

from rakka_sim.messages import CancelRequest, RequestEnded, Submit
from rakka_sim.runtime.api import Actor, Context, Ref, Timer
from rakka_sim.values import ExecuteBatch, TokenChunk, value


class Source(Protocol):
    """Which request comes when (`workload.source` has the contract in full)."""

    @property
    def total(self) -> int | None: ...

    @property
    def exhausted(self) -> bool: ...

    def peek(self) -> float | None: ...

    def pop(self) -> ExecuteBatch: ...

    def ended(self, request_id: int, now: float, output_tokens: int) -> None: ...


class Scribe(Protocol):
    """Gives requests real tokens (`workload.scribe`)."""

    def write(self, batch: ExecuteBatch) -> ExecuteBatch: ...

    def hear(self, chunk: TokenChunk) -> None: ...

    def ended(self, request_id: int) -> None: ...


@value
class Go:
    """Start: the deployments serve. Times of the source count from now."""


@value
class NextArrival:
    """The generator's own timer."""


@value
class StopNow:
    """The generator's own timer: nothing new, and what is open is cancelled."""


@value
class WorkloadDone:
    """Every request has ended: so many, and so many of them well."""

    ended: int
    at: float


class LoadGenerator(Actor):
    """Submits each request at its time and tells `done` when all have ended. `ended` may be read for progress.

    `scribe` is for engines that want real tokens.
    """

    def __init__(
        self,
        source: Source,
        gateway: Ref[Any],
        done: Ref[Any],
        stop_after_s: float | None = None,
        scribe: Scribe | None = None,
    ) -> None:
        self._source = source
        self._gateway = gateway
        self._done = done
        self._origin = 0.0
        self._timer: Timer | None = None
        self._timer_at = 0.0
        self._stop_after_s = stop_after_s
        self._scribe = scribe
        self._stopped = False
        self._open: dict[int, None] = {}  # ids in order of submission
        self.ended = 0

    def receive(self, ctx: Context, msg: Any) -> None:
        match msg:
            case RequestEnded():
                self._open.pop(msg.request_id, None)
                self.ended += 1
                if self._scribe is not None:
                    self._scribe.ended(msg.request_id)
                self._source.ended(msg.request_id, ctx.now - self._origin, msg.usage.output)
                self._arm(ctx)
            case TokenChunk():
                if self._scribe is not None:
                    self._scribe.hear(msg)
            case NextArrival():
                self._timer = None
                if not self._stopped:
                    self._submit(ctx)
                self._arm(ctx)
            case Go():
                self._origin = ctx.now
                if self._stop_after_s is not None:
                    ctx.after(self._stop_after_s, StopNow())
                self._arm(ctx)
            case StopNow():
                self._stopped = True
                for request_id in self._open:
                    ctx.tell(self._gateway, CancelRequest(request_id))
                self._arm(ctx)
            case _:
                ctx.unhandled(msg)

    def _submit(self, ctx: Context) -> None:
        # What the timer was set for is due whatever rounding made of the clock on the way here.
        source, due = self._source, max(self._timer_at, ctx.now - self._origin)
        while (at := source.peek()) is not None and at <= due:
            batch = source.pop()
            if self._scribe is not None:
                batch = self._scribe.write(batch)
            self._open[batch.request_id] = None
            ctx.tell(self._gateway, Submit(batch, ctx.self))

    def _arm(self, ctx: Context) -> None:
        at = None if self._stopped else self._source.peek()
        if at is None:
            if not self._open and (self._stopped or self._source.exhausted):
                ctx.tell(self._done, WorkloadDone(self.ended, ctx.now))
            return
        if self._timer is not None:
            if self._timer_at <= at:
                return
            self._timer.cancel()  # a turn that comes before the arrival that was next so far
        self._timer_at = at
        self._timer = ctx.after(max(0.0, self._origin + at - ctx.now), NextArrival())
