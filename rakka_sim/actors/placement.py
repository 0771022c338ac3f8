"""Placement of deployments on nodes: keeps the ledger, answers whoever asks. No policy may be here (`core.placing`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rakka_sim.core.placing import Demand, Ledger
from rakka_sim.errors import RakkaError
from rakka_sim.messages import Place, Release, Released
from rakka_sim.runtime.api import Actor, Context, Ref
from rakka_sim.values import TransportKind

if TYPE_CHECKING:
    from rakka_sim.config.deployment import Deployment
    from rakka_sim.core.placing import PlacingPolicy
    from rakka_sim.values import PlacementConstraints


class DeploymentPlacementActor(Actor):
    """Answers `Place` and `Release`. A refusal is an answer too, and changes nothing."""

    def __init__(self, policy: str | PlacingPolicy, constraints: PlacementConstraints) -> None:
        self._ledger = Ledger(constraints, policy)

    def receive(self, ctx: Context, msg: Any) -> None:
        match msg:
            case Place(deployment, reply_to, constraints):
                try:
                    _answer(ctx, reply_to, self._ledger.place(demand_of(deployment), constraints))
                except RakkaError as error:
                    _answer(ctx, reply_to, error)
            case Release(name, reply_to):
                try:
                    self._ledger.release(name)
                    _answer(ctx, reply_to, Released(name))
                except RakkaError as error:
                    _answer(ctx, reply_to, error)
            case _:
                ctx.unhandled(msg)


def _answer(ctx: Context, reply_to: Ref[Any] | None, answer: object) -> None:
    if reply_to is not None:
        ctx.tell(reply_to, answer)


def demand_of(deployment: Deployment) -> Demand:
    """What a deployment asks of the cluster."""
    if deployment.transport is TransportKind.LOCAL_GPU:
        return Demand(deployment.name, deployment.replicas, deployment.gpus_per_replica)
    config = deployment.runtime_config
    api_key = str(config.get("api_key", "")) if isinstance(config, dict) else ""
    return Demand(deployment.name, deployment.replicas, 0, deployment.runtime_kind.value, api_key)
