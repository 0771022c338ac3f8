"""What the coordinator receives: replicas that come and go, what they carry, requests to route."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rakka_sim.values import Content, Load, value

if TYPE_CHECKING:
    from rakka_sim.runtime.api import Ref


@value
class Register:
    """A replica is ready to serve. So many requests have been `routed` to it before: it was deregistered meanwhile."""

    deployment: str
    replica: int
    engine: Ref[Any]
    capacity: int
    routed: int = 0


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
