"""How a request can end other than well; what an engine or its device meets is one of them. Nothing else is here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rakka_sim.errors.base import RakkaError


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
