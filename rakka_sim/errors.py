"""Every error the package raises, in one tree; nothing but errors may be in this file.

The name says what went wrong and the fields say where, so that a caller never parses a message::

    RakkaError
    |-- InputError                    the user's input: names the place, the value and what is allowed
    |   |-- ScenarioError             a scenario or deployment file
    |   |-- TraceError                a row of a trace
    |   |-- UnknownName               a model, GPU, policy or dataset that no catalogue lists
    |   `-- DatasetMissing            a dataset that is neither on this machine nor fetched yet
    |-- FetchFailed                   a dataset that could not be downloaded whole and unchanged
    |-- NotBuilt                      a part of the design that this version does not have
    |-- NoDevice                      no GPU on this machine, or none that can be seen
    |-- InferenceError                how a request can end other than well
    |   |-- RateLimited, CircuitOpen, ContentFiltered, ContextLengthExceeded, BadRequest, NotFound,
    |   |   Unauthorized, Forbidden, Backpressure, BudgetExceeded, NetworkError, ServerError, Timeout
    |   |-- ContextPoisoned           supervision: restart
    |   |-- OutOfMemory               supervision: resume
    |   |-- Unrecoverable             supervision: stop
    |   `-- Internal
    |-- PlacementError
    |   |-- NoGpuNodes, NoEgressNodes, NotEnoughGpus, NotEnoughDomains, NoSuitableNodes, UnknownPlacement
    |   |-- NodeChanged, PlacementContested, UnknownNode
    |   |-- BadPolicy                 a user's placement policy chose what it was not offered
    |   |-- NoMigStart, MigNoPeers    a slice that does not fit, slices that cannot work as one
    |-- ActorError                    the runtime: who could not be reached, and why
    |   |-- ActorStopped, ActorRestarted, AskTimeout, MailboxFull, Unhandled, NameTaken, Stalled
    |   |-- NotDeterministic          two runs of the same thing differ: which message, and how
    |-- InvariantBroken               a core's ``check()`` failed: a bug in this package
    `-- RunFailed                     a run that ended early: what failed and how far it had come
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

MOST_SHOWN = 200


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."


def _rebuild(cls: type[RakkaError], fields: dict[str, Any]) -> RakkaError:
    error = cls.__new__(cls)
    error.__dict__.update(fields)
    return error


class RakkaError(Exception):
    """The base of every error of this package."""

    def __reduce__(self) -> tuple[Any, ...]:
        # The default rebuilds from `args`, which loses fields given by keyword on the way out of a worker process.
        return _rebuild, (type(self), dict(self.__dict__))


# --- the user's input -------------------------------------------------------------------------------------------


@dataclass(eq=False)
class InputError(RakkaError):
    """Input that cannot be used: where it stands, what stands there, and what may stand there."""

    where: str
    value: object
    allowed: str

    def __str__(self) -> str:
        return f"{self.where}: {_shown(self.value)} is not allowed; allowed: {self.allowed}"


@dataclass(eq=False)
class ScenarioError(InputError):
    """A scenario that cannot be run; `problems` lists every fault found in it, the first one also in the fields."""

    problems: Sequence[InputError] = ()

    def __str__(self) -> str:
        rest = "".join(f"\n  {problem}" for problem in list(self.problems)[1:])
        return InputError.__str__(self) + rest


@dataclass(eq=False)
class TraceError(InputError):
    """A row of a trace that cannot be read."""

    file: str
    line: int
    field: str

    def __init__(self, file: str, line: int, field: str, value: object, allowed: str) -> None:
        self.file, self.line, self.field = file, line, field
        self.where, self.value, self.allowed = f"{file}, line {line}, field {field}", value, allowed


@dataclass(eq=False)
class UnknownName(InputError):
    """A name that no catalogue lists; `allowed` holds the names there are."""


@dataclass(eq=False)
class DatasetMissing(InputError):
    """A dataset that is not on this machine; the message says how to get it."""

    dataset: str
    searched: Sequence[str]

    def __init__(self, dataset: str, searched: Sequence[str]) -> None:
        self.dataset, self.searched = dataset, searched
        self.where, self.value, self.allowed = "dataset", dataset, "a dataset on this machine"

    def __str__(self) -> str:
        places = ", ".join(self.searched)
        return f"dataset {self.dataset!r} is not in {places}; get it with: rakka-sim fetch {self.dataset}"


@dataclass(eq=False)
class FetchFailed(RakkaError):
    """A dataset that could not be downloaded whole and unchanged; nothing of it was kept.

    `reason`: bad_url, unreachable (no connection, or it broke), status, too_large, truncated, checksum, cache (disk).
    """

    dataset: str
    url: str
    reason: str
    detail: str

    def __str__(self) -> str:
        return f"dataset {self.dataset!r} could not be fetched from {self.url}: {self.reason} ({self.detail})"


@dataclass(eq=False)
class NotBuilt(RakkaError):
    """A part of the design that this version does not have yet."""

    what: str
    instead: str = ""

    def __str__(self) -> str:
        hint = f"; {self.instead}" if self.instead else ""
        return f"{self.what} is not built in this version{hint}"


@dataclass(eq=False)
class NoDevice(RakkaError):
    """No GPU on this machine that anything here can see: `asked` says what was asked, and what each answered."""

    asked: Sequence[tuple[str, str]]

    def __str__(self) -> str:
        answers = "; ".join(f"{library}: {answer}" for library, answer in self.asked)
        return f"no GPU found on this machine ({answers})"


# --- how a request can end --------------------------------------------------------------------------------------


class InferenceError(RakkaError):
    """A request that did not end well. `kind` is the outcome in records; the flags drive retry and breaker."""

    kind: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False
    counts_for_breaker: ClassVar[bool] = False

    def __str__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in self.__dict__.items())
        return f"{self.kind} ({fields})" if fields else self.kind


@dataclass(eq=False)
class RateLimited(InferenceError):
    """The provider refused for now; `retry_after` in seconds."""

    kind = "rate_limited"
    retryable = True
    provider: str
    retry_after: float | None = None


@dataclass(eq=False)
class CircuitOpen(InferenceError):
    """The breaker in front of the provider is open."""

    kind = "circuit_open"
    provider: str
    opened_at: float
    retry_at: float


@dataclass(eq=False)
class ContentFiltered(InferenceError):
    """The provider's filter refused the content."""

    kind = "content_filtered"
    reason: str


