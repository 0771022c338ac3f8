"""The deployment manager: the catalogue of deployments and the engines behind them. No placement policy may be here."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rakka_sim.core.lifecycle import DEPLOYMENT, Lifecycle
from rakka_sim.core.supervision import Directive, RestartWindow, Supervision
from rakka_sim.errors import NotBuilt, NotFound, RakkaError, Unrecoverable
from rakka_sim.messages import (
    Apply,
    DeploymentStatus,
    Deregister,
    Deregistered,
    Drain,
    Drained,
    GetDeployment,
    ListDeployments,
    Place,
    Register,
    Release,
    Remove,
    ReplicaReady,
    ReplicasLost,
    Resize,
    RoomAgain,
    TellLosses,
)
from rakka_sim.runtime.api import Actor, Context, Ref, Terminated
from rakka_sim.values import NodeAssignment, TransportKind

if TYPE_CHECKING:
    from rakka_sim.config.deployment import Deployment
    from rakka_sim.values import PlacementResult

MakeEngine = Callable[["Deployment", NodeAssignment, Ref[Any]], Callable[[], Actor]]

ASK_TIMEOUT_S = 60.0


def _stop_it(error: Exception) -> Directive:
    return Directive.STOP


# An engine is never restarted in place: its requests move to other replicas at once, and a new engine takes its GPUs.
ENGINES = Supervision(decide=_stop_it)
REPLACEMENTS = Supervision(max_restarts=3, within_s=60.0, decide=lambda _: Directive.RESTART)


class Replica:
    """One engine of a deployment, and how often it had to be replaced."""

    __slots__ = ("assignment", "draining", "engine", "incarnation", "ready", "replacements")

    def __init__(self, assignment: NodeAssignment) -> None:
        self.assignment = assignment
        self.engine: Ref[Any] | None = None
        self.ready = False
        self.draining = False
        self.incarnation = 0
        self.replacements = RestartWindow(REPLACEMENTS)


class Entry:
    """One deployment as the manager knows it."""

    __slots__ = ("again", "deployment", "error", "life", "mending", "placement", "replicas", "waiting")

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.life = Lifecycle(DEPLOYMENT)
        self.placement: PlacementResult | None = None
        self.replicas: dict[int, Replica] = {}
        self.error: Exception | None = None
        self.mending = False  # whether a place is looked for, for replicas that were lost
        self.again = False  # whether something has changed meanwhile
        self.waiting: list[Ref[Any]] = []  # whom to tell when the state now aimed at is reached

    def status(self) -> DeploymentStatus:
        ready = sum(1 for replica in self.replicas.values() if replica.ready)
        return DeploymentStatus(self.deployment.name, self.life.state, self.placement, ready, self.error)


class DeploymentManager(Actor):
    """Apply, Remove, List, Get. A deployment serves when every replica does; a drain loses no request."""

    def __init__(self, placement: Ref[Any], coordinator: Ref[Any], make_engine: MakeEngine) -> None:
        self._placement = placement
        self._coordinator = coordinator
        self._make_engine = make_engine
        self._entries: dict[str, Entry] = {}

    def started(self, ctx: Context) -> None:
        ctx.tell(self._placement, TellLosses(ctx.self))

    def receive(self, ctx: Context, msg: Any) -> None:
        match msg:
            case Apply(deployment, reply_to, placed):
                self._apply(ctx, deployment, reply_to, placed)
            case Remove(name, reply_to):
                self._remove(ctx, name, reply_to)
            case ReplicaReady():
                self._ready(ctx, msg)
            case Deregistered():
                self._deregistered(ctx, msg)
            case Drained(name, number):
                self._drained(ctx, name, number)
            case Terminated(ref, error):
                self._engine_died(ctx, ref, error)
            case ReplicasLost(name, replicas):
                self._replicas_lost(ctx, name, replicas)
            case RoomAgain():
                for each in self._entries.values():
                    self._mend(ctx, each)
            case GetDeployment(name, reply_to):
                if reply_to is not None:
                    entry = self._entries.get(name)
                    ctx.tell(reply_to, entry.status() if entry else NotFound(name))
            case ListDeployments(reply_to):
                if reply_to is not None:
                    ctx.tell(reply_to, tuple(entry.status() for entry in self._entries.values()))
            case _:
                ctx.unhandled(msg)

    # --- up -----------------------------------------------------------------------------------------------------

    def _apply(self, ctx: Context, deployment: Deployment, reply_to: Ref[Any] | None, placed: Ref[Any] | None) -> None:
        old = self._entries.get(deployment.name)
        if old is not None and old.life.state not in ("stopped", "failed"):
            if reply_to is None:
                return
            if deployment != old.deployment:
                ctx.tell(reply_to, NotBuilt("a change of a deployment in place", "remove it, then apply the new one"))
            elif old.life.state == "pending" and (old.placement is None or old.replicas):
                old.waiting.append(reply_to)
            else:
                ctx.tell(reply_to, old.status())
            return
        entry = self._entries[deployment.name] = Entry(deployment)
        if reply_to is not None:
            entry.waiting.append(reply_to)
        ctx.flow(self._bring_up(ctx, entry, placed))

    async def _bring_up(self, ctx: Context, entry: Entry, placed: Ref[Any] | None) -> None:
        try:
            entry.placement = await ctx.ask(self._placement, Place(entry.deployment), ASK_TIMEOUT_S)
            if entry.life.state != "pending":  # removed while its place was looked for
                ctx.tell(self._placement, Release(entry.deployment.name))
                return
            if entry.deployment.transport is TransportKind.REMOTE_NETWORK:
                # It has its places; what would serve there is not built, so it stays pending.
                self._tell_waiting(ctx, entry)
                return
            for assignment in entry.placement.assignments:
                replica = entry.replicas[assignment.replica_index] = Replica(assignment)
                self._start(ctx, entry, replica)
        except RakkaError as error:  # no place for it, or a model that does not fit into its place
            if entry.life.state == "pending":
                self._fail(ctx, entry, error)
        finally:
            if placed is not None:
                ctx.tell(placed, entry.status())

    def _start(self, ctx: Context, entry: Entry, replica: Replica) -> None:
        replica.incarnation += 1
        name = f"{entry.deployment.name}-{replica.assignment.replica_index}"
        if replica.incarnation > 1:
            name += f".{replica.incarnation}"
        make = self._make_engine(entry.deployment, replica.assignment, ctx.self)
        replica.engine = ctx.spawn(name, make, ENGINES)
        ctx.watch(replica.engine)

    def _ready(self, ctx: Context, msg: ReplicaReady) -> None:
        entry = self._entries[msg.deployment]
        replica = entry.replicas.get(msg.replica)
        if replica is None or replica.engine != msg.engine or replica.draining:
            return
        replica.ready = True
        capacity = entry.deployment.serving.max_concurrent
        ctx.tell(self._coordinator, Register(msg.deployment, msg.replica, msg.engine, capacity))
        if entry.life.state == "pending" and all(other.ready for other in entry.replicas.values()):
            entry.life.fire("serve")
            self._tell_waiting(ctx, entry)

    # --- down ---------------------------------------------------------------------------------------------------

    def _remove(self, ctx: Context, name: str, reply_to: Ref[Any] | None) -> None:
        entry = self._entries.get(name)
        if entry is None or entry.life.state in ("stopped", "failed"):
            if reply_to is not None:
                ctx.tell(reply_to, entry.status() if entry else NotFound(name))
            return
        if reply_to is not None:
            entry.waiting.append(reply_to)
        if entry.life.state != "draining":
            entry.life.fire("drain")
            for number, replica in entry.replicas.items():
                self._drain(ctx, name, number, replica)
            self._finish_drain(ctx, entry)

    def _drain(self, ctx: Context, name: str, number: int, replica: Replica) -> None:
        replica.ready, replica.draining = False, True
        ctx.tell(self._coordinator, Deregister(name, number, ctx.self))

    def _deregistered(self, ctx: Context, msg: Deregistered) -> None:
        """No more requests will be routed to the replica; those on their way are to be waited for."""
        replica = self._entries[msg.deployment].replicas.get(msg.replica)
        if replica is not None and replica.draining and replica.engine is not None:
            ctx.tell(replica.engine, Drain(ctx.self, msg.routed))

    def _drained(self, ctx: Context, name: str, number: int) -> None:
        entry = self._entries[name]
        entry.replicas.pop(number, None)
        self._finish_drain(ctx, entry)

    def _finish_drain(self, ctx: Context, entry: Entry) -> None:
        if entry.life.state == "draining" and not entry.replicas:
            entry.life.fire("stop")
            if entry.placement is not None:
                ctx.tell(self._placement, Release(entry.deployment.name))
            self._tell_waiting(ctx, entry)

    # --- faults -------------------------------------------------------------------------------------------------

    def _engine_died(self, ctx: Context, ref: Ref[Any], error: BaseException | None) -> None:
        for entry in self._entries.values():
            for number, replica in entry.replicas.items():
                if replica.engine == ref:
                    self._replace(ctx, entry, number, error)
                    return

    def _replace(self, ctx: Context, entry: Entry, number: int, error: BaseException | None) -> None:
        replica = entry.replicas[number]
        replica.ready, replica.engine = False, None
        fault = error if isinstance(error, Exception) else Unrecoverable("the engine stopped by itself")
        if replica.draining:
            self._drained(ctx, entry.deployment.name, number)
        elif isinstance(fault, Unrecoverable) or replica.replacements.decide(fault, ctx.now) is not Directive.RESTART:
            self._fail(ctx, entry, fault)
        else:
            self._start(ctx, entry, replica)

    def _replicas_lost(self, ctx: Context, name: str, replicas: tuple[int, ...]) -> None:
        """Their node has gone: their engines are no more, their requests move on, and they want new places."""
        entry = self._entries.get(name)
        if entry is None or entry.life.over:
            return
        for number in replicas:
            replica = entry.replicas.pop(number, None)
            if replica is not None:
                ctx.tell(self._coordinator, Deregister(name, number))
                if replica.engine is not None:
                    ctx.unwatch(replica.engine)
                    ctx.stop(replica.engine)
        self._finish_drain(ctx, entry)
        self._mend(ctx, entry)

    def _mend(self, ctx: Context, entry: Entry) -> None:
        """Look for places for replicas that have none; one search at a time."""
        lacking = entry.placement is not None and len(entry.replicas) < entry.deployment.replicas
        local = entry.deployment.transport is TransportKind.LOCAL_GPU
        if entry.mending:
            entry.again = True
        elif local and lacking and entry.life.state in ("pending", "serving"):
            entry.mending = True
            ctx.flow(self._search(ctx, entry))

    async def _search(self, ctx: Context, entry: Entry) -> None:
        try:
            message = Resize(entry.deployment, partial=True)
            entry.placement, entry.error = await ctx.ask(self._placement, message, ASK_TIMEOUT_S), None
        except RakkaError as error:
            entry.error = error  # until a node is back
        entry.mending = False
        if entry.life.state not in ("pending", "serving") or entry.placement is None:
            return  # removed meanwhile: its places were given back with the rest
        if entry.error is None:
            for assignment in entry.placement.assignments:
                if assignment.replica_index not in entry.replicas:
                    self._start_anew(ctx, entry, assignment)
        if entry.again:
            entry.again = False
            self._mend(ctx, entry)

    def _start_anew(self, ctx: Context, entry: Entry, assignment: NodeAssignment) -> None:
        replica = entry.replicas[assignment.replica_index] = Replica(assignment)
        try:
            self._start(ctx, entry, replica)
        except RakkaError as error:  # its new place is of another kind, and the model does not fit there
            del entry.replicas[assignment.replica_index]
            entry.error = error

    def _fail(self, ctx: Context, entry: Entry, error: Exception) -> None:
        entry.error = error
        entry.life.fire("fail")
        for number, replica in entry.replicas.items():
            ctx.tell(self._coordinator, Deregister(entry.deployment.name, number))
            if replica.engine is not None:
                ctx.unwatch(replica.engine)
                ctx.stop(replica.engine)
        entry.replicas.clear()
        if entry.placement is not None:
            ctx.tell(self._placement, Release(entry.deployment.name))
        self._tell_waiting(ctx, entry)

    def _tell_waiting(self, ctx: Context, entry: Entry) -> None:
        status = entry.status()
        for ref in entry.waiting:
            ctx.tell(ref, status)
        entry.waiting.clear()
