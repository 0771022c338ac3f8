"""The weight loader of a cluster: it has the links that replicas load their weights over; how these share is in a core.

One actor for all nodes, because they may share a store. It moves no bytes: it says when they have arrived.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rakka_sim.actors.passes import SchedulingPass
from rakka_sim.core.loading import Loading
from rakka_sim.errors import InputError
from rakka_sim.messages import CancelLoad, LoadWeights, ReplicasLost, RoomAgain, TellLosses, WeightsLoaded
from rakka_sim.runtime.api import Actor, Context, Ref, Running

if TYPE_CHECKING:
    import numpy as np


@dataclass(slots=True)
class Arrival:
    """The time until something arrives next, as a job: a timer would be late or early by a last digit."""

    at: float  # s
    real: bool = False

    def ends_at(self, start: float, rng: np.random.Generator) -> float:
        return max(start, self.at)  # on a wall clock it may have passed already

    def cut(self, now: float) -> float:
        return now

    def execute(self) -> None:
        return None


@dataclass(slots=True)
class Look:
    """The loader's word to itself: the instant is over, or something has arrived."""


class WeightLoader(Actor):
    """Answers `LoadWeights` when the weights are there. Told of losses by `placement`: a node that is back is empty."""

    def __init__(self, placement: Ref[Any] | None = None) -> None:
        self._placement = placement
        self._loading: Loading[Ref[Any]] = Loading()
        self._next: Running | None = None

    def started(self, ctx: Context) -> None:
        if self._placement is not None:
            ctx.tell(self._placement, TellLosses(ctx.self))

    def receive(self, ctx: Context, msg: Any) -> None:
        match msg:
            case LoadWeights(weights, reply_to):
                if reply_to is None:
                    return
                try:
                    self._loading.start(ctx.now, reply_to, weights)
                except InputError as error:
                    ctx.tell(reply_to, error)
                self._soon(ctx)
            case CancelLoad(reply_to):
                self._loading.cancel(ctx.now, reply_to)
                self._soon(ctx)
            case Look():
                self._look(ctx)
            case RoomAgain(node):
                self._loading.forget(node)
            case ReplicasLost():
                pass  # those of them that were loading say so themselves, as they stop
            case _:
                ctx.unhandled(msg)

    def _soon(self, ctx: Context) -> None:
        """Look when the instant is over: what starts together in it is one change of the rates."""
        self._wait(ctx, SchedulingPass())

    def _look(self, ctx: Context) -> None:
        """Tell of what has arrived, and wait for what arrives next."""
        for reply_to in self._loading.advance(ctx.now):
            ctx.tell(reply_to, WeightsLoaded())
        end = self._loading.next_end()
        if end is None:
            self._next = None
        else:
            self._wait(ctx, Arrival(end))

    def _wait(self, ctx: Context, job: SchedulingPass | Arrival) -> None:
        if self._next is not None:
            self._next.abandon()
        self._next = ctx.run(job, lambda _: Look())
