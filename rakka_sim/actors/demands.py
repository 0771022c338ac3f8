"""What a deployment asks of the cluster, as the placement core understands it; nothing is chosen here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rakka_sim.config.gpus import gpu
from rakka_sim.config.models import model_spec
from rakka_sim.config.shapes import dtype_bytes
from rakka_sim.core.placing import Demand
from rakka_sim.core.placing.terms import USUAL_MESSAGE_BYTES
from rakka_sim.errors import InputError
from rakka_sim.values import RuntimeKind, TransportKind

if TYPE_CHECKING:
    from rakka_sim.config.deployment import Deployment


def demand_of(deployment: Deployment) -> Demand:
    """What a deployment asks of the cluster."""
    wishes = deployment.placement
    remote = deployment.transport is TransportKind.REMOTE_NETWORK
    return Demand(
        deployment.name,
        deployment.replicas,
        deployment.gpus_per_replica,
        provider=deployment.runtime_kind.value if remote else "",
        api_key=deployment.api_key,
        gpu_model=gpu(wishes.gpu_model).name if wishes.gpu_model else "",
        min_gpu_memory_gib=wishes.min_gpu_memory_gib,
        island=wishes.island,
        profile=wishes.mig,
        gil=deployment.runtime_kind is RuntimeKind.PYTHON,
        region=wishes.region,
        spread=wishes.spread,
        anti_affinity=wishes.anti_affinity,
        message_bytes=_message_bytes(deployment),
    )


def _message_bytes(deployment: Deployment) -> int:
    """What a replica's GPUs all-reduce for a decode batch as large as it may get, up to a power of two.

    A power of two, so that deployments of about the same size share what was worked out about the machines.
    """
    if deployment.gpus_per_replica < 2:
        return USUAL_MESSAGE_BYTES
    try:
        model = model_spec(deployment.model)
    except InputError:  # the engine says so when it comes to it; a place can be found without
        return USUAL_MESSAGE_BYTES
    rows = min(deployment.engine.max_num_seqs, deployment.serving.max_concurrent)
    exact = rows * model.hidden * max(2, dtype_bytes(deployment.engine.dtype))
    return 1 << (exact - 1).bit_length()
