"""What software gets out of each GPU: the one table of shares and latencies behind `roofline`; no arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

from rakka_sim.config.gpus import GpuSpec
from rakka_sim.errors import InputError

# Between the end of one step on the device and the start of the next, with the next one scheduled ahead. Source: what
# steps of two recorded vLLM 0.19 runs last beyond their profiled kernels (Llama-3.1-8B, async scheduling, CUDA graphs):
# RTX PRO 6000: 0.1 ms for a lone sequence, 0.7 ms on average while 128 drain; RTX 4090: nothing to 0.3 ms.
HOST_OVERHEAD_S = 0.5e-3


@dataclass(frozen=True, slots=True)
class AllReduce:
    """Latency, latency per ring step (s), and the share of the link's bandwidth that the bus bandwidth reaches.

    The share is that of messages of inference, up to 32 MB. At 8 GiB, NCCL reaches 0.8 of an NVLink as a ring, and
    more through NVLink SHARP (nccl-tests; stas00/ml-engineering): that would halve what a prefill step really pays.
    """

    base_s: float
    hop_s: float
    bus_share: float


@dataclass(frozen=True, slots=True)
class Constants:
    """How far kernels get on one GPU. Shares are of the datasheet's rate; times in seconds.

    `bandwidth`, `gemm`, `gemm_fp8`, `gemm_experts` (grouped GEMM over experts), `attention` (prefill): shares.
    `kernel_s`: what a kernel takes beyond its bytes. `attention_s`: the same for an attention call.
    `tile`: query rows per thread block of the attention kernel; `tile_s`: start and end of one such block.
    `packs_groups`: whether the kernel reads a KV head once for all its query heads also beside prefill rows.
    """

    bandwidth: float
    gemm: float
    gemm_fp8: float | None
    gemm_experts: float
    attention: float
    kernel_s: float
    attention_s: float
    tile: int
    tile_s: float
    packs_groups: bool
    reduce: AllReduce
    source: str

    # The same in all rows, from the RTX 4090 and RTX PRO 6000 profiles of vLLM 0.19.
    knee: float = 3.0  # memory and compute time of a GEMM join as a norm of this order: neither hides the other fully
    skew: float = 0.045  # how far uneven contexts cost as if all were the longest (skew_fit.csv: 0.045 to 0.06)
    sampler_s: float = 25e-6  # the greedy sampler's kernels
    logit_bytes: int = 8  # what the sampler moves per logit: FP32, written and read

    def gemm_share(self, dtype: str) -> float:
        """`gemm` or `gemm_fp8`; raises InputError where there is none."""
        share = self.gemm_fp8 if dtype == "fp8" else self.gemm
        if share is None:
            raise InputError("dtype", dtype, "any but fp8: these constants have no gemm_fp8")
        return share


_PROFILE = "fitted to the kernel profiles in benchmarks/roofline_check.py (vLLM 0.19)"
_VLLM = "fitted to kernels measured in vLLM (aiconfigurator-core 0.12: GEMM, attention, experts, all-reduce)"
_STEPS = (
    "fitted by benchmarks/silicon_constants.py to steps of kernels measured in vLLM (aiconfigurator-core 0.12: GEMM, "
    "attention, experts); all-reduce fitted to its table"
)

# fmt: off
_A100 = Constants(
    bandwidth=0.767, gemm=0.838, gemm_fp8=None, gemm_experts=0.277, attention=0.761,
    kernel_s=3.63e-6, attention_s=12.5e-6, tile=128, tile_s=2.69e-6, packs_groups=False,
    reduce=AllReduce(4.4e-6, 0.0, 0.27),
    source=_STEPS,
)
CONSTANTS: dict[str, Constants] = {
    "A40": Constants(
        bandwidth=0.82, gemm=0.62, gemm_fp8=None, gemm_experts=0.45, attention=0.52,
        kernel_s=3.0e-6, attention_s=9.0e-6, tile=64, tile_s=4.1e-6, packs_groups=False,
        reduce=AllReduce(0.7e-6, 1.7e-6, 0.30),
        source="not measured: the L40S's row",
    ),
    "A100-40": _A100,
    "A100-80": _A100,
    "H100": Constants(
        bandwidth=0.897, gemm=0.795, gemm_fp8=0.577, gemm_experts=0.316, attention=0.759,
        kernel_s=4.82e-6, attention_s=11.8e-6, tile=128, tile_s=2.57e-6, packs_groups=True,
        reduce=AllReduce(4.4e-6, 0.0, 0.33),
        source=_STEPS,
    ),
    "H200": Constants(
        bandwidth=0.889, gemm=0.785, gemm_fp8=0.641, gemm_experts=0.355, attention=0.801,
        kernel_s=5.03e-6, attention_s=11.4e-6, tile=128, tile_s=2.88e-6, packs_groups=True,
        reduce=AllReduce(4.4e-6, 0.0, 0.33),
        source=f"{_STEPS}; in PyTorch, a copy reached 0.90 of the bandwidth, an 8192-cube GEMM 0.80 of the peak",
    ),
    "B200": Constants(
        bandwidth=0.932, gemm=0.694, gemm_fp8=0.445, gemm_experts=0.282, attention=0.95,
        kernel_s=4.93e-6, attention_s=8.96e-6, tile=256, tile_s=0.90e-6, packs_groups=True,
        reduce=AllReduce(7.0e-6, 0.0, 0.27),
        source=f"{_STEPS}; attention at most 0.95 of the peak",
    ),
    "GB200": Constants(
        bandwidth=0.950, gemm=0.637, gemm_fp8=0.440, gemm_experts=0.265, attention=0.95,
        kernel_s=4.97e-6, attention_s=10.7e-6, tile=256, tile_s=1.15e-6, packs_groups=True,
        reduce=AllReduce(5.3e-6, 0.0, 0.25),
        source=f"{_STEPS} of four, all that a tray has; attention at most 0.95 of the peak",
    ),
    "L40S": Constants(
        bandwidth=0.82, gemm=0.62, gemm_fp8=0.45, gemm_experts=0.45, attention=0.52,
        kernel_s=3.0e-6, attention_s=9.0e-6, tile=64, tile_s=4.1e-6, packs_groups=False,
        reduce=AllReduce(0.7e-6, 1.7e-6, 0.30),
        source=f"{_VLLM}; the all-reduce of two: of four and eight without peer access it took 5 to 10 times as long",
    ),
    "RTX 4090": Constants(
        bandwidth=0.94, gemm=0.97, gemm_fp8=0.70, gemm_experts=0.45, attention=0.86,
        kernel_s=3.0e-6, attention_s=11e-6, tile=64, tile_s=6.5e-6, packs_groups=False,
        reduce=AllReduce(0.7e-6, 1.7e-6, 0.15),
        source=f"{_PROFILE}; not measured: FP8, experts (the L40S's), all-reduce (half the L40S's: no peer access)",
    ),
    "RTX PRO 6000": Constants(
        bandwidth=0.955, gemm=0.80, gemm_fp8=0.70, gemm_experts=0.33, attention=0.62,
        kernel_s=4.0e-6, attention_s=12e-6, tile=64, tile_s=6.5e-6, packs_groups=False,
        reduce=AllReduce(0.7e-6, 1.7e-6, 0.23),
        source=f"{_PROFILE}; FP8, experts and all-reduce {_VLLM}",
    ),
}
# fmt: on


def constants_for(gpu: GpuSpec) -> Constants:
    """The row of a GPU of the catalogue or of a slice of one; raises InputError for any other, which needs its own."""
    row = CONSTANTS.get(gpu.slice_of or gpu.name)
    if row is None:
        raise InputError("constants for gpu", gpu.name, ", ".join(CONSTANTS))
    return row
