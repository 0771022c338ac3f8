"""Every message, grouped by the actor that receives it: the protocol on one page. No behaviour may be here.

Messages are values (`rakka_sim.values.value`). A message that wants an answer has a `reply_to`; what comes back is
named in its docstring. Errors travel as themselves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rakka_sim.values import (
    Content,
    ExecuteBatch,
    Load,
    PlacementConstraints,
    PlacementResult,
    Progress,
    StepFeed,
    StepOutcome,
    StepPlan,
    TokenChunk,
    TokenUsage,
    value,
)

if TYPE_CHECKING:
    from rakka_sim.config.deployment import Deployment
    from rakka_sim.core.placing.sets import Pick
    from rakka_sim.core.placing.terms import Claim, Demand
    from rakka_sim.errors import InferenceError
    from rakka_sim.hardware.routes import Weights
    from rakka_sim.runtime.api import Ref

# --- ApiGateway -------------------------------------------------------------------------------------------------


@value
class Submit:
    """A client's request; its chunks go to `reply_to`, and a `RequestEnded` ends it.

    Without `batch.stream`, tokens that are only counted are not sent at all, real ones when there will be no more.
    """

    batch: ExecuteBatch
    reply_to: Ref[Any]


@value
class CancelRequest:
    """The client has gone, or has changed its mind."""

    request_id: int


@value
class RequestEnded:
    """The one terminal word on a request: to the gateway, the metrics and the client.

    `outcome` is a finish reason or, for a failure, the error's kind.
    """

    request_id: int
    deployment: str
    replica: int
    outcome: str
    usage: TokenUsage
    arrival: float
    first_token: float | None
    last_token: float | None
    error: InferenceError | None = None


# --- Request ----------------------------------------------------------------------------------------------------


@value
class Routed:
    """The coordinator's answer to `RouteTo`."""

    deployment: str
    replica: int
    engine: Ref[Any]


@value
class RouteFailed:
    """The coordinator's answer to `RouteTo` when there is no route."""

    error: InferenceError


@value
class Parked:
    """The coordinator's word on a `RouteTo`: no replica is there, some are coming, and it will answer when one has."""


@value
class Scheduled:
    """The engine has put the request into a step for the first time (`at` in s), with that many tokens cached."""

    request_id: int
    at: float
    cached_tokens: int


@value
class Rejected:
    """The engine does not take the request, or gives it up; the tokens delivered so far stand."""

    request_id: int
    error: InferenceError


@value
class Finished:
    """The engine's last word on a request it served, with how often it was preempted."""

    chunk: TokenChunk
    preemptions: int


@value
class CancelIt:
    """The gateway passes a cancel on."""


@value
class DeadlinePassed:
    """The request's own timer: its time is up."""


@value
class FrontEndDone:
    """The request's own timer: the front end has done its work on it, the engines may see it."""


@value
class RouteOverdue:
    """The request's own timer: the coordinator has not answered in time."""


# --- DpCoordinator ----------------------------------------------------------------------------------------------


@value
class Register:
    """A replica is ready to serve."""

    deployment: str
    replica: int
    engine: Ref[Any]
    capacity: int


@value
class Deregister:
    """A replica takes no more requests (it may still finish those it has). Answered by `Deregistered`."""

    deployment: str
    replica: int
    reply_to: Ref[Any] | None = None


@value
class Expect:
    """So many requests that find no replica may wait for one: some serve or are coming up. 0: none is; do not wait."""

    deployment: str
    room: int


@value
class LeaveRoom:
    """A request that waits for a replica wants none any more. Answered by `RouteFailed`, unless it has been routed."""

    request_id: int
    deployment: str


@value
class ReportLoad:
    """What a replica carries now, and how many requests have reached it so far: the rest is still on its way."""

    deployment: str
    replica: int
    load: Load
    received: int


@value
class RouteTo:
    """Which replica should serve this? Answered by `Routed` or `RouteFailed`."""

    request_id: int
    deployment: str
    prompt_tokens: int
    session: int
    content: Content
    reply_to: Ref[Any]


# --- EngineCore -------------------------------------------------------------------------------------------------


