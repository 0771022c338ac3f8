"""What actors put into the event log; how it is kept is in the other files of this folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rakka_sim.values import Stretch, value

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True)
class ReplicaPart:
    """What a replica has of one node, and what a GPU there costs."""

    node: str
    gpus: tuple[int, ...] = ()
    usd_per_gpu_hour: float | None = None

    def __str__(self) -> str:
        """As in "tray-01 GPUs 0-3"."""
        runs: list[list[int]] = []
        for gpu in sorted(self.gpus):
            if runs and gpu == runs[-1][-1] + 1:
                runs[-1].append(gpu)
            else:
                runs.append([gpu])
        spans = (f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs)
        return f"{self.node} GPU{'s' if len(self.gpus) > 1 else ''} {', '.join(spans)}"


@dataclass(frozen=True, slots=True)  # hashable: equal facts are one replica
class ReplicaFacts:
    """Where a replica runs and what it has; `gpu` is the GPU's catalogue name, `kv_blocks` 0 means not known.

    `peak_flops` (per s) and `peak_bandwidth` (bytes per s) are those of one GPU. `others`: what it has of further
    nodes, where it spans nodes of one NVLink fabric.
    """

    deployment: str
    replica: int
    node: str = ""
    gpus: tuple[int, ...] = ()
    gpu: str = ""
    kv_blocks: int = 0
    block_size: int = 16
    usd_per_gpu_hour: float | None = None
    peak_flops: float | None = None
    peak_bandwidth: float | None = None
    others: tuple[ReplicaPart, ...] = ()

    @property
    def parts(self) -> tuple[ReplicaPart, ...]:
        """What it has of each of its nodes."""
        return ReplicaPart(self.node, self.gpus, self.usd_per_gpu_hour), *self.others


@value
class RequestRecord:
    """The whole of a request, written once, when it has ended; times in s, None for what never happened.

    `replica` is -1 for a request that no replica took. `outcome` is a finish reason or an error's kind.
    Its tokens' times are those of `token_steps`, steps that are in the log already, or the arrays in `token_times`.
    """

    request_id: int
    deployment: str
    replica: int
    session: int
    arrival: float
    scheduled: float | None
    first_token: float | None
    last_token: float | None
    ended: float
    prompt_tokens: int
    output_tokens: int
    cached_tokens: int
    preemptions: int
    outcome: str
    token_times: tuple[np.ndarray[Any, Any], ...] = ()
    token_steps: tuple[Stretch, ...] = ()
