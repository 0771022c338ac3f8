"""The time model of kernels measured on data-centre GPUs (PyPI aiconfigurator-core); how tables are read is elsewhere.

GEMMs, attention, experts and all-reduces are looked up, per layer; norms, rotation, activation and sampler, which the
tables lack, are taken from the roofline's constants. Engines quantise activations to FP8 inside the norm and the
activation before a GEMM, so that adds nothing; block-scaled FP8 takes a kernel for it. Experts: `expert_parallel` keeps
each whole on one GPU of the tensor-parallel group; as attention leaves every token on every GPU of the group, the
traffic is the same all-reduce.
"""

from __future__ import annotations

from rakka_sim.config.gpus import GpuSpec
from rakka_sim.config.shapes import ModelSpec, kv_dtype_of
from rakka_sim.errors import InputError
from rakka_sim.timing.constants import constants_for
from rakka_sim.timing.curves import Array, Curve
from rakka_sim.timing.graphs import Padding
from rakka_sim.timing.roofline import Roofline
from rakka_sim.timing.silicon_tables import Tables
from rakka_sim.timing.tabulated import Tabulated

_ELEMENTWISE_S = 3.0e-6  # such a kernel on few tokens: 2.4 to 3.3 us in the RTX 4090 and RTX PRO 6000 profiles
_ELEMENTWISE = 4  # kernels of a layer that are no GEMM: two norms, rotation with the KV write, activation


class SiliconRows:
    """GEMMs, experts, all-reduces and what lies between them, by tokens."""

    def __init__(
        self, tables: Tables, model: ModelSpec, gpu: GpuSpec, tp: int, dtype: str, whole_experts: bool
    ) -> None:
        gemms, constants = tables.gemm(dtype), constants_for(gpu)
        heads, kv_heads = model.heads // tp, max(1, model.kv_heads // tp)
        dense = model.layers - model.sparse_layers
        products = [
            ((heads + 2 * kv_heads) * model.head_dim, model.hidden, model.layers),
            (model.hidden, heads * model.head_dim, model.layers),
        ]
        if dense:
            products += [
                (2 * model.intermediate // tp, model.hidden, dense),
                (model.hidden, model.intermediate // tp, dense),
            ]
        self._parts: list[tuple[Curve, float]] = [(gemms.curve(n, k), float(times)) for n, k, times in products]
        if dtype == "fp8_block":  # scales per token and group: not fused into norm and activation
            self._parts += [(tables.quantise(k), float(times)) for _, k, times in products]
        if model.sparse_layers:
            self._parts += _experts(tables, model, tp, dtype, whole_experts)
        head = tables.gemm("bfloat16").curve(model.vocab // tp, model.hidden)
        self._head, self._sampler_s = head, constants.sampler_s
        bandwidth = gpu.memory_bandwidth * constants.bandwidth
        self._logits_s = model.vocab * constants.logit_bytes / bandwidth
        width = dense * model.intermediate + model.sparse_layers * model.experts_per_token * model.expert_intermediate
        self._token_s = 2 * (3 * width / tp + 4 * model.hidden * model.layers) / bandwidth
        self._fixed_s = model.layers * _ELEMENTWISE * _ELEMENTWISE_S
        self._reduce = tables.all_reduce(tp) if tp > 1 else None
        self._reduces, self._hidden = 2 * model.layers + 1, model.hidden

    def layers(self, tokens: int) -> float:
        total = self._fixed_s + tokens * self._token_s
        total += sum(curve.at(tokens) * times for curve, times in self._parts)
        if self._reduce is not None:
            total += self._reduces * self._reduce.at(tokens * self._hidden)
        return total

    def head(self, samples: int) -> float:
        return self._head.at(samples) + self._sampler_s + samples * self._logits_s


def _experts(tables: Tables, model: ModelSpec, tp: int, dtype: str, whole_experts: bool) -> list[tuple[Curve, float]]:
    shape = {
        "hidden_size": model.hidden,
        "inter_size": model.expert_intermediate,
        "topk": model.experts_per_token,
        "num_experts": model.experts,
    }
    split, spread = (1, tp) if whole_experts else (tp, 1)
    router = tables.gemm("bfloat16").curve(model.experts, model.hidden)
    times = float(model.sparse_layers)
    return [(tables.experts(dtype, shape, split, spread), times), (router, times)]


class SiliconAttention:
    """Attention over all layers. Prefill rows of one step add up, less the start that they share; a chunk behind cached
    tokens is the whole prompt less the cached part, which is the same work."""

    def __init__(self, tables: Tables, model: ModelSpec, tp: int, kv_dtype: str, skew: float) -> None:
        key = (model.heads // tp, max(1, model.kv_heads // tp), model.head_dim, kv_dtype, 0)
        self._decode, self._prefill = tables.decode(*key), tables.prefill(*key)
        self._layers, self._skew = model.layers, skew

    def decode_curve(self, rows: int) -> Curve:
        contexts = self._decode.axes[1]
        return Curve(contexts, [self._decode.at(rows, kv) * self._layers for kv in contexts])

    def skew(self, rows: int, mean: Array, longest: Array) -> float:
        return self._skew

    def _prompt_s(self, tokens: float) -> float:
        """One whole prompt; beyond the longest measured one, by the square of its length."""
        longest = float(self._prefill.sizes[-1])
        if tokens <= longest:
            return self._prefill.at(tokens)
        return self._prefill.at(longest) * (tokens / longest) ** 2

    def with_prefill(self, prefill: tuple[tuple[int, int], ...], rows: int, mean: float, longest: float) -> float:
        start = self._prompt_s(1)
        one = start
        for chunk, cached in prefill:
            before = self._prompt_s(cached) if cached else start
            one += max(0.0, self._prompt_s(cached + chunk) - before)
        if rows:
            at, end = self._decode.at(rows, mean), self._decode.at(rows, longest)
            one += at + self._skew * (end - at)
        return one * self._layers


def silicon_model(
    model: ModelSpec,
    gpu: GpuSpec,
    tp: int,
    dtype: str,
    kv_dtype: str,
    padding: Padding,
    backend: str = "vllm",
    fp8: str = "fp8",
    expert_parallel: bool = False,
) -> Tabulated:
    """The model for `tp` GPUs of one node; raises InputError that names the GPU, shape or precision without data."""
    model.check_tp(tp)
    if dtype not in ("bfloat16", "fp8"):
        raise InputError("silicon: dtype", dtype, "bfloat16, fp8")
    gpu.peak_flops(dtype)
    tables = Tables(gpu.name, backend)
    kv = kv_dtype_of(dtype, kv_dtype)
    rows = SiliconRows(tables, model, gpu, tp, fp8 if dtype == "fp8" else dtype, expert_parallel)
    attention = SiliconAttention(tables, model, tp, kv, constants_for(gpu).skew)
    work = Roofline(model, gpu, tp=tp, dtype=dtype, kv_dtype=kv_dtype)
    return Tabulated(rows, attention, padding, work, model.sliding_window)