@value
class AddRequest:
    """Serve this; `Scheduled`, `TokenChunk`s, then `Finished` or `Rejected` go to `reply_to`.

    `generated` tokens were delivered by a former engine: they are prompt now and are not delivered again. `tokens` are
    their ids, where they are real.
    """

    batch: ExecuteBatch
    reply_to: Ref[Any]
    generated: int = 0
    tokens: tuple[int, ...] = ()


@value
class Withdrawn:
    """A request that was routed here has ended before it could be sent: it counts as received."""

    request_id: int


@value
class Cancel:
    """Give this request up; its slot and blocks are free at the next step boundary."""

    request_id: int


@value
class Stepped:
    """The worker's answer to `Execute`."""

    outcome: StepOutcome


@value
class StepFailed:
    """The worker's other answer to `Execute`: of its plan, only the steps that had ended before count.

    `rebuilding`: the context is being built anew, its KV cache is gone, and `WorkerReady` will follow.
    """

    error: Exception
    rebuilding: bool


@value
class GetLoad:
    """Answered by a `Load`."""

    reply_to: Ref[Any] | None = None


@value
class Drain:
    """Finish what you have, take nothing new, then tell `reply_to` `Drained` and stop.

    `routed` requests have been sent this way in all: those of them that have not arrived yet are not new.
    """

    reply_to: Ref[Any]
    routed: int = 0


# --- Worker, Context --------------------------------------------------------------------------------------------


@value
class Execute:
    """Run this plan; `Stepped` or `StepFailed` goes to `reply_to`. Whoever runs it notes its job in `progress`.

    `feed` is for runners with real tokens.
    """

    plan: StepPlan
    reply_to: Ref[Any]
    feed: StepFeed | None = None
    progress: Progress | None = None


@value
class EndRun:
    """End the run of steps under way at its next boundary."""


@value
class WeightsLoaded:
    """The loader's answer to `LoadWeights`: the weights are on their GPUs."""


@value
class WorkerReady:
    """To the engine: the context is built (again); steps may come, at its own address or through the worker.

    It was begun at `began` (s) and had its weights at `loaded`.
    """

    context: Ref[Any]
    began: float
    loaded: float


# --- WeightLoader -----------------------------------------------------------------------------------------------


@value
class LoadWeights:
    """Bring a replica's weights to its GPUs; answered by `WeightsLoaded` when they are there, or by an `InputError`.

    Whoever asks again gives up what it has asked for before.
    """

    weights: Weights
    reply_to: Ref[Any] | None = None


@value
class CancelLoad:
    """`reply_to` does not want the weights any more that it has asked for; what they took of the links is free."""

    reply_to: Ref[Any]


# --- DeploymentPlacement ----------------------------------------------------------------------------------------


@value
class Place:
    """Find a place for every replica; answered by a `PlacementResult` or a `PlacementError`.

    `constraints` narrow the cluster that the placement was started with.
    """

    deployment: Deployment
    reply_to: Ref[Any] | None = None
    constraints: PlacementConstraints | None = None


@value
class Resize:
    """Place what a placed deployment lacks of the replicas that it says now (`missing`: these of them); nothing moves.

    Answered like `Place`; a refusal leaves everything as it is. With `partial`, as many of the missing replicas as find
    a place are placed; it is a refusal only if none does. Replicas beyond what it says stay until they are released:
    only who has drained them knows when nothing runs there any more.
    """

    deployment: Deployment
    reply_to: Ref[Any] | None = None
    partial: bool = False
    missing: tuple[int, ...] | None = None


@value
class Release:
    """The deployment has gone, or these `replicas` of it; their GPUs are free. Answered by `Released` or an error."""

    deployment: str
    reply_to: Ref[Any] | None = None
    replicas: tuple[int, ...] | None = None


@value
class Released:
    """The answer to `Release`."""

    deployment: str


@value
class GetPlacements:
    """Answered by a tuple of `PlacementResult`, in order of their placement."""

    reply_to: Ref[Any] | None = None


@value
class NodeLost:
    """A node has failed, with all that is on it. Answered by this message, or by `UnknownNode`."""

    node: str
    reply_to: Ref[Any] | None = None


@value
class NodeReturned:
    """A node that had failed is back, empty. Answered like `NodeLost`."""

    node: str
    reply_to: Ref[Any] | None = None


