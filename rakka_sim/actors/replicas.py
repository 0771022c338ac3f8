"""The engines of one deployment, each on its GPUs: started, drained, replaced, given up; no place is looked for here.

What is due about one of them says `core.fleet`; how many are wanted, `roll_out`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rakka_sim.core.fleet import Due, Fleet, Stage
from rakka_sim.core.supervision import Directive, RestartWindow, Supervision
from rakka_sim.errors import RakkaError, Unrecoverable
from rakka_sim.messages import Deregister, Deregistered, Drain, Register, Release, ReplicaReady, Stay, Stays
from rakka_sim.runtime.api import Actor, Context, Ref
from rakka_sim.values import NodeAssignment, TransportKind

if TYPE_CHECKING:
    from rakka_sim.config.deployment import Deployment
    from rakka_sim.records.holdings import Holdings

MakeEngine = Callable[["Deployment", NodeAssignment, Ref[Any]], Callable[[], Actor]]


def _stop_it(error: Exception) -> Directive:
    return Directive.STOP


# An engine is never restarted in place: its requests move to other replicas at once, and a new engine takes its GPUs.
ENGINES = Supervision(decide=_stop_it)
REPLACEMENTS = Supervision(max_restarts=3, within_s=60.0, decide=lambda _: Directive.RESTART)


@dataclass(frozen=True, slots=True)
class Around:
    """Who else is there for a deployment's engines."""

    placement: Ref[Any]
    coordinator: Ref[Any]
    make_engine: MakeEngine
    room_again: Callable[[Context], None]  # to be called when GPUs were given back: others may want them
    holdings: Holdings


class Replica:
    """One replica's GPUs, the engine on them, and how often it had to be replaced.

    Of the engine: whether it can serve, and, while it drains, how many requests have been routed to it (None: that is
    not known yet) and whether it has been asked to stay.
    """

    __slots__ = ("asked", "assignment", "engine", "incarnation", "ready", "replacements", "routed")

    def __init__(self, assignment: NodeAssignment) -> None:
        self.assignment = assignment
        self.engine: Ref[Any] | None = None
        self.incarnation = 0
        self.replacements = RestartWindow(REPLACEMENTS)
        self.ready = self.asked = False
        self.routed: int | None = None


