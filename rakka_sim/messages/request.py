"""What a Request actor receives beside its tokens: from the coordinator, its engine, the gateway, its timers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rakka_sim.values import TokenChunk, value

if TYPE_CHECKING:
    from rakka_sim.errors import InferenceError
    from rakka_sim.runtime.api import Ref


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