@dataclass(eq=False)
class ContextLengthExceeded(InferenceError):
    """The request can never fit: into the model's context or into the engine's KV blocks."""

    kind = "context_length_exceeded"
    tokens: int
    max: int


@dataclass(eq=False)
class BadRequest(InferenceError):
    """The request is malformed."""

    kind = "bad_request"
    reason: str


@dataclass(eq=False)
class NotFound(InferenceError):
    """No deployment of that name."""

    kind = "not_found"
    model: str


class Unauthorized(InferenceError):
    """The credentials were refused (401)."""

    kind = "unauthorized"


class Forbidden(InferenceError):
    """The credentials do not allow this (403)."""

    kind = "forbidden"


@dataclass(eq=False)
class Backpressure(InferenceError):
    """The replica is full: every slot is taken and so is every place in its queue."""

    kind = "backpressure"
    deployment: str


@dataclass(eq=False)
class BudgetExceeded(InferenceError):
    """The deployment's spending limit is reached."""

    kind = "budget_exceeded"
    deployment: str


@dataclass(eq=False)
class NetworkError(InferenceError):
    """The connection failed."""

    kind = "network_error"
    retryable = True
    counts_for_breaker = True
    reason: str = ""


@dataclass(eq=False)
class ServerError(InferenceError):
    """The server failed (5xx); 503 also stands for 'no replica serves this deployment now'."""

    kind = "server_error"
    retryable = True
    counts_for_breaker = True
    status: int = 500


@dataclass(eq=False)
class Timeout(InferenceError):
    """The deadline passed; `elapsed` in seconds since arrival."""

    kind = "timeout"
    retryable = True
    counts_for_breaker = True
    elapsed: float


@dataclass(eq=False)
class ContextPoisoned(InferenceError):
    """The device context is unusable and must be rebuilt (a sticky CUDA error)."""

    kind = "context_poisoned"
    reason: str = ""


@dataclass(eq=False)
class OutOfMemory(InferenceError):
    """A step did not fit into device memory; the context itself is sound."""

    kind = "out_of_memory"
    reason: str = ""


@dataclass(eq=False)
class Unrecoverable(InferenceError):
    """A fault that no restart can mend."""

    kind = "unrecoverable"
    reason: str = ""


@dataclass(eq=False)
class Internal(InferenceError):
    """A fault of the serving system itself."""

    reason: str = ""


# --- placement --------------------------------------------------------------------------------------------------


class PlacementError(RakkaError):
    """A deployment that cannot be placed."""


class NoGpuNodes(PlacementError):
    """A local deployment, and no node has a GPU."""

    def __str__(self) -> str:
        return "no GPU nodes available"


