"""One request's life: route, dispatch, add up the tokens, one terminal word. No batching and no HTTP may be here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rakka_sim.core.lifecycle import REQUEST, Lifecycle
from rakka_sim.errors import Backpressure, InferenceError, Internal, ServerError, Timeout
from rakka_sim.messages import (
    AddRequest,
    Cancel,
    CancelIt,
    DeadlinePassed,
    Finished,
    FrontEndDone,
    LeaveRoom,
    Parked,
    Rejected,
    RequestEnded,
    Routed,
    RouteFailed,
    RouteOverdue,
    RouteTo,
    Scheduled,
    Submit,
    Withdrawn,
)
from rakka_sim.records import RequestRecord
from rakka_sim.runtime.api import Actor, Context, Ref, Terminated, Timer
from rakka_sim.values import FinishReason, Stretch, TokenChunk, TokenUsage

if TYPE_CHECKING:
    import numpy as np

    from rakka_sim.config.deployment import Deployment
    from rakka_sim.records import EventLog

ROUTE_TIMEOUT_S = 2.0  # upstream's
MAX_ROUTES = 4  # one, and three more when an engine dies under the request


def joined(before: tuple[Stretch, ...], more: tuple[Stretch, ...]) -> tuple[Stretch, ...]:
    """Steps and further ones; what follows without a gap is one stretch."""
    if before and before[-1][0] == more[0][0] and before[-1][1] + before[-1][2] == more[0][1]:
        replica, first, count = before[-1]
        return *before[:-1], (replica, first, count + more[0][2]), *more[1:]
    return before + more


class Request(Actor):
    """Carries one request from the gateway to an engine and its tokens back; survives the death of engines.

    The tokens delivered so far stand: another engine continues behind them and none is delivered twice.
    """

    def __init__(
        self,
        submit: Submit,
        deployment: Deployment,
        deployments: dict[str, Deployment],
        coordinator: Ref[Any],
        gateway: Ref[Any],
        log: EventLog,
    ) -> None:
        self._batch = submit.batch
        self._client = submit.reply_to
        self._deployment = deployment
        self._deployments = deployments
        self._coordinator = coordinator
        self._gateway = gateway
        self._log = log
        self._life = Lifecycle(REQUEST)
        self._engine: Ref[Any] | None = None
        self._replica = -1
        self._routes = 0
        self._route_timer: Timer | None = None
        self._deadline: Timer | None = None
        self._arrival = 0.0
        self._scheduled: float | None = None
        self._cached = 0
        self._preemptions = 0
        self._output = 0
        self._times: list[np.ndarray[Any, Any]] = []
        self._tokens: list[int] = []  # their ids, where they are real
        self._steps: tuple[Stretch, ...] | None = ()  # where the log has them; None if it does not have them all
        self._giving_up: InferenceError | FinishReason | None = None
        self._routing = False  # the coordinator owes an answer
        self._parked = False  # which comes when there is a replica

    def started(self, ctx: Context) -> None:
        self._arrival = ctx.now
        if self._batch.timeout_s is not None:
            self._deadline = ctx.after(self._batch.timeout_s, DeadlinePassed())
        seconds = self._deployment.engine.frontend_overhead_us * 1e-6
        if seconds > 0:
            ctx.after(seconds, FrontEndDone())
        else:
            self._find_route(ctx)

    def receive(self, ctx: Context, msg: Any) -> None:
        match msg:
            case FrontEndDone():
                self._find_route(ctx)
            case Routed():
                self._dispatch(ctx, msg)
            case Scheduled():
                self._first_scheduled(msg.at, msg.cached_tokens)
            case Finished():
                self._finished(ctx, msg)
            case TokenChunk():
                self._take(ctx, msg)
            case RouteFailed(error):
                self._no_route(ctx, error)
            case Parked():
                self._wait_for_a_replica(ctx)
            case Rejected(_, error):
                self._rejected(ctx, error)
            case Terminated(ref):
                self._engine_died(ctx, ref)
            case CancelIt():
                self._give_up(ctx, FinishReason.CANCELLED)
            case DeadlinePassed():
                self._give_up(ctx, Timeout(ctx.now - self._arrival))
            case RouteOverdue():
                self._end(ctx, ServerError.kind, ServerError(status=503))
            case _:
                ctx.unhandled(msg)

    # --- to an engine -------------------------------------------------------------------------------------------

    def _find_route(self, ctx: Context) -> None:
        self._routes += 1
        self._routing = True
        self._life.fire("route")
        self._route_timer = ctx.after(ROUTE_TIMEOUT_S, RouteOverdue())
        batch = self._batch
        name = self._deployment.name
        ctx.tell(
            self._coordinator,
            RouteTo(batch.request_id, name, batch.prompt_tokens, batch.session, batch.content, ctx.self),
        )

    def _wait_for_a_replica(self, ctx: Context) -> None:
        self._parked = True
        if self._life.over:
            self._leave_room(ctx)
            return
        if self._route_timer is not None:
            self._route_timer.cancel()
        self._route_timer = ctx.after(self._deployment.serving.replica_wait_s, RouteOverdue())

    def _leave_room(self, ctx: Context) -> None:
        ctx.tell(self._coordinator, LeaveRoom(self._batch.request_id, self._deployment.name))

    def _dispatch(self, ctx: Context, msg: Routed) -> None:
        self._routing = self._parked = False
        if self._life.over:  # the coordinator counts on its arrival there
            ctx.tell(msg.engine, Withdrawn(self._batch.request_id))
            ctx.stop()
            return
        if self._route_timer is not None:
            self._route_timer.cancel()
        self._life.fire("dispatch")
        self._engine, self._replica = msg.engine, msg.replica
        ctx.watch(msg.engine)
        ctx.tell(msg.engine, AddRequest(self._batch, ctx.self, self._output, tuple(self._tokens)))

    def _no_route(self, ctx: Context, error: InferenceError) -> None:
        self._routing = self._parked = False
        if self._route_timer is not None:
            self._route_timer.cancel()
        if self._life.over:
            ctx.stop()
        elif not self._falls_back(ctx, error):
            self._end(ctx, error.kind, error)

    def _rejected(self, ctx: Context, error: InferenceError) -> None:
        if self._scheduled is None:
            self._replica = -1  # no replica has taken it
        if self._giving_up is not None:
            self._end_as(ctx, self._giving_up)
        elif not self._falls_back(ctx, error):
            self._end(ctx, error.kind, error)

    def _falls_back(self, ctx: Context, error: InferenceError) -> bool:
        """Go to another deployment, if this one is full and says so."""
        serving = self._deployment.serving
        if not (isinstance(error, Backpressure) and serving.on_capacity_exhausted == "fallback" and serving.fallback):
            return False
        self._leave_engine(ctx)
        self._deployment = self._deployments[serving.fallback]
        self._life.fire("reroute")
        self._find_route(ctx)
        return True

    def _engine_died(self, ctx: Context, ref: Ref[Any]) -> None:
        if ref != self._engine:
            return
        self._engine = None
        if self._giving_up is not None:
            self._end_as(ctx, self._giving_up)
        elif self._routes < MAX_ROUTES and self._deployment.idempotent:
            self._life.fire("reroute")
            self._find_route(ctx)
        else:
            self._end(ctx, ServerError.kind, ServerError(status=500))

    def _leave_engine(self, ctx: Context) -> None:
        if self._engine is not None:
            ctx.unwatch(self._engine)
            self._engine = None

    # --- from the engine ----------------------------------------------------------------------------------------

    def _first_scheduled(self, at: float, cached: int) -> None:
        self._life.fire("schedule")
        if self._scheduled is None:  # another engine schedules it again: what counts is the first time
            self._scheduled, self._cached = at, cached

    def _take(self, ctx: Context, chunk: TokenChunk) -> None:
        count = len(chunk.times)
        if count:
            if self._life.state == "prefill":
                self._life.fire("first_token")
            self._times.append(chunk.times)
            self._steps = joined(self._steps, chunk.steps) if self._steps is not None and chunk.steps else None
            self._output += count
            self._tokens += chunk.tokens
            if self._batch.stream or chunk.tokens:  # real ones are an answer, even if it comes all at once
                ctx.tell(self._client, chunk)

    def _finished(self, ctx: Context, msg: Finished) -> None:
        self._preemptions += msg.preemptions
        self._take(ctx, msg.chunk)
        if self._giving_up is not None:
            self._end_as(ctx, self._giving_up)
        else:
            reason = msg.chunk.finish or FinishReason.STOP
            broken = Internal("the model gave logits that are no numbers") if reason is FinishReason.ERROR else None
            self._end(ctx, broken.kind if broken else reason.value, broken)

    # --- the end ------------------------------------------------------------------------------------------------

    def _give_up(self, ctx: Context, why: InferenceError | FinishReason) -> None:
        if self._giving_up is not None or self._life.over:
            return
        self._giving_up = why
        if self._engine is None:
            self._end_as(ctx, why)
        else:  # the engine answers with what was ready before this instant, and only then is the slot free
            ctx.tell(self._engine, Cancel(self._batch.request_id))

    def _end_as(self, ctx: Context, why: InferenceError | FinishReason) -> None:
        if isinstance(why, InferenceError):
            self._end(ctx, why.kind, why)
        else:
            self._end(ctx, why.value)

    def _end(self, ctx: Context, outcome: str, error: InferenceError | None = None) -> None:
        self._life.fire("cancel" if outcome == FinishReason.CANCELLED else "fail" if error else "finish")
        batch, times = self._batch, self._times
        first = float(times[0][0]) if times else None
        last = float(times[-1][-1]) if times else None
        self._log.request(
            RequestRecord(
                request_id=batch.request_id,
                deployment=self._deployment.name,
                replica=self._replica,
                session=batch.session,
                arrival=self._arrival,
                scheduled=self._scheduled,
                first_token=first,
                last_token=last,
                ended=ctx.now,
                prompt_tokens=batch.prompt_tokens,
                output_tokens=self._output,
                cached_tokens=self._cached,
                preemptions=self._preemptions,
                outcome=outcome,
                token_times=() if self._steps is not None else tuple(times),
                token_steps=self._steps or (),
            )
        )
        usage = TokenUsage(batch.prompt_tokens, self._output, 0, self._cached)
        ended = RequestEnded(
            batch.request_id, self._deployment.name, self._replica, outcome, usage, self._arrival, first, last, error
        )
        ctx.tell(self._gateway, ended)
        ctx.tell(self._client, ended)
        if self._deadline is not None:
            self._deadline.cancel()
        if self._route_timer is not None:
            self._route_timer.cancel()
        self._leave_engine(ctx)
        if not self._routing:  # else it stays until the coordinator has answered
            ctx.stop()
        elif self._parked:
            self._leave_room(ctx)

    def stopped(self, ctx: Context) -> None:
        if self._engine is not None:  # it did not end, it failed: nobody is there for the tokens any more
            ctx.tell(self._engine, Cancel(self._batch.request_id))
