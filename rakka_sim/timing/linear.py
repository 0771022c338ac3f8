"""The cost of matrices, on one GPU: layers, experts, head; no attention and no traffic between GPUs."""

from __future__ import annotations

import math

from rakka_sim.config.gpus import GpuSpec
from rakka_sim.config.shapes import ModelSpec, dtype_bytes
from rakka_sim.timing.constants import Constants

# Kernels of one layer beside its attention call: two norms, QKV, rotation and KV write, output, gate and up,
# activation, down. Experts add router, top-k, alignment and sum.
_KERNELS, _KERNELS_QK_NORM, _KERNELS_EXPERTS = 8, 1, 4


class Linear:
    """Seconds, bytes and operations of everything that grows with tokens alone."""

    __slots__ = (
        "_activation_bytes",
        "_bandwidth",
        "_dense_bytes",
        "_dense_flops",
        "_expert_bytes",
        "_expert_flops",
        "_expert_spread",
        "_experts_idle",
        "_fixed_s",
        "_gemm",
        "_grouped_gemm",
        "_head_bytes",
        "_head_fixed_s",
        "_head_flops",
        "_knee",
        "_logit_bytes",
        "_routed",
    )

    def __init__(
        self,
        model: ModelSpec,
        gpu: GpuSpec,
        tp: int,
        dtype: str,
        constants: Constants,
        expert_parallel: bool = False,
    ) -> None:
        experts = model.sparse_layers * model.experts * model.expert_parameters
        dense = model.linear_parameters - experts
        used = model.sparse_layers * model.experts_per_token
        wide = max(2, dtype_bytes(dtype))  # head and activations stay in 16 bits under fp8
        self._bandwidth = gpu.memory_bandwidth * constants.bandwidth
        peak = gpu.peak_flops(dtype)
        self._gemm = peak * constants.gemm_share(dtype)
        self._grouped_gemm = peak * constants.gemm_experts
        self._knee = constants.knee
        self._dense_bytes = dense * dtype_bytes(dtype) / tp
        self._dense_flops = 2 * dense / tp
        self._expert_bytes = experts * dtype_bytes(dtype) / tp
        self._expert_flops = 2 * used * model.expert_parameters / tp
        self._expert_spread = tp if expert_parallel else 1
        self._routed = max(1, model.experts_per_token)
        self._experts_idle = 1.0 - model.experts_per_token / model.experts if model.experts else 1.0
        kernels = model.layers * (_KERNELS + _KERNELS_QK_NORM * model.qk_norm) + model.sparse_layers * _KERNELS_EXPERTS
        self._fixed_s = kernels * constants.kernel_s
        dense_width = (model.layers - model.sparse_layers) * model.intermediate
        width = (dense_width + used * model.expert_intermediate) / tp
        # The activation reads two and writes one of the feed-forward's width; a norm reads and writes the hidden state.
        self._activation_bytes = wide * (3 * width + 4 * model.hidden * model.layers)
        self._head_bytes = model.head_parameters * wide / tp
        self._head_flops = 2 * model.head_parameters / tp
        self._head_fixed_s = constants.kernel_s + constants.sampler_s
        self._logit_bytes = model.vocab * constants.logit_bytes

    def _gemm_s(self, weight_bytes: float, flops: float, rate: float) -> float:
        memory, compute, knee = weight_bytes / self._bandwidth, flops / rate, self._knee
        longer, shorter = (memory, compute) if memory > compute else (compute, memory)
        return float(longer * (1.0 + (shorter / longer) ** knee) ** (1.0 / knee))

    def _experts_touched(self, tokens: int) -> float:
        """Share of the experts that at least one of `tokens` is routed to, routing being even."""
        return float(1.0 - self._experts_idle**tokens)

    def _busiest(self, tokens: int) -> float:
        """What the busiest GPU has to do, over the mean, where experts are whole: the largest of so many equal
        multinomial counts, by its normal approximation; 1 where each expert is split among all GPUs."""
        spread = self._expert_spread
        if spread == 1:
            return 1.0
        return min(float(spread), 1.0 + math.sqrt(2 * math.log(spread) * (spread - 1) / (tokens * self._routed)))

    def seconds(self, tokens: int) -> float:
        """All layers, `tokens` > 0."""
        total = self._fixed_s + self._activation_bytes * tokens / self._bandwidth
        total += self._gemm_s(self._dense_bytes, self._dense_flops * tokens, self._gemm)
        if self._expert_bytes:
            touched = self._expert_bytes * self._experts_touched(tokens)
            busiest = self._busiest(tokens)
            total += self._gemm_s(touched * busiest, self._expert_flops * tokens * busiest, self._grouped_gemm)
        return total

    def head_seconds(self, samples: int) -> float:
        """Head and sampler for `samples` > 0 rows."""
        logits = self._logit_bytes * samples / self._bandwidth
        return self._head_fixed_s + logits + self._gemm_s(self._head_bytes, self._head_flops * samples, self._gemm)

    def bytes_moved(self, tokens: int, samples: int) -> float:
        """Weights read once, activations per token, logits per sampled row."""
        total = self._dense_bytes + self._expert_bytes * self._experts_touched(tokens) + self._activation_bytes * tokens
        return total + (self._head_bytes + self._logit_bytes * samples if samples else 0.0)

    def flops(self, tokens: int, samples: int) -> float:
        """Multiplications and additions of the matrices."""
        return (self._dense_flops + self._expert_flops) * tokens + self._head_flops * samples
