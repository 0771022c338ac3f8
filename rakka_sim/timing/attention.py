"""The cost of attention, on one GPU: decode rows by what they read, prefill rows by the thread blocks they fill."""

from __future__ import annotations

from rakka_sim.config.gpus import GpuSpec
from rakka_sim.config.shapes import ModelSpec, dtype_bytes
from rakka_sim.timing.constants import Constants


class Attention:
    """Seconds, bytes and operations of attention over all layers.

    A batch of decode rows alone is split along its contexts until every SM has work: it costs its bytes. With a prefill
    row in the batch, kernels that do not pack query heads run every row as blocks of `tile` queries of one head, and
    the batch costs its blocks. Sources: the RTX 4090 and RTX PRO 6000 profiles (vLLM 0.19, FlashAttention 2), where one
    block takes the same time per token of context at any chunk size. Not modelled: a mixed batch whose contexts exceed
    the L2 cache (measured there: up to twice as long from 128 rows of 2,048 tokens).

    With a sliding window, sums of contexts are clipped as if all rows were equally long.
    """

    __slots__ = (
        "_block_s",
        "_blocks_per_row",
        "_flops_per_pair",
        "_heads",
        "_kv_token_bytes",
        "_sms",
        "_tile",
        "_token_s",
        "decode_fixed_s",
        "decode_row_s",
        "decode_token_s",
        "mixed_row_s",
        "mixed_token_s",
        "window",
    )

    def __init__(
        self, model: ModelSpec, gpu: GpuSpec, tp: int, dtype: str, kv_dtype: str, constants: Constants
    ) -> None:
        heads, kv_heads, layers = model.heads / tp, max(1.0, model.kv_heads / tp), model.layers
        compute = "bfloat16" if dtype == "fp8" else dtype
        self.window = model.sliding_window
        self._heads, self._tile, self._sms = heads, constants.tile, gpu.sms
        self._flops_per_pair = 4 * layers * heads * model.head_dim
        self._kv_token_bytes = 2.0 * layers * kv_heads * model.head_dim * dtype_bytes(kv_dtype, "kv dtype")
        # One block against one token of context, on one SM; start and end of a block; both over all layers.
        rate = gpu.peak_flops(compute) / gpu.sms * constants.attention
        self._token_s = layers * 4 * constants.tile * model.head_dim / rate
        self._block_s = layers * constants.tile_s
        self.decode_fixed_s = layers * constants.attention_s
        self.decode_row_s = self._block_s * kv_heads / gpu.sms
        self.decode_token_s = self._kv_token_bytes / (gpu.memory_bandwidth * constants.bandwidth)
        blocks = kv_heads if constants.packs_groups else heads
        self.mixed_row_s = self._block_s * blocks / gpu.sms
        self.mixed_token_s = max(self.decode_token_s, self._token_s * blocks / gpu.sms)

    def mixed_seconds(self, prefill: tuple[tuple[int, int], ...], rows: int, context: int, longest: int) -> float:
        """At least one prefill row, beside `rows` decode rows of `context` tokens together."""
        blocks, work, end, window = 0.0, 0.0, float(longest), self.window
        for chunk, cached in prefill:
            row_blocks = -(-chunk // self._tile) * self._heads
            mean, last = cached + chunk / 2, float(cached + chunk)
            if window is not None:
                mean, last = min(mean, window), min(last, window)
            blocks += row_blocks
            work += row_blocks * mean
            end = max(end, last)
        # Blocks are handed to SMs as they come free: on average the last round is half full.
        even = work / self._sms + end / 2
        prefill_s = blocks / self._sms * self._block_s + max(end, even) * self._token_s
        return self.decode_fixed_s + prefill_s + rows * self.mixed_row_s + context * self.mixed_token_s

    def pairs(self, prefill: tuple[tuple[int, int], ...], context: int) -> float:
        """(query, key) pairs that causal attention computes."""
        total, window = float(context), self.window
        for chunk, cached in prefill:
            mean = cached + (chunk + 1) / 2
            total += chunk * (mean if window is None else min(mean, window))
        return total

    def bytes_moved(self, prefill: tuple[tuple[int, int], ...], rows: int, context: int) -> float:
        """Keys and values read once per row and written once per token."""
        read, written = float(context), rows
        for chunk, cached in prefill:
            read += cached + chunk if self.window is None else min(cached + chunk, self.window + chunk)
            written += chunk
        return (read + written) * self._kv_token_bytes

    def flops(self, prefill: tuple[tuple[int, int], ...], context: int) -> float:
        """Multiplications and additions of scores and values."""
        return self._flops_per_pair * self.pairs(prefill, context)
