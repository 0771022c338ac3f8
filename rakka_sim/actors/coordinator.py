"""The DP coordinator: which replica serves a request. No policy may be here (that is `core.routing`).

A request that finds no replica waits for one, if the manager has said that some are coming up and how many may wait.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rakka_sim.actors.passes import Schedule, SchedulingPass
from rakka_sim.core.routing import ReplicaView, RouteHint, WatchingPolicy, chosen_index
from rakka_sim.errors import Backpressure, InferenceError, ServerError
from rakka_sim.messages import (
    Deregister,
    Deregistered,
    Expect,
    GetLoad,
    LeaveRoom,
    Parked,
    Register,
    ReportLoad,
    Routed,
    RouteFailed,
    RouteTo,
)
from rakka_sim.runtime.api import Actor, Context, Ref, Terminated
from rakka_sim.values import Load

if TYPE_CHECKING:
    from collections.abc import Callable

    from rakka_sim.core.routing import RoutingPolicy


class Route:
    """One replica as the coordinator knows it."""

    __slots__ = ("engine", "place", "routed", "view")

    def __init__(self, replica: int, engine: Ref[Any], capacity: int, routed: int) -> None:
        self.view = ReplicaView(replica, Load(capacity=capacity), 0)
        self.engine = engine
        self.routed = routed
        self.place = 0  # among the views


class DpCoordinator(Actor):
    """Keeps the routes of each deployment with their load, and asks the deployment's policy for each request."""

    def __init__(self, make_policy: Callable[[], RoutingPolicy]) -> None:
        self._make_policy = make_policy
        self._policies: dict[str, Any] = {}  # `RoutingPolicy`s, but a user's may return what is no int
        self._changed: dict[str, Callable[[int], None]] = {}  # for policies that want to be told
        self._routes: dict[str, dict[int, Route]] = {}
        self._views: dict[str, list[ReplicaView]] = {}
        self._room: dict[str, int] = {}  # how many may wait for a replica
        self._parked: dict[str, dict[int, RouteTo]] = {}  # who waits, in order; no deployment of which nobody does
        self._passing = False  # a pass over them is under way

    def receive(self, ctx: Context, msg: Any) -> None:
        match msg:
            case RouteTo():
                self._route(ctx, msg)
            case ReportLoad():
                self._report(msg)
            case Register():
                self._register(ctx, msg)
            case Deregister():
                self._deregister(ctx, msg)
            case Terminated(ref):
                self._forget(ref)
            case Expect(deployment, room):
                self._room[deployment] = room
                if not room and not self._views.get(deployment):
                    self._send_away(ctx, deployment)
            case LeaveRoom(request_id, deployment):
                self._leave(ctx, deployment, request_id)
            case Schedule():
                self._passing = False
                self._route_parked(ctx)
            case _:
                ctx.unhandled(msg)

    def _route(self, ctx: Context, msg: RouteTo) -> None:
        views = self._views.get(msg.deployment)
        if not views or msg.deployment in self._parked:
            self._park(ctx, msg)
            return
        hint = RouteHint(msg.prompt_tokens, msg.session, msg.content)
        policy = self._policies[msg.deployment]
        view = views[chosen_index(policy, policy.choose(views, hint, ctx.rng), len(views))]
        route = self._routes[msg.deployment][view.replica]
        route.routed += 1
        view.assigned += 1
        if msg.deployment in self._changed:
            self._changed[msg.deployment](route.place)
        ctx.tell(msg.reply_to, Routed(msg.deployment, view.replica, route.engine))

    # --- waiting for a replica ------------------------------------------------------------------------------------

    def _park(self, ctx: Context, msg: RouteTo) -> None:
        room, parked = self._room.get(msg.deployment, 0), self._parked.get(msg.deployment, {})
        if len(parked) < room or self._views.get(msg.deployment):  # or it goes on when the instant is over
            self._parked.setdefault(msg.deployment, parked)[msg.request_id] = msg
            ctx.tell(msg.reply_to, Parked())
        else:
            error: InferenceError = Backpressure(msg.deployment) if room else ServerError(status=503)
            ctx.tell(msg.reply_to, RouteFailed(error))

    def _leave(self, ctx: Context, deployment: str, request_id: int) -> None:
        parked = self._parked.get(deployment, {})
        msg = parked.pop(request_id, None)
        if msg is not None:
            ctx.tell(msg.reply_to, RouteFailed(ServerError(status=503)))
        if not parked:
            self._parked.pop(deployment, None)

    def _send_away(self, ctx: Context, deployment: str) -> None:
        for msg in self._parked.pop(deployment, {}).values():
            ctx.tell(msg.reply_to, RouteFailed(ServerError(status=503)))

    def _route_parked(self, ctx: Context) -> None:
        for deployment in [name for name in self._parked if self._views.get(name)]:
            for msg in self._parked.pop(deployment).values():
                self._route(ctx, msg)

    # --- replicas come and go ---------------------------------------------------------------------------------------

    def _report(self, msg: ReportLoad) -> None:
        route = self._routes.get(msg.deployment, {}).get(msg.replica)
        if route is not None:  # else it has been deregistered and only finishes what it has
            view, load, coming = route.view, msg.load, route.routed - msg.received
            view.load = load
            # What has been routed there but has not arrived yet is load as well: else a burst goes to one replica.
            view.assigned = load.running + load.waiting + (coming if coming > 0 else 0)
            if msg.deployment in self._changed:
                self._changed[msg.deployment](route.place)

    def _register(self, ctx: Context, msg: Register) -> None:
        routes = self._routes.setdefault(msg.deployment, {})
        routes[msg.replica] = Route(msg.replica, msg.engine, msg.capacity, msg.routed)
        self._policies.setdefault(msg.deployment, self._make_policy())
        self._rebuild(msg.deployment)
        ctx.watch(msg.engine)
        if msg.routed:
            ctx.tell(msg.engine, GetLoad())  # what it has reported meanwhile was not heard
        if msg.deployment in self._parked and not self._passing:
            self._passing = True  # when the instant is over: replicas that come together share who has waited
            ctx.run(SchedulingPass(), lambda _: Schedule())

    def _deregister(self, ctx: Context, msg: Deregister) -> None:
        route = self._routes.get(msg.deployment, {}).get(msg.replica)
        self._remove(msg.deployment, msg.replica)
        if msg.reply_to is not None:
            ctx.tell(msg.reply_to, Deregistered(msg.deployment, msg.replica, route.routed if route else 0))

    def _remove(self, deployment: str, replica: int) -> None:
        if self._routes.get(deployment, {}).pop(replica, None) is not None:
            self._rebuild(deployment)

    def _forget(self, engine: Ref[Any]) -> None:
        for deployment, routes in self._routes.items():
            for replica in [number for number, route in routes.items() if route.engine == engine]:
                self._remove(deployment, replica)

    def _rebuild(self, deployment: str) -> None:
        # In order of replica, so that a policy's choice does not depend on which replica was ready first.
        routes = self._routes[deployment]
        self._views[deployment] = views = [routes[replica].view for replica in sorted(routes)]
        for place, replica in enumerate(sorted(routes)):
            routes[replica].place = place
        policy = self._policies[deployment]
        if isinstance(policy, WatchingPolicy):
            policy.watch(views)
            self._changed[deployment] = policy.changed