@value
class TellLosses:
    """From now on `to` is told of `ReplicasLost` and `RoomAgain`."""

    to: Ref[Any]


@value
class ReplicasLost:
    """A node went, and these replicas of the deployment with it."""

    deployment: str
    replicas: tuple[int, ...]


@value
class RoomAgain:
    """A node is back, and empty: what found no place may find one now."""

    node: str


# --- Placement (of one node) ------------------------------------------------------------------------------------


@value
class GetQuote:
    """What would you give for up to `count` replicas? Answered by a `Quote`."""

    demand: Demand
    count: int
    pick: Pick
    limit: int | None = None
    reply_to: Ref[Any] | None = None


@value
class Reserve:
    """Take this, if you are still in the state `epoch`; answered by `Reserved` or an error.

    What is not committed in time is given back.
    """

    ticket: str
    epoch: int
    claim: Claim
    reply_to: Ref[Any] | None = None


@value
class Reserved:
    """The node keeps it until `Commit` or `Abort`."""

    ticket: str


@value
class Commit:
    """What was reserved has come to stay; answered by `Committed` or `NodeChanged`."""

    ticket: str
    reply_to: Ref[Any] | None = None


@value
class Committed:
    """The answer to `Commit`."""

    ticket: str


@value
class Abort:
    """Give back what was reserved, if it was."""

    ticket: str


@value
class Vacate:
    """Free a deployment's replicas on this node: those named, or all."""

    deployment: str
    replicas: tuple[int, ...] | None = None


@value
class ReservationOver:
    """The node's own timer: nobody has committed."""

    ticket: str


# --- DeploymentManager ------------------------------------------------------------------------------------------


@value
class Apply:
    """Bring a deployment up, or one that is up to another number of replicas. The last wish that is accepted holds.

    Wishes are decided in the order in which they come: one for which there are not places enough is answered by a
    `PlacementError`, and nothing changes; one with fewer replicas is always accepted, and the highest numbers go. Who
    is accepted is answered by a `DeploymentStatus` as soon as nothing is under way any more: what is wanted is ready,
    what is not has been drained and is gone; or when the deployment has failed or has been removed. By then a later
    wish may hold: `wanted` is the number that does. `ready` may be less, where replicas were lost or given up; `error`
    says why.

    If anything but `replicas` differs, the answer is `NotBuilt`, which names the fields. To a deployment that is being
    removed: it is brought up anew when it is gone. To one that lacks replicas, as it is: they are tried again.
    `placed` is told its `DeploymentStatus` too, as soon as it has its places, or has none.
    """

    deployment: Deployment
    reply_to: Ref[Any] | None = None
    placed: Ref[Any] | None = None


@value
class Remove:
    """Drain a deployment and take it down; answered by its last `DeploymentStatus`."""

    name: str
    reply_to: Ref[Any] | None = None


@value
class ListDeployments:
    """Answered by a tuple of `DeploymentStatus`, in order of Apply."""

    reply_to: Ref[Any] | None = None


@value
class GetDeployment:
    """Answered by a `DeploymentStatus`, or by `NotFound`."""

    name: str
    reply_to: Ref[Any] | None = None


@value
class DeploymentStatus:
    """A deployment's state (pending, serving, draining, stopped, failed) and where it runs.

    Of `wanted` replicas so many are `ready`. It is degraded where some were `given_up` (they cannot serve where they
    were, and their GPUs were given back) or find no place; the `error` is the last reason. The others go on.
    """

    name: str
    state: str
    placement: PlacementResult | None = None
    ready: int = 0
    error: Exception | None = None
    wanted: int = 0
    given_up: tuple[int, ...] = ()


@value
class Deregistered:
    """The coordinator's answer to `Deregister`: it has routed so many requests to the replica, and routes no more."""

    deployment: str
    replica: int
    routed: int


@value
class ReplicaReady:
    """An engine can serve: it may be registered."""

    deployment: str
    replica: int
    engine: Ref[Any]


@value
class Drained:
    """An engine has finished what it had and stops."""

    deployment: str
    replica: int


# --- Metrics ----------------------------------------------------------------------------------------------------


@value
class GetMetrics:
    """Answered by a dict: deployment -> `Counters`."""

    reply_to: Ref[Any] | None = None
