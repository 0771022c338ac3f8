"""The engine core of one replica: admission, and a batcher with one plan in flight; no scheduling policy is here."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from rakka_sim.actors.identity import Identity
from rakka_sim.actors.passes import Schedule, SchedulingPass
from rakka_sim.actors.step_log import StepLog, Times
from rakka_sim.actors.worker import Launch, Worker
from rakka_sim.core.batching import ANY, NOBODY, Batcher, Event, Preempted, Sampled, SequenceSpec, Started
from rakka_sim.core.supervision import Directive, Supervision
from rakka_sim.errors import Backpressure, InferenceError, Internal, OutOfMemory
from rakka_sim.messages import (
    AddRequest,
    Cancel,
    Drain,
    Drained,
    EndRun,
    Execute,
    Finished,
    GetLoad,
    Rejected,
    ReplicaReady,
    ReportLoad,
    Scheduled,
    Stay,
    Stays,
    StepFailed,
    Stepped,
    Withdrawn,
    WorkerReady,
)
from rakka_sim.runtime.api import Actor, Context, Ref
from rakka_sim.values import FinishReason, Load, Progress, StepOutcome, StepPlan, TokenChunk

if TYPE_CHECKING:
    from rakka_sim.core.feed import TokenFeed
    from rakka_sim.records import EventLog

NO_TIMES = np.empty(0)
NO_TIMES.setflags(write=False)
MAX_FAILURES_IN_A_ROW = 3  # of steps in a sound context: then what they computed is at fault


def _escalate(error: Exception) -> Directive:
    return Directive.ESCALATE


# What the worker could not mend by new contexts is not mended by a new worker: this bounds restarts over both tiers.
WORKERS = Supervision(decide=_escalate)


class EngineCore(Actor):
    """Admits up to `max_concurrent` requests, queues or refuses the rest, steps through its worker, emits tokens.

    `feed` keeps the tokens themselves where the worker's are real; a modelled worker's are only counted.
    """

    def __init__(
        self, identity: Identity, batcher: Batcher, launch: Launch, log: EventLog, feed: TokenFeed | None = None
    ) -> None:
        self._identity = identity
        self._batcher = batcher
        self._launch = launch
        self._log = StepLog(log, identity.log_index)
        self._feed = feed
        self._context: Ref[Any] | None = None  # of the worker, once it is built
        self._clients: dict[int, Ref[Any]] = {}  # of every request in the batcher
        self._queue: deque[AddRequest] = deque()  # not admitted yet
        self._queued_tokens = 0
        self._received = 0
        self._plan: StepPlan | None = None
        self._progress = Progress()  # of that plan
        self._ready = False
        self._announced = False  # only the first context makes the replica known; later ones mend it
        self._ending = False  # the run in flight has been asked to end
        self._passing = False  # a scheduling pass is under way
        self._failures = 0
        self._drain: Drain | None = None
        self._reported: tuple[float, ...] | None = None
        self._longest_run = ANY

    def started(self, ctx: Context) -> None:
        ctx.spawn("worker", lambda: Worker(self._launch, ctx.self), WORKERS)

    def receive(self, ctx: Context, msg: Any) -> None:
        match msg:
            case Stepped(outcome):
                self._stepped(ctx, outcome.times, msg)
            case AddRequest():
                self._add(ctx, msg)
            case Schedule():
                self._passing = False
                self._step(ctx)
            case Cancel(request_id):
                self._cancel(ctx, request_id)
            case StepFailed():
                self._failed(ctx, msg)
            case WorkerReady():
                self._worker_ready(ctx, msg)
            case GetLoad(reply_to):
                if reply_to is not None:
                    ctx.tell(reply_to, self._load())
                else:
                    self._reported = None
                    self._report(ctx)
            case Drain():
                self._drain = msg
                self._wake(ctx)
            case Stay(reply_to):
                self._drain = None
                ctx.tell(reply_to, Stays(self._identity.deployment, ctx.self))
            case Withdrawn():
                self._received += 1
                self._wake(ctx)
                self._report(ctx)
            case _:
                ctx.unhandled(msg)

    # --- requests come and go -----------------------------------------------------------------------------------

    def _add(self, ctx: Context, msg: AddRequest) -> None:
        self._received += 1
        serving = self._identity.serving
        expected = self._drain is None or self._received <= self._drain.routed
        if expected and len(self._clients) < serving.max_concurrent:
            self._admit(ctx, msg)
            self._wake(ctx)
        elif expected and serving.on_capacity_exhausted == "queue" and len(self._queue) < serving.queue_capacity:
            self._queue.append(msg)
            self._queued_tokens += msg.batch.prompt_tokens
        else:
            ctx.tell(msg.reply_to, Rejected(msg.batch.request_id, Backpressure(self._identity.deployment)))
        self._report(ctx)

    def _admit(self, ctx: Context, msg: AddRequest) -> None:
        batch = msg.batch
        spec = SequenceSpec(
            batch.request_id,
            batch.prompt_tokens,
            batch.output_tokens,
            batch.content,
            batch.sampling.max_tokens,
            msg.generated,
            batch.priority,
            batch.stream,
        )
        try:
            if self._feed is not None:
                self._feed.check(batch)
            self._batcher.add(spec)
        except InferenceError as error:
            ctx.tell(msg.reply_to, Rejected(batch.request_id, error))
        else:
            self._clients[batch.request_id] = msg.reply_to
            if self._feed is not None:
                self._feed.add(batch, msg.tokens)

    def _admit_queued(self, ctx: Context) -> None:
        while self._queue and len(self._clients) < self._identity.serving.max_concurrent:
            msg = self._queue.popleft()
            self._queued_tokens -= msg.batch.prompt_tokens
            self._admit(ctx, msg)

    def _cancel(self, ctx: Context, request_id: int) -> None:
        for at, msg in enumerate(self._queue):
            if msg.batch.request_id == request_id:
                del self._queue[at]
                self._queued_tokens -= msg.batch.prompt_tokens
                ctx.tell(msg.reply_to, Finished(TokenChunk(request_id, NO_TIMES, finish=FinishReason.CANCELLED), 0))
                self._report(ctx)
                return
        if request_id in self._clients:
            self._emit(ctx, self._batcher.cancel(request_id))
            self._admit_queued(ctx)
            self._wake(ctx)
            self._report(ctx)

    # --- steps --------------------------------------------------------------------------------------------------

    def _worker_ready(self, ctx: Context, msg: WorkerReady) -> None:
        self._context, self._ready = msg.context, True
        self._log.started(msg.began, msg.loaded, ctx.now)
        if not self._announced:
            self._announced = True
            me = self._identity
            ctx.tell(me.manager, ReplicaReady(me.deployment, me.replica, ctx.self))
        self._wake(ctx)

    def _wake(self, ctx: Context) -> None:
        """Something came or went: plan soon, or end the run in flight at its next boundary if it is affected."""
        if self._plan is None:
            if not self._passing:
                self._passing = True
                ctx.run(SchedulingPass(), lambda _: Schedule())
            return
        self._log.queue(ctx.now, self._batcher.waiting)
        if self._batcher.run_must_end and not self._ending and self._context is not None:
            self._ending = True
            ctx.tell(self._context, EndRun())

    def _step(self, ctx: Context) -> None:
        busy = self._clients or self._queue or self._launch.real  # what a real launch makes has to be closed
        if self._plan is not None or (not self._ready and busy):
            return
        self._admit_queued(ctx)
        self._plan = self._batcher.plan(self._longest_run)
        self._emit(ctx, self._batcher.take_events())
        if self._plan is not None and self._context is not None:
            self._ending = False
            self._log.begins(self._plan)
            feed = None
            if self._feed is not None:
                feed = self._feed.inputs(self._plan, self._batcher.promised_blocks(self._plan))
            self._progress = Progress()
            ctx.tell(self._context, Execute(self._plan, ctx.self, feed, self._progress))
        elif self._drain is not None and not self._clients and self._received >= self._drain.routed:
            ctx.tell(self._drain.reply_to, Drained(self._identity.deployment, self._identity.replica))
            ctx.stop()

    def _stepped(self, ctx: Context, times: Times, msg: Stepped) -> None:
        if self._plan is None:
            return
        first = self._record(msg.outcome)
        ended = self._feed.took(msg.outcome) if self._feed is not None else NOBODY
        self._emit(ctx, self._batcher.commit(len(times), ended), times, first)
        self._step(ctx)
        self._report(ctx)

    def _failed(self, ctx: Context, msg: StepFailed) -> None:
        """The step under way is lost, with the cache: everything running is computed again, on the tokens it has."""
        self._ready = not msg.rebuilding
        failed = self._plan
        self._lose(ctx)
        if isinstance(msg.error, OutOfMemory):
            self._batcher.shrink()
        if failed is not None and not msg.rebuilding:
            self._failures += 1
            if self._failures >= MAX_FAILURES_IN_A_ROW:
                self._failures = 0
                self._give_up(ctx, failed, msg.error)
        self._admit_queued(ctx)
        self._wake(ctx)
        self._report(ctx)

    def _record(self, outcome: StepOutcome) -> int:
        """The plan in flight has come to this; the number that the log has for its first step."""
        first = self._log.note(outcome, self._batcher.steps_done)
        self._plan, self._failures = None, 0
        return first

    def _lose(self, ctx: Context) -> None:
        """The device has lost all it had; the steps that ended before now stand."""
        outcome = self._progress.done_by(ctx.now) if self._plan is not None else None
        times, first = NO_TIMES, 0
        if outcome is not None:
            times, first = outcome.times, self._record(outcome)
            if self._feed is not None:
                self._feed.took(outcome)
        self._plan = None
        self._emit(ctx, self._batcher.fail(len(times)), times, first)
        if self._feed is not None:
            self._feed.forget()

    def _give_up(self, ctx: Context, plan: StepPlan, error: Exception) -> None:
        """The batch of a plan fails whenever it is tried: it ends, and the others go on."""
        reason = error if isinstance(error, InferenceError) else Internal(repr(error))
        for row in plan.rows:
            client = self._clients.pop(row.request_id, None)
            if client is not None:
                for event in self._batcher.cancel(row.request_id):
                    if isinstance(event, Sampled) and event.count:  # what has been kept back stands
                        ctx.tell(client, self._chunk(replace(event, finish=None), NO_TIMES, 0))
                if self._feed is not None:
                    self._feed.drop(row.request_id)
                ctx.tell(client, Rejected(row.request_id, reason))

    def _emit(
        self, ctx: Context, events: list[Event], times: Times = NO_TIMES, first: int = 0, began: float = np.inf
    ) -> None:
        """Tell the clients. `times` are those of the steps just done, from number `first` on in the log; a step that
        seats somebody has begun at `began` (s), or begins now."""
        for event in events:
            match event:
                case Sampled(request_id, _, count, None):
                    ctx.tell(self._clients[request_id], self._chunk(event, times[:count], first))
                case Sampled(request_id, _, count, _, preemptions):
                    chunk = self._chunk(event, times[:count], first)
                    ctx.tell(self._clients.pop(request_id), Finished(chunk, preemptions))
                    if self._feed is not None:
                        self._feed.drop(request_id)
                case Started(request_id, cached):
                    ctx.tell(self._clients[request_id], Scheduled(request_id, min(began, ctx.now), cached))
                case Preempted(request_id):
                    self._log.preempted += 1
                    if self._feed is not None:
                        self._feed.unseat(request_id)

    def _chunk(self, event: Sampled, times: Times, first: int) -> TokenChunk:
        times, steps = self._log.place(event, times, first)
        text: str = ""
        tokens: tuple[int, ...] = ()
        if self._feed is not None:
            text, tokens = self._feed.say(event.request_id, event.count, event.finish is not None)
        return TokenChunk(event.request_id, times, text, event.finish, None, steps, tokens)

    def stopped(self, ctx: Context) -> None:
        """What was computed for its requests stands: they take it to the next engine."""
        self._lose(ctx)
        self._emit(ctx, self._batcher.flush())

    # --- what it carries ----------------------------------------------------------------------------------------

    def _load(self) -> Load:
        return self._batcher.load_with(self._identity.serving.max_concurrent, len(self._queue), self._queued_tokens)

    def _report(self, ctx: Context) -> None:
        if self._drain is not None:
            return
        load, received = self._load(), self._received
        report = (load.running, load.waiting, load.kv_usage, load.queued_tokens, received)
        if report != self._reported:
            self._reported = report
            me = self._identity
            ctx.tell(me.coordinator, ReportLoad(me.deployment, me.replica, load, received))
