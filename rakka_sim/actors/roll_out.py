"""One deployment, brought to what is wanted of it and kept there: wishes, places, who waits. No engine is here.

Places are looked for by one question at a time, in the order of the wishes; what was lost is mended between them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rakka_sim.actors.replicas import Around, Replicas
from rakka_sim.core.fleet import Stage
from rakka_sim.core.lifecycle import DEPLOYMENT, Lifecycle
from rakka_sim.errors import RakkaError
from rakka_sim.messages import (
    Apply,
    DeploymentStatus,
    Deregistered,
    Expect,
    Place,
    Release,
    ReplicaReady,
    Resize,
    Stays,
)
from rakka_sim.runtime.api import Context, Ref
from rakka_sim.values import TransportKind

if TYPE_CHECKING:
    from rakka_sim.config.deployment import Deployment
    from rakka_sim.values import PlacementResult

ASK_TIMEOUT_S = 60.0


class RollOut:
    """A deployment from its first `Apply` until it has stopped or failed. `apply` takes wishes that outlive it."""

    def __init__(self, deployment: Deployment, around: Around, apply: Callable[[Context, Apply], None]) -> None:
        self._around = around
        self._apply = apply
        self._life = Lifecycle(DEPLOYMENT)
        self._replicas = Replicas(deployment, around)
        self._placement: PlacementResult | None = None  # the last answer
        self._refused: Exception | None = None  # why there is no place for what was lost
        self._wishes: deque[Apply] = deque()  # not decided yet
        self._mending = False  # whether places are to be looked for, for what was lost
        self._busy = False  # whether a question to the placement is under way
        self._waiting: list[Ref[Any]] = []  # whom to tell when what is wanted now is reached
        self._room = 0  # as the coordinator was told

    @property
    def deployment(self) -> Deployment:
        """As it was last accepted."""
        return self._replicas.deployment

    @property
    def alive(self) -> bool:
        """Whether it serves or is to: it can be resized."""
        return self._life.state in ("pending", "serving")

    @property
    def over(self) -> bool:
        """Whether nothing of it is left, so that another may take its name."""
        return self._life.over and not self._busy

    def status(self) -> DeploymentStatus:
        """Where it stands."""
        fleet, placement = self._replicas.fleet, self._placement
        return DeploymentStatus(
            self.deployment.name,
            self._life.state,
            None if placement is None else replace(placement, assignments=self._replicas.assignments),
            fleet.counts[Stage.READY],
            self._refused or self._replicas.error,
            fleet.wanted,
            tuple(sorted(fleet.given_up)),
        )

    # --- wishes -----------------------------------------------------------------------------------------------------

    def wish(self, ctx: Context, wish: Apply) -> None:
        """Take an `Apply` up when those before it are decided."""
        self._wishes.append(wish)
        self._work(ctx)

    def remove(self, ctx: Context, reply_to: Ref[Any] | None) -> None:
        """Drain and go. Who has wished anything before is told of this end."""
        wishing = (ref for wish in self._wishes for ref in (wish.reply_to, wish.placed))
        self._waiting += [ref for ref in (*wishing, reply_to) if ref is not None]
        self._wishes.clear()
        if self.alive:
            self._life.fire("drain")
            self._expect(ctx)
            self._replicas.want(ctx, 0)
        self._settle(ctx)

    def mend(self, ctx: Context) -> None:
        """Look for places for replicas that have none."""
        self._mending = True
        self._work(ctx)

    def _work(self, ctx: Context) -> None:
        if self.alive and not self._busy:
            self._busy = True
            ctx.flow(self._one_by_one(ctx))

    async def _one_by_one(self, ctx: Context) -> None:
        while self.alive and (self._wishes or self._mending):
            if self._wishes:
                wish = self._wishes.popleft()
                await self._decide(ctx, wish)
                if wish.placed is not None:
                    ctx.tell(wish.placed, self.status())
            else:
                self._mending = False
                await self._mend(ctx)
        self._busy = False
        self._settle(ctx)

    async def _decide(self, ctx: Context, wish: Apply) -> None:
        """Accept a wish if there is a place for all that it wants, at once if it wants fewer than before."""
        deployment, placement, fleet = wish.deployment, self._placement, self._replicas.fleet
        fewer = placement is not None and deployment.replicas < fleet.wanted
        lacking = () if fewer else fleet.lacking(deployment.replicas)
        try:
            if placement is None or lacking:
                question = Place(deployment) if placement is None else Resize(deployment, missing=lacking)
                placement = await ctx.ask(self._around.placement, question, ASK_TIMEOUT_S)
        except RakkaError as error:
            if self.alive and self._placement is not None:
                if wish.reply_to is not None:
                    ctx.tell(wish.reply_to, error)  # and all goes on as before
                return
            if self.alive:
                self._fail(ctx, error)
            self._hear_the_end(ctx, wish.reply_to)
            return
        self._placement = placement
        if not self.alive:  # removed meanwhile: its places are given back with the rest
            self._hear_the_end(ctx, wish.reply_to)
            return
        if wish.reply_to is not None:
            self._waiting.append(wish.reply_to)
        self._replicas.deployment, self._replicas.error, self._refused = deployment, None, None
        self._replicas.want(ctx, deployment.replicas)
        self._take(ctx, placement, lacking)

    async def _mend(self, ctx: Context) -> None:
        lacking = self._replicas.fleet.lacking()
        if self._placement is None or not lacking:
            return
        try:
            question = Resize(self.deployment, partial=True, missing=lacking)
            placement = await ctx.ask(self._around.placement, question, ASK_TIMEOUT_S)
        except RakkaError as error:
            self._refused = error  # until a node is back, or somebody has given GPUs back
            return
        self._placement, self._refused = placement, None
        if self.alive:
            self._take(ctx, placement, lacking)

    def _take(self, ctx: Context, placement: PlacementResult | None, lacking: tuple[int, ...]) -> None:
        """Use the places that were found for these; others in the answer may have been given back since."""
        for assignment in placement.assignments if placement is not None else ():
            if assignment.replica_index in lacking:
                self._replicas.take(ctx, assignment)
        self._mending = self._mending or bool(self._replicas.fleet.lacking())

    # --- what the engines say -----------------------------------------------------------------------------------------

    def ready(self, ctx: Context, msg: ReplicaReady) -> None:
        """An engine can serve."""
        self._replicas.ready(ctx, msg)
        self._settle(ctx)

    def deregistered(self, ctx: Context, msg: Deregistered) -> None:
        """The coordinator routes nothing more to a replica."""
        self._replicas.deregistered(ctx, msg)

    def stays(self, ctx: Context, msg: Stays) -> None:
        """An engine's drain has been called off in time."""
        self._replicas.stays(ctx, msg)
        self._settle(ctx)

    def ended(self, ctx: Context, engine: Ref[Any], error: BaseException | None) -> bool:
        """An engine is no more; False if it is not one of this deployment's."""
        mine = self._replicas.ended(ctx, engine, error)
        if mine:
            self._settle(ctx)
        return mine

    def lost(self, ctx: Context, numbers: tuple[int, ...]) -> None:
        """Their node has gone: their engines are no more, their requests move on, and they want new places."""
        for number in numbers:
            self._replicas.drop(ctx, number)
        self.mend(ctx)
        self._settle(ctx)

    # --- what has been reached ----------------------------------------------------------------------------------------

    def _settle(self, ctx: Context) -> None:
        """See whether what is wanted is reached, and tell those who wait for it."""
        fleet = self._replicas.fleet
        if self.alive and fleet.hopeless and not self._busy and self._replicas.error is not None:
            self._fail(ctx, self._replicas.error)
        if self._life.state == "draining" and not self._replicas and not self._busy:
            self._life.fire("stop")
            self._release(ctx)
            self._tell_waiting(ctx)
        elif self.alive:
            self._expect(ctx)
            if self._life.state == "pending" and fleet.up:
                self._life.fire("serve")
            if (fleet.settled or self._remote) and not self._busy:
                self._tell_waiting(ctx)
        if self.over:
            wishes, self._wishes = self._wishes, deque()
            for wish in wishes:
                self._apply(ctx, wish)

    @property
    def _remote(self) -> bool:
        return self.deployment.transport is TransportKind.REMOTE_NETWORK

    def _fail(self, ctx: Context, error: Exception) -> None:
        self._life.fire("fail")
        self._replicas.error, self._refused = error, None
        self._expect(ctx)
        for number in self._replicas.fleet.numbers:
            self._replicas.drop(ctx, number)
        self._release(ctx)
        self._tell_waiting(ctx)

    def _release(self, ctx: Context) -> None:
        if self._placement is not None:
            ctx.tell(self._around.placement, Release(self.deployment.name))
            self._around.room_again(ctx)

    def _expect(self, ctx: Context) -> None:
        """Tell the coordinator whether a request without a replica may wait for one."""
        serving, fleet = self.deployment.serving, self._replicas.fleet
        coming = self._busy or fleet.coming
        room = 0
        if self.alive and not self._remote and coming and serving.replica_wait_s > 0:
            queue = serving.queue_capacity if serving.on_capacity_exhausted == "queue" else 0
            room = fleet.wanted * (serving.max_concurrent + queue)
        if room != self._room:
            self._room = room
            ctx.tell(self._around.coordinator, Expect(self.deployment.name, room))

    def _hear_the_end(self, ctx: Context, ref: Ref[Any] | None) -> None:
        """Tell somebody how it ended, now or when it has."""
        if ref is not None and self._life.over:
            ctx.tell(ref, self.status())
        elif ref is not None:
            self._waiting.append(ref)

    def _tell_waiting(self, ctx: Context) -> None:
        status = self.status()
        for ref in self._waiting:
            ctx.tell(ref, status)
        self._waiting.clear()
