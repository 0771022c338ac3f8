"""Which time model a scenario asks for; what the models compute is not here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rakka_sim.errors import InputError, NotBuilt
from rakka_sim.timing.graphs import Padding, capture_sizes
from rakka_sim.timing.roofline import Roofline

if TYPE_CHECKING:
    from rakka_sim.config.deployment import EngineConfig
    from rakka_sim.config.gpus import GpuSpec
    from rakka_sim.config.scenario import TimeModel
    from rakka_sim.config.shapes import ModelSpec
    from rakka_sim.hardware.collectives import Group
    from rakka_sim.timing.api import StepTimeModel


def make_time_model(
    asked: TimeModel,
    model: ModelSpec,
    gpu: GpuSpec,
    engine: EngineConfig,
    tp: int = 1,
    group: Group | None = None,
) -> StepTimeModel:
    """The model for `tp` GPUs; raises InputError where it has no data for the GPU, model, precision or several nodes.

    `group` is how these GPUs reach each other, for the roofline; measured tables know the usual machine alone.
    """
    if group is not None and group.hosts > 1 and asked.kind != "roofline":
        raise InputError(
            "time_model", f"{asked.kind}, for GPUs of {group.hosts} nodes", "roofline: others know one node"
        )
    if model.full_layers:
        raise NotBuilt(f"step times of {model.name}, which has windows on some layers only", "run it live")
    padding = Padding(capture_sizes(engine.max_num_seqs, engine.max_num_batched_tokens))
    if asked.kind == "profile":
        from rakka_sim.timing.profile import profile_model

        if tp != 1 or engine.dtype != "bfloat16" or engine.kv_cache_dtype not in ("auto", "bfloat16"):
            given = f"{engine.dtype}, kv {engine.kv_cache_dtype}, {tp} GPUs"
            raise InputError("profile", given, "bfloat16 on one GPU: what profiles of this format hold")
        return profile_model(Path(asked.path or ""), model, gpu, padding)
    if asked.kind == "silicon":
        from rakka_sim.timing.silicon import silicon_model

        return silicon_model(
            model,
            gpu,
            tp,
            engine.dtype,
            engine.kv_cache_dtype,
            padding,
            backend=asked.backend,
            fp8=asked.fp8,
            expert_parallel=asked.expert_parallel,
        )
    if asked.kind == "calibrated":
        from rakka_sim.timing.calibrated import calibrated_model

        return calibrated_model(Path(asked.path or ""), model, gpu, tp, engine.dtype, engine.kv_cache_dtype, padding)
    return Roofline(
        model,
        gpu,
        tp=tp,
        dtype=engine.dtype,
        kv_dtype=engine.kv_cache_dtype,
        expert_parallel=asked.expert_parallel,
        group=group,
    )
