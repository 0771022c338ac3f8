"""What rates a time model's answer implies, so that an impossible model shows; no model may be here."""

from __future__ import annotations

from dataclasses import dataclass

from rakka_sim.config.gpus import GpuSpec
from rakka_sim.timing.api import StepShape, StepTimeModel


@dataclass(frozen=True, slots=True)
class Implied:
    """Bytes/s and FLOP/s of one GPU in one step, each also as a share of the datasheet's rate."""

    bytes_per_s: float
    bandwidth_share: float
    flops_per_s: float
    mfu: float

    @property
    def impossible(self) -> bool:
        """Whether no GPU of this kind could do it."""
        return self.bandwidth_share > 1.0 or self.mfu > 1.0

    def __str__(self) -> str:
        verdict = "  IMPOSSIBLE" if self.impossible else ""
        return (
            f"{self.bytes_per_s / 1e9:,.0f} GB/s ({self.bandwidth_share:.0%} of the datasheet), "
            f"{self.flops_per_s / 1e12:,.1f} TFLOP/s (MFU {self.mfu:.0%}){verdict}"
        )


def implied(model: StepTimeModel, gpu: GpuSpec, shape: StepShape, dtype: str = "bfloat16") -> Implied:
    """The rates of a step that takes any time at all."""
    seconds = model.seconds(shape)
    moved, done = model.bytes_moved(shape) / seconds, model.flops(shape) / seconds
    return Implied(moved, moved / gpu.memory_bandwidth, done, done / gpu.peak_flops(dtype))