@dataclass(eq=False)
class NoEgressNodes(PlacementError):
    """A remote deployment, and no node may reach its provider (from its region, if it names one)."""

    provider: str
    region: str = ""

    def __str__(self) -> str:
        where = f" in region {self.region!r}" if self.region else ""
        return f"no egress nodes available for provider {self.provider!r}{where}"


@dataclass(eq=False)
class NotEnoughGpus(PlacementError):
    """Too few GPUs free: `free` is what each node that might have served had when the deployment came.

    `fabrics`: the same of NVLink domains that span nodes, those GPUs that are joined.
    """

    requested: int
    deployment: str = ""
    replicas: int = 1
    free: Sequence[tuple[str, int]] = ()
    fabrics: Sequence[tuple[str, int]] = ()

    def __str__(self) -> str:
        who = f"deployment {self.deployment!r}" if self.deployment else "deployment"
        had = ", ".join(f"{node} {gpus}" for node, gpus in list(self.free)[:8])
        more = f" and {len(self.free) - 8} nodes more" if len(self.free) > 8 else ""
        found = f"; free: {had}{more}" if had else ""
        joined = ", ".join(f"{fabric} {gpus}" for fabric, gpus in list(self.fabrics)[:8])
        found += f"; free in NVLink domains: {joined}" if joined else ""
        return f"{who} requires {self.requested} GPUs for each of {self.replicas} replicas{found}"


@dataclass(eq=False)
class NoSuitableNodes(PlacementError):
    """No node may serve the deployment, whatever is free: `reasons` says why, node by node."""

    deployment: str
    reasons: Sequence[tuple[str, str]] = ()

    def __str__(self) -> str:
        why = "; ".join(f"{node}: {reason}" for node, reason in list(self.reasons)[:8])
        more = f"; and {len(self.reasons) - 8} nodes more" if len(self.reasons) > 8 else ""
        return f"no node may serve deployment {self.deployment!r} ({why}{more})"


@dataclass(eq=False)
class NotEnoughDomains(PlacementError):
    """A deployment that requires a failure domain for each replica, and there are too few with room."""

    deployment: str
    replicas: int
    domains: int

    def __str__(self) -> str:
        return (
            f"deployment {self.deployment!r} requires a failure domain for each of {self.replicas} replicas; "
            f"{self.domains} have room"
        )


@dataclass(eq=False)
class BadPolicy(PlacementError):
    """A placement policy chose what it was not offered."""

    policy: str
    what: str

    def __str__(self) -> str:
        return f"placement policy {self.policy!r}: {self.what}"


@dataclass(eq=False)
class NodeChanged(PlacementError):
    """A reservation against a state of the node that is past, or one that the node does not hold any more."""

    node: str
    epoch: int
    now: int

    def __str__(self) -> str:
        return f"node {self.node!r} has changed since it was asked (state {self.epoch}, now {self.now})"


@dataclass(eq=False)
class PlacementContested(PlacementError):
    """Nodes changed under the placement again and again; nothing was placed."""

    deployment: str
    rounds: int

    def __str__(self) -> str:
        return f"deployment {self.deployment!r} was not placed: nodes changed in each of {self.rounds} attempts"


@dataclass(eq=False)
class UnknownNode(PlacementError):
    """Word of a node that the cluster does not have."""

    node: str
    known: Sequence[str] = ()

    def __str__(self) -> str:
        return f"there is no node {self.node!r}; nodes: {', '.join(list(self.known)[:20])}"


@dataclass(eq=False)
class UnknownPlacement(PlacementError):
    """A release of something that was never placed."""

    deployment: str

    def __str__(self) -> str:
        return f"deployment {self.deployment!r} is not placed"


@dataclass(eq=False)
class NoMigStart(PlacementError):
    """A MIG slice that cannot be where it was to be: `allowed` are the starts at which it is legal (or `placed`)."""

    gpu: str
    profile: str
    start: int | None
    allowed: tuple[int, ...]
    what: str = "free"

    def __str__(self) -> str:
        where = "" if self.start is None else f" at {self.start}"
        starts = ", ".join(map(str, self.allowed)) or "none"
        return f"{self.profile} on {self.gpu} cannot be{where}; {self.what} starts: {starts}"


@dataclass(eq=False)
class MigNoPeers(PlacementError):
    """Tensor parallelism over MIG slices, which do not reach each other's memory."""

    device: str
    gpus: int

    def __str__(self) -> str:
        return (
            f"{self.gpus} x {self.device}: MIG slices have no peer access, a replica takes one (gpus = 1) or whole GPUs"
        )


# --- the runtime ------------------------------------------------------------------------------------------------


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
