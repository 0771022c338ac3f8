"""The time model that needs no data: bytes over bandwidth, operations over rate, and the latencies in between.

What it costs is put together here from `linear`, `attention` and `allreduce`; no constant may be here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rakka_sim.config.gpus import GpuSpec
from rakka_sim.config.shapes import ModelSpec, kv_dtype_of
from rakka_sim.errors import InvariantBroken
from rakka_sim.hardware.collectives import Group
from rakka_sim.timing.allreduce import TensorParallel
from rakka_sim.timing.api import FEW, StepShape
from rakka_sim.timing.attention import Attention
from rakka_sim.timing.constants import HOST_OVERHEAD_S, Constants, constants_for
from rakka_sim.timing.linear import Linear

__all__ = ["HOST_OVERHEAD_S", "Roofline"]

_Array = np.ndarray[Any, np.dtype[np.float64]]


class Roofline:
    """A step's seconds on `tp` equal GPUs; `group` says what joins them (default: what their usual machine has).

    `expert_parallel`: each expert whole on one of them. Attention leaves every token on every GPU of the group, so the
    traffic is the same all-reduce; what differs is that the busiest GPU has more than its share.
    """

    __slots__ = (
        "_attention",
        "_context_s",
        "_fixed",
        "_linear",
        "_parallel",
        "_skew",
        "_tp",
        "constants",
        "gpu",
        "model",
    )

    def __init__(
        self,
        model: ModelSpec,
        gpu: GpuSpec,
        tp: int = 1,
        dtype: str = "bfloat16",
        kv_dtype: str = "auto",
        constants: Constants | None = None,
        group: Group | None = None,
        expert_parallel: bool = False,
    ) -> None:
        model.check_tp(tp)
        constants = constants or constants_for(gpu)
        self.model, self.gpu, self.constants = model, gpu, constants
        self._tp = tp
        self._linear = Linear(model, gpu, tp, dtype, constants, expert_parallel)
        self._attention = Attention(model, gpu, tp, dtype, kv_dtype_of(dtype, kv_dtype), constants)
        self._parallel = TensorParallel(model, gpu, tp, dtype, constants, group)
        self._context_s = self._attention.decode_token_s
        self._skew = constants.skew
        self._fixed: dict[tuple[int, int], float] = {}

    def _rows_s(self, tokens: int, samples: int) -> float:
        """What does not depend on contexts."""
        if not tokens:
            return 0.0
        total = self._linear.seconds(tokens)
        if samples:
            total += self._linear.head_seconds(samples)
        if self._tp > 1:
            total += self._parallel.seconds(tokens)
            total += self._parallel.gather_seconds(samples) if samples else 0.0
        return total

    def _decode_fixed_s(self, shape: StepShape) -> float:
        key = (shape.decode_seqs, shape.samples)
        fixed = self._fixed.get(key)
        if fixed is None:
            rows, attention = shape.decode_seqs, self._attention
            fixed = self._rows_s(rows, shape.samples)
            fixed += attention.decode_fixed_s + rows * attention.decode_row_s if rows else 0.0
            self._fixed[key] = fixed
        return fixed

    def seconds(self, shape: StepShape) -> float:
        """One step."""
        if shape.prefill:
            rows, context, longest = self._clipped(shape)
            mixed = self._attention.mixed_seconds(shape.prefill, rows, context, longest)
            return self._rows_s(shape.tokens, shape.samples) + mixed
        return self._decode_seconds(shape, 1)[0]

    def _decode_seconds(self, shape: StepShape, steps: int) -> list[float]:
        """A run of few decode steps, number by number."""
        rows, context, longest = shape.decode_seqs, shape.decode_context, shape.decode_max
        window, skew, context_s = self._attention.window, self._skew, self._context_s
        fixed = self._decode_fixed_s(shape)
        seconds: list[float] = []
        for _ in range(steps):
            if window is None:
                read = context + (rows * longest - context) * skew
            else:
                within = min(context, rows * window)
                read = within + (rows * min(longest, window) - within) * skew
            # Keep these operations, and their order, as in run_seconds: the two must agree to the last bit.
            seconds.append(fixed + read * context_s)
            context += rows
            longest += 1
        return seconds

    def run_seconds(self, shape: StepShape, steps: int) -> _Array:
        """A run of decode steps, one vector."""
        if shape.prefill:
            if steps == 1:
                return np.array([self.seconds(shape)])
            raise InvariantBroken("roofline.run_seconds", "a run of steps has a prefill row")
        if steps <= FEW:
            return np.array(self._decode_seconds(shape, steps))
        rows, window = shape.decode_seqs, self._attention.window
        step = np.arange(steps, dtype=np.float64)
        context = step * float(rows)
        context += float(shape.decode_context)
        if window is None:
            context += (rows * shape.decode_max - shape.decode_context) * self._skew
        else:
            step += float(shape.decode_max)
            np.minimum(context, float(rows * window), out=context)
            np.minimum(step, float(window), out=step)
            context += (rows * step - context) * self._skew
        context *= self._context_s
        context += self._decode_fixed_s(shape)
        return context

    def bytes_moved(self, shape: StepShape) -> float:
        """Bytes that one of the GPUs reads and writes."""
        if not shape.tokens:
            return 0.0
        cached = self._attention.bytes_moved(shape.prefill, *self._clipped(shape)[:2])
        return self._linear.bytes_moved(shape.tokens, shape.samples) + cached

    def flops(self, shape: StepShape) -> float:
        """Operations of one of the GPUs."""
        attention = self._attention.flops(shape.prefill, self._clipped(shape)[1])
        return self._linear.flops(shape.tokens, shape.samples) + attention

    def _clipped(self, shape: StepShape) -> tuple[int, int, int]:
        """Rows that decode, what they read in all, and the most that one does."""
        rows, context, longest = shape.decode_seqs, shape.decode_context, shape.decode_max
        window = self._attention.window
        return (rows, context, longest) if window is None else (rows, min(context, rows * window), min(longest, window))
