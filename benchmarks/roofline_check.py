"""How far the roofline's constants are from measured kernels: every shape of two profiles, predicted and summed up.

A profile is one layer's kernels (vLLM 0.19, Llama-3.1-8B, bf16, one GPU). A step's measured time is the sum of its
kernels over the layers, linearly interpolated in tokens; only shapes whose contexts fit into the GPU are compared.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from rakka_sim.config.deployment import EngineConfig
from rakka_sim.config.gpus import GPUS, GpuSpec, gpu
from rakka_sim.config.models import ModelSpec, model_spec
from rakka_sim.engines.sizing import kv_block_count
from rakka_sim.timing.api import StepShape
from rakka_sim.timing.graphs import Padding
from rakka_sim.timing.implied import implied
from rakka_sim.timing.profile import profile_model
from rakka_sim.timing.roofline import Roofline

RECORDED = Path(os.environ.get("RAKKA_SIM_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
DATA = RECORDED / "kernel_profiles"
PROFILES = {"RTX 4090": "RTX4090-Llama-3.1-8B-bf16-tp1", "RTX PRO 6000": "RTXPRO6000-Llama-3.1-8B-bf16-tp1"}
CALL = ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode")
SHOWN = (
    StepShape(decode_seqs=1, decode_context=1024, decode_max=1024, samples=1),
    StepShape(decode_seqs=32, decode_context=32 * 1024, decode_max=1024, samples=32),
    StepShape(decode_seqs=128, decode_context=128 * 1024, decode_max=1024, samples=128),
    StepShape(prefill=((2048, 0),), samples=1),
    StepShape(prefill=((512, 1024),), decode_seqs=32, decode_context=32 * 1024, decode_max=1024, samples=33),
)


def steps(folder: Path, spec: ModelSpec, device: GpuSpec, fits: int) -> list[tuple[str, StepShape, float]]:
    """(kind, shape, measured seconds) of every attention call of a profile whose contexts fit."""
    measured = profile_model(folder, spec, device, Padding())
    found = []
    with (folder / "attention.csv").open(encoding="utf-8") as file:
        calls = [[int(row[name]) for name in CALL] for row in csv.DictReader(file)]
    for chunk, cached, rows, context in calls:
        if chunk + cached + rows * context > fits or chunk + rows > 2048:
            continue
        shape = StepShape(
            prefill=((chunk, cached),) if chunk else (),
            decode_seqs=rows,
            decode_context=rows * context,
            decode_max=context if rows else 0,
            samples=rows + bool(chunk),
        )
        found.append(("decode" if not chunk else "mixed" if rows else "prefill", shape, measured.seconds(shape)))
    return found


def errors(model: Roofline, measured_steps: list[tuple[str, StepShape, float]]) -> dict[str, dict[str, float]]:
    """kind -> count and relative errors of the prediction."""
    relative: dict[str, list[float]] = defaultdict(list)
    for kind, shape, measured in measured_steps:
        relative[kind].append(model.seconds(shape) / measured - 1)
    report = {}
    for kind, found in sorted(relative.items()):
        size = np.abs(found)
        report[kind] = {
            "shapes": len(found),
            "median_abs": float(np.median(size)),
            "p90_abs": float(np.percentile(size, 90)),
            "bias": float(np.median(found)),
            "worst": float(size.max()),
        }
    return report


def describe(shape: StepShape) -> str:
    parts = [f"prefill {chunk} on {cached}" for chunk, cached in shape.prefill]
    if shape.decode_seqs:
        parts.append(f"decode {shape.decode_seqs} x {shape.decode_max}")
    return " + ".join(parts)


def compare(name: str, folder: Path, spec: ModelSpec) -> dict[str, Any]:
    """Print one GPU's table; the figures."""
    device = gpu(name)
    fits = kv_block_count(spec, device, EngineConfig()).tokens
    found = errors(Roofline(spec, device), steps(folder, spec, device, fits))
    print(f"\n{name}: predicted against the sum of {spec.layers} layers' kernels, contexts up to {fits:,} tokens")
    print(f"  {'':8s}{'shapes':>8s}{'median':>9s}{'p90':>8s}{'bias':>8s}{'worst':>8s}")
    for kind, row in found.items():
        rates = "".join(f"{row[key]:>{width}.1%}" for key, width in (("median_abs", 9), ("p90_abs", 8), ("bias", 8)))
        print(f"  {kind:8s}{row['shapes']:8.0f}{rates}{row['worst']:8.1%}")
    return found


def show(device: GpuSpec, spec: ModelSpec) -> list[dict[str, Any]]:
    """Print what the model says of a few steps of one GPU, and what rates that implies."""
    model = Roofline(spec, device)
    print(f"\n{device.name}")
    rows = []
    for shape in SHOWN:
        seconds, rates = model.seconds(shape), implied(model, device, shape)
        print(f"  {describe(shape):38s}{seconds * 1e3:9.2f} ms   {rates}")
        rows.append({"shape": describe(shape), "ms": seconds * 1e3, "bytes_per_s": rates.bytes_per_s, "mfu": rates.mfu})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the kernel profiles")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    spec = model_spec("Llama-3.1-8B")
    result: dict[str, Any] = {"errors": {}, "steps": {}}
    for name, folder in PROFILES.items():
        if (options.data / folder).is_dir():
            result["errors"][name] = compare(name, options.data / folder, spec)
        else:
            print(f"{name}: skipped, no {options.data / folder}")
    for device in GPUS:
        result["steps"][device.name] = show(device, spec)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