class Replicas:
    """Those replicas of a deployment that have GPUs. `error` is what last befell one."""

    def __init__(self, deployment: Deployment, around: Around) -> None:
        self.deployment = deployment
        self.fleet = Fleet(deployment.replicas)
        self.error: Exception | None = None
        self._around = around
        self._held: dict[int, Replica] = {}
        self._by_engine: dict[Ref[Any], int] = {}

    @property
    def assignments(self) -> tuple[NodeAssignment, ...]:
        """Where they are, in order of their numbers."""
        return tuple(self._held[number].assignment for number in sorted(self._held))

    def __len__(self) -> int:
        return len(self._held)

    def want(self, ctx: Context, wanted: int) -> None:
        """So many are to serve from now on: those beyond go."""
        for number in self.fleet.want(wanted):
            self._step(ctx, number)

    def take(self, ctx: Context, assignment: NodeAssignment) -> None:
        """A replica has got GPUs."""
        number = assignment.replica_index
        self._held[number] = Replica(assignment)
        self.fleet.happens(number, "place")
        self._around.holdings.took(ctx.now, self.deployment.name, assignment)
        self._step(ctx, number)

    def drop(self, ctx: Context, number: int) -> None:
        """A replica's GPUs are gone, or will be: its engine, if it has one, stops at once, and its requests move on."""
        replica = self._held.pop(number, None)
        if replica is None:
            return
        self.fleet.happens(number, "lose")
        self._around.holdings.gave_back(ctx.now, self.deployment.name, replica.assignment)
        ctx.tell(self._around.coordinator, Deregister(self.deployment.name, number))
        if replica.engine is not None:
            del self._by_engine[replica.engine]
            ctx.unwatch(replica.engine)
            ctx.stop(replica.engine)

    def _step(self, ctx: Context, number: int) -> None:
        """Do what is due about a replica."""
        due, name = self.fleet.due(number), self.deployment.name
        if due is Due.START and self.deployment.transport is TransportKind.LOCAL_GPU:
            self._start(ctx, number)  # what would serve at a provider is not built: such a one stays as it is
        elif due is Due.DRAIN:
            self.fleet.happens(number, "drain")
            ctx.tell(self._around.coordinator, Deregister(name, number, ctx.self))
        elif due is Due.RECALL:
            self._recall(ctx, self._held[number])
        elif due is Due.GIVE_BACK:
            self.fleet.happens(number, "give_back")
            self._around.holdings.gave_back(ctx.now, name, self._held.pop(number).assignment)
            ctx.tell(self._around.placement, Release(name, replicas=(number,)))
            self._around.room_again(ctx)

    def _start(self, ctx: Context, number: int) -> None:
        replica = self._held[number]
        replica.incarnation += 1
        name = f"{self.deployment.name}-{number}"
        if replica.incarnation > 1:
            name += f".{replica.incarnation}"
        try:
            make = self._around.make_engine(self.deployment, replica.assignment, ctx.self)
        except RakkaError as error:  # the model does not fit into its place
            self._give_up(ctx, number, error)
            return
        self.fleet.happens(number, "start")
        replica.ready, replica.asked, replica.routed = False, False, None
        replica.engine = ctx.spawn(name, make, ENGINES)
        self._by_engine[replica.engine] = number
        ctx.watch(replica.engine)

    def _give_up(self, ctx: Context, number: int, error: Exception) -> None:
        """It cannot serve where it is. Its GPUs are given back, and the others go on."""
        self.error = error
        self.fleet.give_up(number)
        self._step(ctx, number)

    # --- what the engines say -----------------------------------------------------------------------------------------

    def ready(self, ctx: Context, msg: ReplicaReady) -> None:
        """An engine can serve."""
        number = self._by_engine.get(msg.engine)
        if number is not None:
            self._held[number].ready = True
            if self.fleet.stage(number) is Stage.STARTING:
                self._register(ctx, number, msg.engine, 0)

    def _register(self, ctx: Context, number: int, engine: Ref[Any], routed: int) -> None:
        self.fleet.happens(number, "ready")
        capacity = self.deployment.serving.max_concurrent
        ctx.tell(self._around.coordinator, Register(self.deployment.name, number, engine, capacity, routed))

    def deregistered(self, ctx: Context, msg: Deregistered) -> None:
        """No more requests will be routed to the replica; those on their way are to be waited for."""
        replica = self._held.get(msg.replica)
        if replica is not None and replica.engine is not None and self.fleet.stage(msg.replica) is Stage.DRAINING:
            replica.routed = msg.routed
            if self.fleet.due(msg.replica) is Due.RECALL:
                self._recall(ctx, replica)
            else:
                ctx.tell(replica.engine, Drain(ctx.self, msg.routed))

    def _recall(self, ctx: Context, replica: Replica) -> None:
        """Call a drain off: one question at a time, and none before the coordinator has said what it has routed."""
        if replica.engine is not None and replica.routed is not None and not replica.asked:
            replica.asked = True
            ctx.tell(replica.engine, Stay(ctx.self))

    def stays(self, ctx: Context, msg: Stays) -> None:
        """An engine takes requests again; if it is not wanted any more by now, it drains once more."""
        number = self._by_engine.get(msg.engine)
        replica = None if number is None else self._held[number]
        if number is None or replica is None or replica.routed is None:
            return
        routed, replica.asked = replica.routed, False
        if self.fleet.due(number) is not Due.RECALL:
            ctx.tell(msg.engine, Drain(ctx.self, routed))
            return
        replica.routed = None
        self.fleet.happens(number, "recall")
        if replica.ready:
            self._register(ctx, number, msg.engine, routed)

    def ended(self, ctx: Context, engine: Ref[Any], error: BaseException | None) -> bool:
        """An engine is no more: it has been drained, or it has died. False if it is none of these."""
        number = self._by_engine.pop(engine, None)
        if number is None:
            return False
        replica, drained = self._held[number], self.fleet.stage(number) is Stage.DRAINING and error is None
        replica.engine = None
        self.fleet.happens(number, "end")
        fault = error if isinstance(error, Exception) else Unrecoverable("the engine stopped by itself")
        if drained or self.fleet.due(number) is not Due.START:
            self._step(ctx, number)
        elif isinstance(fault, Unrecoverable) or replica.replacements.decide(fault, ctx.now) is not Directive.RESTART:
            self._give_up(ctx, number, fault)
        else:
            self._step(ctx, number)
        return True
