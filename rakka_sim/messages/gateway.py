"""What the gateway receives, and the one word that ends a request. No behaviour may be here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rakka_sim.values import ExecuteBatch, TokenUsage, value

if TYPE_CHECKING:
    from rakka_sim.errors import InferenceError
    from rakka_sim.runtime.api import Ref


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
