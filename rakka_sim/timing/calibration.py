"""Fitting a time model to measured steps: coefficients, ratios by batch, hold-out error; how steps are measured is not
here."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import nnls

from rakka_sim.config.gpus import GpuSpec
from rakka_sim.config.shapes import ModelSpec
from rakka_sim.errors import InputError
from rakka_sim.timing.api import StepShape
from rakka_sim.timing.calibrated import TERMS, Calibrated, Calibration, Terms, bucket
from rakka_sim.timing.graphs import Padding
from rakka_sim.timing.roofline import Roofline

HOLD_OUT = 5  # each fifth step is not fitted to
LEAST = 20  # steps: fewer say nothing
_QUANTILES = np.linspace(0.0, 1.0, 41)


@dataclass(frozen=True, slots=True)
class MeasuredStep:
    """One step as it ran: what it computed, and for how long (s)."""

    shape: StepShape
    seconds: float


def read_steps(file: Path) -> list[MeasuredStep]:
    """JSON lines with `prefill` ([[tokens, context], ...]), `decode_seqs`, `decode_context`, `decode_max`, `samples`
    and `seconds`; raises InputError that names the line."""
    found = []
    for line, text in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(text)
            prefill = tuple((int(tokens), int(context)) for tokens, context in row["prefill"])
            counts = (int(row[name]) for name in ("decode_seqs", "decode_context", "decode_max", "samples"))
            step = MeasuredStep(StepShape(prefill, *counts), float(row["seconds"]))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{file}:{line}", text[:80], f"a measured step ({error!r})") from None
        if step.seconds <= 0 or not step.shape.tokens:
            raise InputError(f"{file}:{line}", text[:80], "a step that computes something in more than 0 s")
        found.append(step)
    return found


def fit(
    steps: Sequence[MeasuredStep],
    model: ModelSpec,
    gpu: GpuSpec,
    tp: int = 1,
    dtype: str = "bfloat16",
    kv_dtype: str = "auto",
    padding: Padding | None = None,
    provenance: dict[str, Any] | None = None,
) -> Calibration:
    """Relative errors are minimised, on four steps of five; the fifth says how good that is."""
    if len(steps) < LEAST:
        raise InputError("measured steps", len(steps), f"{LEAST} or more")
    terms = Terms(model, gpu, tp, dtype, kv_dtype, padding or Padding())
    fitted = [step for at, step in enumerate(steps) if at % HOLD_OUT]
    held = [step for at, step in enumerate(steps) if not at % HOLD_OUT]
    seconds = np.array([step.seconds for step in fitted])
    physics = np.array([terms.of(step.shape) for step in fitted])
    scale = np.abs(physics / seconds[:, None]).max(axis=0)
    scale[scale == 0] = 1.0
    solved, _ = nnls(physics / seconds[:, None] / scale, np.ones(len(fitted)))
    coefficients = dict(zip(TERMS, (solved / scale).tolist(), strict=True))
    ratios = _ratios(fitted, seconds / (physics @ (solved / scale)))
    plain = Calibration(gpu.name, model.name, tp, dtype, kv_dtype, coefficients, ratios, (), {}, provenance or {})
    made = Calibrated(plain, terms, Roofline(model, gpu, tp=tp, dtype=dtype, kv_dtype=kv_dtype))
    error = np.array([step.seconds / made.seconds(step.shape) - 1.0 for step in held])
    holdout = {
        "steps": len(held),
        "median_abs_pct": float(np.median(np.abs(error)) * 100),
        "p90_abs_pct": float(np.percentile(np.abs(error), 90) * 100),
        "bias_pct": float(np.median(error) * 100),
    }
    residuals = tuple(np.quantile(error, _QUANTILES).tolist())
    return Calibration(
        gpu.name, model.name, tp, dtype, kv_dtype, coefficients, ratios, residuals, holdout, provenance or {}
    )


def _ratios(steps: Sequence[MeasuredStep], measured_over_physics: np.ndarray[Any, Any]) -> dict[str, dict[str, float]]:
    """What physics leaves over, by kind of step and batch: medians."""
    found: dict[tuple[str, int], list[float]] = defaultdict(list)
    for step, ratio in zip(steps, measured_over_physics.tolist(), strict=True):
        kind = "mixed" if step.shape.prefill else "decode"
        found[kind, bucket(step.shape.tokens)].append(ratio)
    table: dict[str, dict[str, float]] = {"decode": {}, "mixed": {}}
    for (kind, size), ratios in sorted(found.items()):
        table[kind][str(size)] = float(np.median(ratios))
    return table
