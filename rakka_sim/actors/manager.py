"""The deployment manager: the catalogue of deployments. What becomes of one of them is in `roll_out`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rakka_sim.actors.replicas import Around, MakeEngine
from rakka_sim.actors.roll_out import RollOut
from rakka_sim.config.deployment import Deployment
from rakka_sim.errors import InputError, NotBuilt, NotFound
from rakka_sim.messages import (
    Apply,
    Deregistered,
    Drained,
    GetDeployment,
    ListDeployments,
    Remove,
    ReplicaReady,
    ReplicasLost,
    RoomAgain,
    Stays,
    TellLosses,
)
from rakka_sim.runtime.api import Actor, Context, Ref, Terminated

if TYPE_CHECKING:
    from rakka_sim.records.holdings import Holdings


def differing(one: Deployment, other: Deployment) -> list[str]:
    """The fields, but for `replicas`, in which two deployments differ."""
    return [
        name for name in Deployment.model_fields if name != "replicas" and getattr(one, name) != getattr(other, name)
    ]


class DeploymentManager(Actor):
    """Apply, Remove, List, Get. A deployment serves when every replica does; a drain loses no request."""

    def __init__(self, placement: Ref[Any], coordinator: Ref[Any], make_engine: MakeEngine, holdings: Holdings) -> None:
        self._placement = placement
        self._roll_outs: dict[str, RollOut] = {}
        self._around = Around(placement, coordinator, make_engine, self._room_again, holdings)

    def started(self, ctx: Context) -> None:
        ctx.tell(self._placement, TellLosses(ctx.self))

    def receive(self, ctx: Context, msg: Any) -> None:
        match msg:
            case Apply():
                self._apply(ctx, msg)
            case Remove(name, reply_to):
                self._remove(ctx, name, reply_to)
            case ReplicaReady(name):
                self._roll_outs[name].ready(ctx, msg)
            case Deregistered(name):
                self._roll_outs[name].deregistered(ctx, msg)
            case Stays(name):
                self._roll_outs[name].stays(ctx, msg)
            case Drained():
                pass  # its GPUs are free when it is no more, of which `Terminated` tells
            case Terminated(ref, error):
                any(each.ended(ctx, ref, error) for each in tuple(self._roll_outs.values()))
            case ReplicasLost(name, replicas):
                if name in self._roll_outs:
                    self._roll_outs[name].lost(ctx, replicas)
            case RoomAgain():
                self._room_again(ctx)
            case GetDeployment(name, reply_to):
                roll_out_of = self._roll_outs.get(name)
                _answer(ctx, reply_to, roll_out_of.status() if roll_out_of else NotFound(name))
            case ListDeployments(reply_to):
                _answer(ctx, reply_to, tuple(each.status() for each in self._roll_outs.values()))
            case _:
                ctx.unhandled(msg)

    def _apply(self, ctx: Context, msg: Apply) -> None:
        wanted = msg.deployment
        there = self._roll_outs.get(wanted.name)
        if wanted.replicas < 1:  # a copy of a configuration is not validated
            self._refuse(ctx, msg, InputError("replicas", wanted.replicas, "at least 1; Remove takes it down"))
            return
        if there is None or there.over:
            there = self._roll_outs[wanted.name] = RollOut(wanted, self._around, self._apply)
        elif there.alive and (fields := differing(wanted, there.deployment)):
            what = f"a change of a deployment in place ({wanted.name}: {', '.join(fields)})"
            self._refuse(ctx, msg, NotBuilt(what, "only replicas can be changed; remove it, then apply the new one"))
            return
        there.wish(ctx, msg)

    def _refuse(self, ctx: Context, msg: Apply, error: Exception) -> None:
        _answer(ctx, msg.reply_to, error)
        _answer(ctx, msg.placed, error)

    def _remove(self, ctx: Context, name: str, reply_to: Ref[Any] | None) -> None:
        there = self._roll_outs.get(name)
        if there is None:
            _answer(ctx, reply_to, NotFound(name))
        elif there.over:
            _answer(ctx, reply_to, there.status())
        else:
            there.remove(ctx, reply_to)

    def _room_again(self, ctx: Context) -> None:
        """Somebody has given GPUs back, or a node is there again: what found no place may find one now."""
        for each in tuple(self._roll_outs.values()):
            each.mend(ctx)


def _answer(ctx: Context, ref: Ref[Any] | None, answer: object) -> None:
    if ref is not None:
        ctx.tell(ref, answer)
