"""A step put together from measured parts: rows, head, attention; where the parts come from is not known here."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from rakka_sim.errors import InvariantBroken
from rakka_sim.timing.api import StepShape, StepTimeModel
from rakka_sim.timing.curves import Array, Curve
from rakka_sim.timing.graphs import Padding

_Array = np.ndarray[Any, np.dtype[np.float64]]


class AttentionTimes(Protocol):
    """Seconds of attention over all layers."""

    def decode_curve(self, rows: int) -> Curve:
        """A batch of `rows` decode rows alone, over the context that all of them have."""
        ...

    def skew(self, rows: int, mean: Array, longest: Array) -> Array | float:
        """How far a batch of unequal contexts is from one of the mean (0) to one of the longest (1)."""
        ...

    def with_prefill(self, prefill: tuple[tuple[int, int], ...], rows: int, mean: float, longest: float) -> float:
        """A batch with at least one prefill row, beside `rows` decode rows."""
        ...


class RowTimes(Protocol):
    """Seconds of what does not depend on contexts."""

    def layers(self, tokens: int) -> float:
        """All layers but their attention, and what is done once per step."""
        ...

    def head(self, samples: int) -> float:
        """Language-model head and sampler."""
        ...


class Tabulated:
    """A step-time model of measured parts; bytes and operations are those of `work`, which knows the shapes."""

    __slots__ = ("_attention", "_curves", "_fixed", "_padding", "_rows", "_window", "_work")

    def __init__(
        self, rows: RowTimes, attention: AttentionTimes, padding: Padding, work: StepTimeModel, window: int | None
    ) -> None:
        self._rows, self._attention, self._padding, self._work = rows, attention, padding, work
        self._window = window
        self._curves: dict[int, Curve] = {}
        self._fixed: dict[tuple[int, int], float] = {}

    def _rows_s(self, tokens: int, samples: int) -> float:
        key = (self._padding.padded(tokens), samples)
        found = self._fixed.get(key)
        if found is None:
            found = self._rows.layers(key[0]) + (self._rows.head(samples) if samples else 0.0)
            self._fixed[key] = found
        return found

    def seconds(self, shape: StepShape) -> float:
        """One step."""
        if not shape.prefill:
            return float(self.run_seconds(shape, 1)[0]) if shape.decode_seqs else 0.0
        rows, longest = shape.decode_seqs, shape.decode_max
        mean = shape.decode_context / rows if rows else 0.0
        if self._window is not None:
            mean, longest = min(mean, self._window), min(longest, self._window)
        attention = self._attention.with_prefill(shape.prefill, rows, mean, longest)
        return self._rows_s(shape.tokens, shape.samples) + attention

    def run_seconds(self, shape: StepShape, steps: int) -> _Array:
        """A run of decode steps, one vector; a single step takes the same way, so the two agree to the last bit."""
        if shape.prefill:
            if steps == 1:
                return np.array([self.seconds(shape)])
            raise InvariantBroken("tabulated.run_seconds", "a run of steps has a prefill row")
        rows = shape.decode_seqs
        step = np.arange(steps, dtype=np.float64)
        mean = (shape.decode_context + step * rows) / rows
        longest = shape.decode_max + step
        if self._window is not None:
            mean, longest = np.minimum(mean, self._window), np.minimum(longest, self._window)
        curve = self._curves.get(rows)
        if curve is None:
            curve = self._curves[rows] = self._attention.decode_curve(rows)
        found = curve.over(mean)
        found += self._attention.skew(rows, mean, longest) * (curve.over(longest) - found)
        found += self._rows_s(rows, shape.samples)
        return found

    def bytes_moved(self, shape: StepShape) -> float:
        """Bytes that one of the GPUs reads and writes."""
        return self._work.bytes_moved(shape)

    def flops(self, shape: StepShape) -> float:
        """Operations of one of the GPUs."""
        return self._work.flops(shape)
