"""The GPU catalogue: what a device is, by its datasheet and its driver; what software gets out of it is not here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from rakka_sim.config.catalogue import Catalogue
from rakka_sim.errors import InputError

GIB = 1 << 30
_DATASHEET = "rates: vendor datasheet, dense; memory: total that CUDA reports"


@dataclass(frozen=True, slots=True)
class GpuSpec:
    """One kind of GPU: bytes, bytes/s and dense FLOP/s; `link_bandwidth` is per GPU and direction.

    `interconnect` is what any two GPUs of a usual node have between them. `fp8_flops` is None where the tensor cores
    have no FP8. `slice_of` names the GPU that this one is a MIG slice of.
    """

    name: str
    architecture: str
    sms: int
    memory_bytes: int
    memory_bandwidth: float
    bf16_flops: float
    fp8_flops: float | None
    fp32_flops: float
    interconnect: Literal["nvlink", "pcie"]
    link_bandwidth: float
    source: str
    slice_of: str | None = None

    def peak_flops(self, dtype: str) -> float:
        """Dense FLOP/s in `dtype`; raises InputError where the GPU cannot compute in it."""
        rates = {
            "bfloat16": self.bf16_flops,
            "float16": self.bf16_flops,
            "float32": self.fp32_flops,
            "fp8": self.fp8_flops,
        }
        rate = rates.get(dtype)
        if rate is None:
            able = ", ".join(name for name, value in rates.items() if value is not None)
            raise InputError(f"dtype on {self.name}", dtype, able)
        return rate


def _gib(gib: float) -> int:
    return round(gib * GIB)


_NVLINK3 = 12 * 25e9  # links x bytes/s per direction
_NVLINK4 = 18 * 25e9
_NVLINK5 = 18 * 50e9
_PCIE4 = 31.5e9  # x16, per direction
_PCIE5 = 63.0e9

# fmt: off
GPUS: tuple[GpuSpec, ...] = (
    GpuSpec("A40", "ampere", 84, _gib(44.34), 696e9, 149.7e12, None, 37.4e12, "pcie", _PCIE4,
            f"{_DATASHEET}; its NVLink bridge joins pairs only and is not counted"),
    GpuSpec("A100-40", "ampere", 108, _gib(39.49), 1555e9, 312e12, None, 19.5e12, "nvlink", _NVLINK3,
            f"{_DATASHEET}; SXM"),
    GpuSpec("A100-80", "ampere", 108, _gib(79.25), 2039e9, 312e12, None, 19.5e12, "nvlink", _NVLINK3,
            f"{_DATASHEET}; SXM"),
    GpuSpec("H100", "hopper", 132, _gib(79.19), 3350e9, 989e12, 1979e12, 67e12, "nvlink", _NVLINK4,
            f"{_DATASHEET}; SXM, 80 GB"),
    GpuSpec("H200", "hopper", 132, _gib(139.80), 4800e9, 989e12, 1979e12, 67e12, "nvlink", _NVLINK4,
            f"{_DATASHEET}; SXM"),
    GpuSpec("B200", "blackwell", 148, _gib(178.35), 7672e9, 2250e12, 4500e12, 75e12, "nvlink", _NVLINK5,
            f"{_DATASHEET}; bandwidth: bus width x clock as the driver reports them (pytorch/ao #4002), not 8 TB/s"),
    GpuSpec("GB200", "blackwell", 152, _gib(184.31), 8000e9, 2500e12, 5000e12, 80e12, "nvlink", _NVLINK5,
            f"{_DATASHEET}; a GB200 NVL72's, per GPU"),
    GpuSpec("L40S", "ada", 142, _gib(44.39), 864e9, 362.05e12, 733e12, 91.6e12, "pcie", _PCIE4,
            _DATASHEET),
    GpuSpec("RTX 4090", "ada", 128, 25_250_627_584, 1008e9, 165.2e12, 330.3e12, 82.6e12, "pcie", _PCIE4,
            "rates: vendor's Ada whitepaper, dense, FP32 accumulation; memory: total that CUDA reported to vLLM 0.19"),
    GpuSpec("RTX PRO 6000", "blackwell-workstation", 188, _gib(94.97), 1597e9, 480e12, 960e12, 120e12, "pcie", _PCIE5,
            f"{_DATASHEET}; Server Edition (the Workstation Edition has 1,792 GB/s); BF16 is a quarter of FP4"),
)
# fmt: on

# What drivers and people also call them; keys as `_key` makes them.
_ALIASES = {
    "a100sxm440gb": "A100-40",
    "a10040gb": "A100-40",
    "a100sxm480gb": "A100-80",
    "a10080gb": "A100-80",
    "h10080gbhbm3": "H100",
    "h100sxm": "H100",
    "h200sxm": "H200",
    "4090": "RTX 4090",
    "rtxpro6000blackwellserveredition": "RTX PRO 6000",
}


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower()).removeprefix("nvidia").removeprefix("geforce")


_CATALOGUE = Catalogue("gpu", GPUS, _key, _ALIASES)


def gpu(name: str) -> GpuSpec:
    """The catalogue's row, whatever the case, spaces and hyphens of `name`; raises UnknownName."""
    return _CATALOGUE.find(name)
