"""The gateway in its in-process form: one Request actor per request. HTTP is not here (that is `serving/`)."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

from rakka_sim.actors.request import Request
from rakka_sim.config.workload import MAX_TOKENS
from rakka_sim.core.supervision import Directive, Supervision
from rakka_sim.errors import BadRequest, InferenceError, Internal, NotFound
from rakka_sim.messages import CancelIt, CancelRequest, RequestEnded, Submit
from rakka_sim.records import RequestRecord
from rakka_sim.runtime.api import Actor, Context, Ref
from rakka_sim.values import ExecuteBatch, TokenUsage

if TYPE_CHECKING:
    from rakka_sim.config.deployment import Deployment
    from rakka_sim.records import EventLog


def _stop_it(error: Exception) -> Directive:
    return Directive.STOP


# A request that fails is its client's misfortune, never the gateway's.
REQUESTS = Supervision(decide=_stop_it)


class ApiGateway(Actor):
    """Admits requests, knows those under way by id, and passes their one terminal word on to the metrics."""

    def __init__(
        self, deployments: dict[str, Deployment], coordinator: Ref[Any], metrics: Ref[Any], log: EventLog
    ) -> None:
        self._deployments = deployments
        self._coordinator = coordinator
        self._metrics = metrics
        self._log = log
        self._under_way: dict[int, tuple[Ref[Any], Submit, float]] = {}

    def receive(self, ctx: Context, msg: Any) -> None:
        match msg:
            case Submit():
                self._submit(ctx, msg)
            case RequestEnded():
                self._under_way.pop(msg.request_id, None)
                ctx.tell(self._metrics, msg)
            case CancelRequest(request_id):
                if request_id in self._under_way:
                    ctx.tell(self._under_way[request_id][0], CancelIt())
            case _:
                ctx.unhandled(msg)

    def _submit(self, ctx: Context, msg: Submit) -> None:
        batch = msg.batch
        deployment = self._deployments.get(batch.model)
        if batch.request_id in self._under_way or batch.request_id in self._log:
            # Not recorded: the log has one record per id, and that one belongs to the other request.
            error = BadRequest(f"request id {batch.request_id} is taken")
            ctx.tell(msg.reply_to, _ended(batch, ctx.now, error))
        elif deployment is None:
            self._refuse(ctx, msg, ctx.now, NotFound(batch.model))
        elif fault := _fault(batch):
            self._refuse(ctx, msg, ctx.now, BadRequest(fault))
        else:
            make = partial(Request, msg, deployment, self._deployments, self._coordinator, ctx.self, self._log)
            ref = ctx.spawn(f"request-{batch.request_id}", make, REQUESTS)
            self._under_way[batch.request_id] = (ref, msg, ctx.now)

    def child_failed(self, ctx: Context, child: Ref[Any], error: Exception, directive: Directive) -> None:
        for _, (ref, submit, arrival) in self._under_way.items():
            if ref == child:
                self._refuse(ctx, submit, arrival, Internal(repr(error)))
                break

    def _refuse(self, ctx: Context, msg: Submit, arrival: float, error: InferenceError) -> None:
        batch = msg.batch
        self._under_way.pop(batch.request_id, None)
        ended = _ended(batch, arrival, error)
        self._log.request(
            RequestRecord(
                request_id=batch.request_id,
                deployment=batch.model,
                replica=-1,
                session=batch.session,
                arrival=arrival,
                scheduled=None,
                first_token=None,
                last_token=None,
                ended=ctx.now,
                prompt_tokens=min(max(0, batch.prompt_tokens), MAX_TOKENS),  # a count that was refused may be any
                output_tokens=0,
                cached_tokens=0,
                preemptions=0,
                outcome=error.kind,
                token_times=(),
            )
        )
        ctx.tell(self._metrics, ended)
        ctx.tell(msg.reply_to, ended)


def _fault(batch: ExecuteBatch) -> str:
    """What is wrong with a request, whoever will serve it; '' if nothing is."""
    if not 1 <= batch.prompt_tokens <= MAX_TOKENS:
        return f"prompt_tokens is {batch.prompt_tokens}: 1 to {MAX_TOKENS}"
    if batch.output_tokens < 0:
        return f"output_tokens is {batch.output_tokens}: 0 or more"
    if batch.timeout_s is not None and not 0 <= batch.timeout_s < math.inf:
        return f"timeout_s is {batch.timeout_s}: a finite number of seconds, 0 or more"
    return ""


def _ended(batch: ExecuteBatch, arrival: float, error: InferenceError) -> RequestEnded:
    usage = TokenUsage(input=batch.prompt_tokens)
    return RequestEnded(batch.request_id, batch.model, -1, error.kind, usage, arrival, None, None, error)
