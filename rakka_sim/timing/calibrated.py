"""The time model fitted to steps that were measured on one GPU: what a calibration file says; the fit is elsewhere.

Physics first: a step is a sum of the roofline's terms, each with a coefficient of its own. What is left over stands in
a table by kind of step and batch size. How far single steps scatter about that is kept as quantiles, from which a
simulation may draw.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rakka_sim.config.gpus import GpuSpec
from rakka_sim.config.shapes import ModelSpec, kv_dtype_of
from rakka_sim.errors import InputError, InvariantBroken
from rakka_sim.timing.api import StepShape
from rakka_sim.timing.attention import Attention
from rakka_sim.timing.constants import constants_for
from rakka_sim.timing.graphs import Padding
from rakka_sim.timing.linear import Linear
from rakka_sim.timing.roofline import Roofline

FORMAT = "rakka-sim-calibration-1"
TERMS = ("step", "layers", "head", "row", "context", "prefill")
BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)

_Array = np.ndarray[Any, np.dtype[np.float64]]


class Terms:
    """The physical terms of a step, in s (`row` counts decode rows), before any coefficient."""

    def __init__(self, model: ModelSpec, gpu: GpuSpec, tp: int, dtype: str, kv_dtype: str, padding: Padding) -> None:
        constants = constants_for(gpu)
        self._linear = Linear(model, gpu, tp, dtype, constants)
        self._attention = Attention(model, gpu, tp, dtype, kv_dtype_of(dtype, kv_dtype), constants)
        self._padding = padding

    def of(self, shape: StepShape) -> list[float]:
        """In the order of `TERMS`."""
        tokens = self._padding.padded(shape.tokens)
        prefill = 0.0
        if shape.prefill:
            prefill = self._attention.mixed_seconds(shape.prefill, 0, 0, 0)
        return [
            1.0,
            self._linear.seconds(tokens),
            self._linear.head_seconds(shape.samples) if shape.samples else 0.0,
            float(shape.decode_seqs),
            shape.decode_context * self._attention.decode_token_s,
            prefill,
        ]


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a fit came to: coefficients by term, ratios by kind of step and batch, scatter, and how good it is."""

    gpu: str
    model: str
    tp: int
    dtype: str
    kv_dtype: str
    coefficients: dict[str, float]
    ratios: dict[str, dict[str, float]]  # "decode" and "mixed": bucket -> measured over physics
    residuals: tuple[float, ...]  # even quantiles of measured over predicted, less 1, on steps not fitted to
    holdout: dict[str, float]
    provenance: dict[str, Any]

    def write(self, file: Path) -> None:
        """As JSON."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        file.write_text(json.dumps({"format": FORMAT, **fields}, indent=2, allow_nan=False) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, file: Path) -> Calibration:
        """Raises InputError for what is no calibration."""
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError("time_model.path", str(file), f"a calibration file ({error})") from None
        if not isinstance(found, dict) or found.pop("format", None) != FORMAT:
            raise InputError(f"{file}: format", "another", FORMAT)
        if set(found) != set(cls.__slots__) or set(found["coefficients"]) != set(TERMS):
            raise InputError(f"{file}: keys", ", ".join(found), ", ".join(cls.__slots__))
        return cls(**{**found, "residuals": tuple(found["residuals"])})


def bucket(size: int) -> int:
    """The bucket of a batch: the next power of two."""
    return BUCKETS[min(bisect_left(BUCKETS, size), len(BUCKETS) - 1)]


class Calibrated:
    """A step-time model of a calibration; `residuals` are what a runner may draw from."""

    __slots__ = ("_calibration", "_coefficients", "_terms", "_work", "residuals")

    def __init__(self, calibration: Calibration, terms: Terms, work: Roofline) -> None:
        self._calibration, self._terms, self._work = calibration, terms, work
        self._coefficients = [calibration.coefficients[name] for name in TERMS]
        self.residuals = calibration.residuals

    def _ratio(self, kind: str, size: int) -> float:
        return self._calibration.ratios.get(kind, {}).get(str(bucket(size)), 1.0)

    def seconds(self, shape: StepShape) -> float:
        """One step."""
        if not shape.prefill:
            return float(self.run_seconds(shape, 1)[0]) if shape.decode_seqs else 0.0
        physics = sum(c * t for c, t in zip(self._coefficients, self._terms.of(shape), strict=True))
        return physics * self._ratio("mixed", shape.tokens)

    def run_seconds(self, shape: StepShape, steps: int) -> _Array:
        """A run of decode steps; a single one takes the same way, so the two agree to the last bit."""
        if shape.prefill:
            if steps == 1:
                return np.array([self.seconds(shape)])
            raise InvariantBroken("calibrated.run_seconds", "a run of steps has a prefill row")
        rows = shape.decode_seqs
        terms = self._terms.of(StepShape((), rows, 0, 0, shape.samples))
        fixed = sum(c * t for c, t in zip(self._coefficients, terms, strict=True))
        context = shape.decode_context + np.arange(steps, dtype=np.float64) * rows
        per_token = self._coefficients[TERMS.index("context")] * self._terms.of(StepShape((), 1, 1, 1, 0))[4]
        return (fixed + context * per_token) * self._ratio("decode", rows)

    def bytes_moved(self, shape: StepShape) -> float:
        """Bytes that one of the GPUs reads and writes."""
        return self._work.bytes_moved(shape)

    def flops(self, shape: StepShape) -> float:
        """Operations of one of the GPUs."""
        return self._work.flops(shape)


def calibrated_model(
    file: Path, model: ModelSpec, gpu: GpuSpec, tp: int, dtype: str, kv_dtype: str, padding: Padding
) -> Calibrated:
    """The model of a calibration file, which must be of this GPU, model, precision and number of GPUs."""
    found = Calibration.read(file)
    asked = (gpu.name, model.name, tp, dtype, kv_dtype_of(dtype, kv_dtype))
    there = (found.gpu, found.model, found.tp, found.dtype, kv_dtype_of(found.dtype, found.kv_dtype))
    if asked != there:
        raise InputError(f"{file}: calibration", " ".join(map(str, asked)), " ".join(map(str, there)))
    terms = Terms(model, gpu, tp, dtype, kv_dtype, padding)
    return Calibrated(found, terms, Roofline(model, gpu, tp=tp, dtype=dtype, kv_dtype=kv_dtype))
