"""How many KV blocks an engine gets from a GPU's memory, as vLLM works it out; what the blocks hold is `core.kv`."""

from __future__ import annotations

from dataclasses import dataclass

from rakka_sim.config.deployment import EngineConfig
from rakka_sim.config.gpus import GIB, GpuSpec
from rakka_sim.config.shapes import ModelSpec, dtype_bytes, kv_dtype_of
from rakka_sim.errors import InputError

# Peak of vLLM's profiling run beyond the weights: the larger of one forward pass and one sampling step.
# Sampling holds, per logit, 16 and 32 bit logits, their sorted copy with 64 bit indices, and the sort's own copies of
# both; calibrated on the run below.
_SAMPLING_BYTES_PER_LOGIT = 34
# Memory outside the allocator: the CUDA context's share that counts, cuBLAS workspace (vLLM logs 0.05 to 0.2 GiB on one
# GPU); with NCCL its buffers as well (about 0.4 GiB at 2 to 8 GPUs, aiconfigurator-core 0.12).
_OUTSIDE_BYTES = 128 << 20
_NCCL_BYTES = 400 << 20
# Together: vLLM 0.19 on an RTX 4090 (Llama-3.1-8B, 256 sequences, 2,048 tokens) resolved 2,588 blocks, this 2,581.


@dataclass(frozen=True, slots=True)
class KvSizing:
    """The KV blocks of one replica, and where the bytes of each of its GPUs go."""

    blocks: int
    block_size: int
    block_bytes: int
    usable_bytes: int
    weight_bytes: int
    activation_bytes: int
    overhead_bytes: int

    @property
    def tokens(self) -> int:
        """Tokens that the blocks hold."""
        return self.blocks * self.block_size

    @property
    def kv_bytes(self) -> int:
        """Bytes of the blocks on each GPU."""
        return self.blocks * self.block_bytes

    @property
    def text(self) -> str:
        """All of it in one line."""
        return (
            f"{self.blocks:,} KV blocks of {self.block_size} = {self.tokens:,} tokens "
            f"({self.kv_bytes / GIB:.1f} GiB of {self.usable_bytes / GIB:.1f} usable per GPU; weights "
            f"{self.weight_bytes / GIB:.1f}, activations {self.activation_bytes / GIB:.1f}, "
            f"other {self.overhead_bytes / GIB:.1f})"
        )


def kv_block_count(
    model: ModelSpec, gpu: GpuSpec, engine: EngineConfig, tp: int = 1, cuda_graph_bytes: int = 0
) -> KvSizing:
    """The blocks that are left of a GPU's memory when weights, activations and overhead have theirs.

    `cuda_graph_bytes` is 0 because vLLM captures its graphs outside the utilisation limit (up to 0.20). Raises
    InputError when no block is left, naming the least number of GPUs that would do.
    """
    model.check_tp(tp)
    found = _sized(model, gpu, engine, tp, cuda_graph_bytes)
    if found.blocks > 0:
        return found
    more = (gpus for gpus in range(tp + 1, model.heads + 1) if model.divides_by(gpus))
    least = next((gpus for gpus in more if _sized(model, gpu, engine, gpus, cuda_graph_bytes).blocks > 0), None)
    remedy = f"at least {least}" if least else "none, no number of these GPUs is enough"
    needed = (found.weight_bytes + found.activation_bytes + found.overhead_bytes) / GIB
    raise InputError(
        f"GPUs per replica (tp) for {model.name} on {gpu.name}",
        tp,
        f"{remedy} (each would hold {needed:.1f} GiB before any KV block and may use {found.usable_bytes / GIB:.1f})",
    )


def _sized(model: ModelSpec, gpu: GpuSpec, engine: EngineConfig, tp: int, cuda_graph_bytes: int) -> KvSizing:
    kv_dtype = kv_dtype_of(engine.dtype, engine.kv_cache_dtype)
    # KV heads are split while there are enough of them, then copied.
    block_bytes = engine.block_size * model.kv_bytes_per_token(kv_dtype) // min(tp, model.kv_heads)
    usable = int(gpu.memory_bytes * engine.gpu_memory_utilization)
    weights = model.weight_bytes(engine.dtype) // tp
    activations = _activation_bytes(model, engine, tp)
    overhead = _OUTSIDE_BYTES + cuda_graph_bytes + (_NCCL_BYTES if tp > 1 else 0)
    blocks = (usable - weights - activations - overhead) // block_bytes
    return KvSizing(blocks, engine.block_size, block_bytes, usable, weights, activations, overhead)


def _activation_bytes(model: ModelSpec, engine: EngineConfig, tp: int) -> int:
    """The peak of a forward pass (hidden state four times; gate, up and their product) or that of a sampling step,
    whichever is larger: the allocator gives the one what the other has freed."""
    tokens, element = engine.max_num_batched_tokens, max(2, dtype_bytes(engine.dtype))
    width = max(model.intermediate, model.experts_per_token * model.expert_intermediate) // tp
    forward = tokens * element * (4 * model.hidden + 3 * width)
    sampling = min(engine.max_num_seqs, tokens) * model.vocab * _SAMPLING_BYTES_PER_LOGIT
    return max(forward, sampling)
