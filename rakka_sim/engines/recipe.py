"""All that a process must be told to build a torch engine: plain values, no tensor, and nothing that imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rakka_sim.config.models import hf_config

if TYPE_CHECKING:
    from rakka_sim.config.deployment import Deployment

WEIGHTS_SEED = 0  # of random weights: the same model in every run, whatever the scenario's seed


@dataclass(frozen=True, slots=True)
class Recipe:
    """A decoder of `config`, its weights from `folder` (None: random ones), on `tp` ranks of `device`.

    It has `blocks` KV blocks and steps of up to `max_rows` sequences. `device` "auto" is CUDA where there is any; rank
    r has CUDA device `gpus[r]`, or r.
    """

    name: str
    config: Mapping[str, Any]
    folder: Path | None
    max_positions: int
    blocks: int
    block_size: int
    dtype: str
    max_rows: int = 256
    device: str = "auto"
    tp: int = 1
    gpus: tuple[int, ...] = ()
    stream_interval_s: float = 0.05  # a run of steps ends at its first boundary after that: its tokens are waited for
    threads: int = 0  # of torch, on a CPU; 0: its own choice
    seed: int = WEIGHTS_SEED

    @classmethod
    def of(cls, deployment: Deployment, max_positions: int, blocks: int, gpus: tuple[int, ...] = ()) -> Recipe:
        """What a deployment asks for; raises what reading its model's config raises."""
        engine = deployment.engine
        config, folder = hf_config(deployment.model)
        return cls(
            name=deployment.model,
            config=dict(config),
            folder=folder if engine.load_format == "auto" else None,
            max_positions=max_positions,
            blocks=blocks,
            block_size=engine.block_size,
            dtype=engine.dtype,
            max_rows=engine.max_num_seqs,
            device=engine.device,
            tp=deployment.gpus_per_replica,
            gpus=gpus,
            # Runs that are planned ahead are planned to last so long: the clock ends only those that are far off.
            stream_interval_s=engine.stream_interval_s * (1 if engine.async_scheduling is False else 2),
            threads=engine.cpu_threads,
        )
