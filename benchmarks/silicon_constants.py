"""The roofline's constants against kernels measured on each GPU (aiconfigurator-core), and the constants that fit best.

    python benchmarks/silicon_constants.py [--json FILE] [--quick] [--fit]

The reference is a step put together from measured kernels (`silicon`, vLLM), over models, precisions, batches, contexts
and prompts. The error is printed for the constants in use; `--fit` also prints what a least-squares fit of them says
(over logarithms, so that short steps count as much as long ones).
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import about
import numpy as np
from scipy.optimize import least_squares

from rakka_sim.config.gpus import GpuSpec, gpu
from rakka_sim.config.models import model_spec
from rakka_sim.errors import InputError
from rakka_sim.timing.api import StepShape
from rakka_sim.timing.constants import Constants, constants_for
from rakka_sim.timing.graphs import Padding, capture_sizes
from rakka_sim.timing.roofline import Roofline
from rakka_sim.timing.silicon import silicon_model
from rakka_sim.timing.silicon_tables import Tables

GPUS = ("A100-80", "H100", "H200", "B200", "GB200", "L40S", "RTX PRO 6000")
MODELS = (
    ("Llama-3.1-8B", "bfloat16"),
    ("Llama-3.1-8B", "fp8"),
    ("Qwen3-32B", "bfloat16"),
    ("Qwen3-32B", "fp8"),
    ("Qwen3-30B-A3B", "bfloat16"),
)
FITTED = ("bandwidth", "gemm", "gemm_fp8", "gemm_experts", "attention", "kernel_s", "tile_s")
ROWS, CONTEXTS = (1, 4, 16, 64, 128, 256), (256, 1024, 4096)
CHUNKS, CACHED = (128, 512, 2048, 8192), (0, 4096)


def shapes() -> list[StepShape]:
    decode = [StepShape((), n, n * c, c, n) for n in ROWS for c in CONTEXTS]
    return decode + [StepShape(((chunk, cached),), samples=1) for chunk in CHUNKS for cached in CACHED]


def reference(device: GpuSpec) -> tuple[list[tuple[str, str, StepShape, float]], list[str]]:
    """(model, dtype, shape, measured seconds) of one GPU, and what there is no data for."""
    found, missing = [], []
    padding = Padding(capture_sizes(256, 8192))
    for name, dtype in MODELS:
        if dtype == "fp8" and device.fp8_flops is None:
            continue
        try:
            model = silicon_model(model_spec(name), device, 1, dtype, "auto", padding)
        except InputError as error:
            missing.append(f"{name} {dtype}: {error}")
            continue
        found += [(name, dtype, shape, model.seconds(shape)) for shape in shapes()]
    return found, missing


def predicted(device: GpuSpec, constants: Constants, points: list[tuple[str, str, StepShape, float]]) -> Any:
    models: dict[tuple[str, str], Roofline] = {}
    for name, dtype, _, _ in points:
        if (name, dtype) not in models:
            models[name, dtype] = Roofline(model_spec(name), device, dtype=dtype, constants=constants)
    return np.array([models[name, dtype].seconds(shape) for name, dtype, shape, _ in points])


def errors(device: GpuSpec, constants: Constants, points: list[tuple[str, str, StepShape, float]]) -> dict[str, Any]:
    """Median, 90th percentile and bias of the relative error, by kind of step and by model."""
    relative = predicted(device, constants, points) / np.array([s for *_, s in points]) - 1.0
    groups: dict[str, list[float]] = {}
    for (name, dtype, shape, _), error in zip(points, relative.tolist(), strict=True):
        groups.setdefault("prefill" if shape.prefill else "decode", []).append(error)
        groups.setdefault(f"{name} {dtype}", []).append(error)
    groups["all"] = relative.tolist()
    return {
        name: {
            "steps": len(found),
            "median_abs_pct": float(np.median(np.abs(found)) * 100),
            "p90_abs_pct": float(np.percentile(np.abs(found), 90) * 100),
            "bias_pct": float(np.median(found) * 100),
        }
        for name, found in groups.items()
    }


def fitted(device: GpuSpec, points: list[tuple[str, str, StepShape, float]]) -> Constants:
    start = replace(constants_for(device), attention_s=attention_start(device))
    names = [name for name in FITTED if getattr(start, name) is not None]
    measured = np.log([s for *_, s in points])

    def made(x: np.ndarray[Any, Any]) -> Constants:
        return replace(start, **dict(zip(names, np.exp(x).tolist(), strict=True)))

    origin = np.log([getattr(start, name) for name in names])
    shares = np.array([not name.endswith("_s") for name in names])
    bounds = (origin - 1.0, np.where(shares, np.minimum(origin + 1.0, 0.0), origin + 1.0))
    solved = least_squares(
        lambda x: np.log(predicted(device, made(x), points)) - measured,
        origin,
        bounds=bounds,
        loss="soft_l1",
        f_scale=0.1,
    )
    return made(solved.x)


def attention_start(device: GpuSpec) -> float:
    """What the shortest attention call takes: one row of one token."""
    grid = Tables(device.name, "vllm").decode(32, 8, 128, "bfloat16", 0)
    return grid.at(1, float(grid.axes[1][0]))


def show(name: str, found: dict[str, Any]) -> None:
    print(f"\n{name}")
    for group, row in found.items():
        print(
            f"  {group:26s}{row['steps']:5d} steps  median {row['median_abs_pct']:5.1f} %  "
            f"p90 {row['p90_abs_pct']:5.1f} %  bias {row['bias_pct']:+5.1f} %"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="H100 alone")
    parser.add_argument("--fit", action="store_true", help="fit the constants anew and print them")
    options = parser.parse_args()
    cases: dict[str, Any] = {}
    for name in ("H100",) if options.quick else GPUS:
        device = gpu(name)
        points, missing = reference(device)
        for gap in missing:
            print(f"{name}: {gap}")
        cases[name] = {**errors(device, constants_for(device), points), "missing": missing}
        show(name, {group: row for group, row in cases[name].items() if group != "missing"})
        if options.fit:
            best = fitted(device, points)
            show(f"{name}, fitted", errors(device, best, points))
            print(
                "  "
                + ", ".join(
                    f"{field}={getattr(best, field):.3g}" for field in (*FITTED, "attention_s") if getattr(best, field)
                )
            )
    if options.json:
        about.write(options.json, "silicon_constants", cases, 0)


if __name__ == "__main__":
    main()
