"""Placement of deployments on nodes: asks every node for a quote, lets the policy choose, reserves, commits.

All or nothing: a node that changed, died or came back between its quote and its commit makes the placement start again,
with everything taken so far given back. No policy may be here (`core.placing`), and no GPU's state (`node_placement`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rakka_sim.actors.demands import demand_of
from rakka_sim.actors.members import NODES, Member
from rakka_sim.actors.node_placement import PlacementActor
from rakka_sim.core.placing import Claim, Demand, Plan, Quote, Tables, facts_of, make_policy, plan, preferred, within
from rakka_sim.core.placing.book import life_of
from rakka_sim.errors import (
    ActorError,
    InputError,
    NodeChanged,
    PlacementContested,
    PlacementError,
    RakkaError,
    UnknownNode,
    UnknownPlacement,
)
from rakka_sim.messages import (
    Abort,
    Commit,
    GetPlacements,
    GetQuote,
    NodeLost,
    NodeReturned,
    Place,
    Release,
    Released,
    ReplicasLost,
    Reserve,
    Resize,
    RoomAgain,
    TellLosses,
    Vacate,
)
from rakka_sim.runtime.api import Actor, Ask, Context, Ref, Terminated
from rakka_sim.values import NodeAssignment, PlacementConstraints, PlacementResult

if TYPE_CHECKING:
    from rakka_sim.config.deployment import Deployment
    from rakka_sim.core.placing import NodeFacts

ASK_TIMEOUT_S = 5.0
# How often a placement starts again because a node has changed; every time, somebody else got what it wanted.
MAX_ROUNDS = 16


class DeploymentPlacementActor(Actor):
    """Answers `Place`, `Resize`, `Release`. A refusal is an answer too, and changes nothing."""

    def __init__(self, policy: object, nodes: PlacementConstraints | Sequence[NodeFacts]) -> None:
        self._policy = make_policy(policy)
        facts = facts_of(nodes) if isinstance(nodes, PlacementConstraints) else nodes
        self._known = nodes if isinstance(nodes, PlacementConstraints) else PlacementConstraints()
        self._members = {each.name: Member(each) for each in facts}
        self._tables = Tables()
        self._placed: dict[str, PlacementResult] = {}
        self._busy: dict[str, None] = {}  # deployments that a flow is placing
        self._turn = 0
        self._tickets = 0
        self._listeners: list[Ref[Any]] = []

    def started(self, ctx: Context) -> None:
        for member in self._members.values():
            self._start(ctx, member)

    def receive(self, ctx: Context, msg: Any) -> None:
        match msg:
            case Place(deployment, reply_to, constraints):
                self._place(ctx, deployment, reply_to, constraints)
            case Resize():
                self._resize(ctx, msg)
            case Release(name, reply_to, replicas):
                self._release(ctx, name, reply_to, replicas)
            case GetPlacements(reply_to):
                _answer(ctx, reply_to, tuple(self._placed.values()))
            case NodeLost(name, reply_to) | NodeReturned(name, reply_to) if name not in self._members:
                _answer(ctx, reply_to, UnknownNode(name, tuple(self._members)))
            case NodeLost(name, reply_to):
                self._lose(ctx, self._members[name])
                _answer(ctx, reply_to, msg)
            case NodeReturned(name, reply_to):
                self._return(ctx, self._members[name])
                _answer(ctx, reply_to, msg)
            case Terminated(ref):
                self._lost(ctx, ref)
            case TellLosses(to):
                self._listeners.append(to)
            case _:
                ctx.unhandled(msg)

    # --- placing ----------------------------------------------------------------------------------------------------

    def _place(
        self, ctx: Context, deployment: Deployment, reply_to: Ref[Any] | None, constraints: PlacementConstraints | None
    ) -> None:
        name = deployment.name
        if name in self._placed or name in self._busy:
            _answer(ctx, reply_to, InputError("deployment", name, "a name that is not placed yet"))
            return
        self._busy[name] = None
        demand = demand_of(deployment)
        ctx.flow(self._find(ctx, demand, list(range(demand.replicas)), reply_to, constraints, resized=False))

    def _resize(self, ctx: Context, msg: Resize) -> None:
        name, demand, reply_to = msg.deployment.name, demand_of(msg.deployment), msg.reply_to
        if name not in self._placed:
            _answer(ctx, reply_to, UnknownPlacement(name))
            return
        if name in self._busy:
            _answer(ctx, reply_to, InputError("deployment", name, "one that is not being placed at the moment"))
            return
        there = {each.replica_index for each in self._placed[name].assignments}
        wanted = range(demand.replicas) if msg.missing is None else msg.missing
        missing = [replica for replica in wanted if replica not in there]
        self._busy[name] = None
        ctx.flow(self._find(ctx, demand, missing, reply_to, None, resized=True, partial=msg.partial))

    async def _find(
        self,
        ctx: Context,
        demand: Demand,
        missing: list[int],
        reply_to: Ref[Any] | None,
        constraints: PlacementConstraints | None,
        *,
        resized: bool,
        partial: bool = False,
    ) -> None:
        """Place `missing` replicas beside those that are there."""
        try:
            planned = Plan(())
            while missing:
                try:
                    planned = await self._placed_somewhere(ctx, demand, missing, constraints)
                    break
                except PlacementError:
                    missing = missing[:-1]
                    if not partial or not missing:
                        raise
        except RakkaError as error:
            _answer(ctx, reply_to, error)
            return
        finally:
            self._busy.pop(demand.deployment, None)
        before = self._placed.get(demand.deployment)
        if before is None and resized:  # released while a place for more was looked for
            for node in planned.by_node():
                self._tell(ctx, node, Vacate(demand.deployment))
            _answer(ctx, reply_to, UnknownPlacement(demand.deployment))
            return
        before = before or PlacementResult(demand.deployment)
        together = sorted((*before.assignments, *planned.assignments), key=lambda each: each.replica_index)
        degraded = planned.degraded if missing else before.degraded
        result = self._placed[demand.deployment] = PlacementResult(demand.deployment, tuple(together), degraded)
        _answer(ctx, reply_to, result)

    async def _placed_somewhere(
        self, ctx: Context, demand: Demand, replicas: list[int], constraints: PlacementConstraints | None
    ) -> Plan:
        """Quote, choose, reserve and commit until no node has changed on the way; raises a PlacementError."""
        for _ in range(MAX_ROUNDS):
            quotes = await self._quotes(ctx, demand, len(replicas), constraints)
            known = preferred(constraints or self._known, demand)
            planned = plan(quotes, demand, self._policy, replicas, self._turn + 1, known)
            if await self._taken(ctx, demand, planned, quotes):
                self._turn += len(replicas)
                return planned
        raise PlacementContested(demand.deployment, MAX_ROUNDS)

    async def _quotes(
        self, ctx: Context, demand: Demand, count: int, constraints: PlacementConstraints | None
    ) -> list[Quote]:
        """What every node that lives would give; one that dies meanwhile has nothing to give."""
        asked = []
        for name, limit in within(constraints, demand, self._members):
            ref = self._members[name].ref
            if ref is not None:
                asked.append(ctx.ask(ref, GetQuote(demand, count, self._policy.sets, limit), ASK_TIMEOUT_S))
        quotes = []
        for question in asked:
            answer = await _answer_of(question)
            if answer is not None:
                quotes.append(answer)
        return quotes

    async def _taken(self, ctx: Context, demand: Demand, planned: Plan, quotes: list[Quote]) -> bool:
        """Reserve on every node of a plan, then commit on every one; False, with nothing taken, if one has changed."""
        epochs = {quote.node: quote.epoch for quote in quotes}
        self._tickets += 1
        ticket = f"{demand.deployment}#{self._tickets}"
        turn = self._turn + len(planned.assignments)
        parts = planned.by_node()
        refs = {node: self._members[node].ref for node in parts}
        asked = []
        for node, assignments in parts.items():
            claim = Claim(demand, tuple(assignments), turn, self._policy.overbooks)
            asked.append((refs[node], Reserve(ticket, epochs[node], claim)))
        reserved = False
        try:
            reserved = await self._all_agree(ctx, asked)
        finally:
            if not reserved:
                for ref in refs.values():
                    _tell(ctx, ref, Abort(ticket))
        if not reserved:
            return False
        committed = await self._all_agree(ctx, [(ref, Commit(ticket)) for ref in refs.values()])
        # A node may have answered and died since, and its successor may be there already.
        alive = all(life_of(epochs[node]) == self._members[node].life for node in parts)
        if not (committed and alive and all(self._members[node].ref is not None for node in parts)):
            for node, assignments in parts.items():
                _tell(ctx, refs[node], Abort(ticket))
                _tell(ctx, refs[node], Vacate(demand.deployment, tuple(each.replica_index for each in assignments)))
            return False
        return True

    async def _all_agree(self, ctx: Context, messages: list[tuple[Ref[Any] | None, Any]]) -> bool:
        """Ask all at once; whether every one agrees. Waits for every answer: one may come late and agree."""
        asked = [ctx.ask(ref, message, ASK_TIMEOUT_S) for ref, message in messages if ref is not None]
        agreed = len(asked) == len(messages)
        for question in asked:
            agreed = await _answer_of(question) is not None and agreed
        return agreed

    def _release(self, ctx: Context, name: str, reply_to: Ref[Any] | None, replicas: tuple[int, ...] | None) -> None:
        result = self._placed.get(name)
        if result is None:
            _answer(ctx, reply_to, UnknownPlacement(name))
            return
        going = [each for each in result.assignments if replicas is None or each.replica_index in replicas]
        for node in dict.fromkeys(node for each in going for node, _ in each.parts):
            self._tell(ctx, node, Vacate(name, replicas))
        left = tuple(each for each in result.assignments if each not in going)
        self._placed[name] = PlacementResult(name, left, result.degraded)
        if replicas is None:
            del self._placed[name]
        _answer(ctx, reply_to, Released(name))

    # --- nodes come and go ------------------------------------------------------------------------------------------

    def _start(self, ctx: Context, member: Member) -> None:
        facts, tables, life = member.facts, self._tables, member.life
        name = facts.name.replace("/", "_") + (f".{life}" if life else "")
        member.ref = ctx.spawn(name, lambda: PlacementActor(facts, tables, life), NODES)
        ctx.watch(member.ref)

    def _lose(self, ctx: Context, member: Member) -> None:
        if member.ref is not None:
            ctx.stop(member.ref)

    def _return(self, ctx: Context, member: Member) -> None:
        if member.ref is not None:
            return
        member.life += 1
        self._start(ctx, member)
        for listener in self._listeners:
            ctx.tell(listener, RoomAgain(member.facts.name))

    def _lost(self, ctx: Context, ref: Ref[Any]) -> None:
        """A node's actor is no more, and neither is what it held."""
        for name, member in self._members.items():
            if member.ref == ref:
                member.ref = None
                self._forget(ctx, name)

    def _forget(self, ctx: Context, node: str) -> None:
        for name, result in self._placed.items():
            gone = [each for each in result.assignments if node in dict(each.parts)]
            if gone:
                left = tuple(each for each in result.assignments if each not in gone)
                self._placed[name] = PlacementResult(name, left, result.degraded)
                for each in gone:
                    self._vacate(ctx, name, each)
                for listener in self._listeners:
                    ctx.tell(listener, ReplicasLost(name, tuple(each.replica_index for each in gone)))

    def _vacate(self, ctx: Context, deployment: str, assignment: NodeAssignment) -> None:
        """Give back what a replica has on all of its nodes that live."""
        for node, _ in assignment.parts:
            self._tell(ctx, node, Vacate(deployment, (assignment.replica_index,)))

    def _tell(self, ctx: Context, node: str, message: object) -> None:
        _tell(ctx, self._members[node].ref, message)


async def _answer_of(question: Ask[Any]) -> Any:
    """A node's answer; None if it has changed, is silent, or has failed. Raises what it finds wrong with a question."""
    try:
        return await question
    except (NodeChanged, ActorError):
        return None
    except RakkaError:
        raise
    except Exception:  # what it failed with, whatever that was: it counts as lost, and its end will be heard of
        return None


def _tell(ctx: Context, ref: Ref[Any] | None, message: object) -> None:
    if ref is not None:
        ctx.tell(ref, message)


def _answer(ctx: Context, reply_to: Ref[Any] | None, answer: object) -> None:
    _tell(ctx, reply_to, answer)
