"""End-to-end points measured on data-centre GPUs, which come with aiconfigurator-core, and the same simulated.

Of its `silicon_sample.csv`: aggregated serving in vLLM or SGLang on one H100, H200 or B200 (TP 1, PP 1). Each is run as
a closed loop at the row's concurrency with fixed lengths; its users start one after another over the time of a request,
as users whose requests have real lengths would be spread. What cannot be modelled is counted by reason.

FP8 checkpoints quantised by NVIDIA's tools, which the vLLM rows ran, keep an FP8 KV cache; the others do not.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from typing import Any

import numpy as np

import rakka_sim
from rakka_sim.config.deployment import EngineConfig
from rakka_sim.config.gpus import gpu
from rakka_sim.config.models import model_spec
from rakka_sim.config.scenario import TimeModel
from rakka_sim.errors import RakkaError
from rakka_sim.timing.api import StepShape
from rakka_sim.timing.factory import make_time_model
from rakka_sim.timing.silicon_tables import package_folder

GPUS = {"h100_sxm": "H100", "h200_sxm": "H200", "b200_sxm": "B200"}
MODELS = {
    "meta-llama/Llama-3.1-8B-Instruct": "Llama-3.1-8B",
    "nvidia/Llama-3.1-8B-Instruct-FP8": "Llama-3.1-8B",
    "meta-llama/Llama-3.1-70B": "Llama-3.1-70B",
    "Qwen/Qwen3-32B": "Qwen3-32B",
}
DTYPES = {"fp8": ("fp8", "fp8"), "fp8_block": ("fp8", "fp8_block"), "bfloat16": ("bfloat16", "fp8")}
ROUNDS = 4  # requests per user
BUDGET = 8192  # tokens of a step: vLLM's default on these GPUs


def rows() -> list[dict[str, str]]:
    """The rows that the comparison is about, without repeats."""
    with (package_folder() / "silicon_sample.csv").open(encoding="utf-8", newline="") as file:
        found = [
            row
            for row in csv.DictReader(file)
            if row["mode"] == "agg"
            and row["system"] in GPUS
            and row["backend"] in ("vllm", "sglang")
            and (row["tp_size"], row["pp_size"]) in (("1", "1"), ("1.0", "1.0"))
        ]
    return list(
        {tuple(v for k, v in row.items() if k not in ("id", "silicon_data_source")): row for row in found}.values()
    )


def unmodelled(row: dict[str, str]) -> str | None:
    """Why a row has no simulation, or None."""
    if row["model_path"] not in MODELS:
        experts = " over several GPUs" if row["moe_tp_size"] not in ("", "1", "1.0") else ""
        return f"{row['model_path']}{experts}: not in the catalogue of models"
    if row["precision"] == "fp4":
        return "fp4: no time model has it"
    if row["gemm_quant_mode"] not in DTYPES:
        return "precision not stated"
    return None


def scenario(row: dict[str, str]) -> dict[str, Any]:
    """The row as a closed loop."""
    users = concurrency(row)
    dtype, scaling = DTYPES[row["gemm_quant_mode"]]
    prompt, output = int(float(row["isl"])), int(float(row["osl"]))
    engine = {
        "dtype": dtype,
        "kv_cache_dtype": "fp8" if (row["backend"], dtype) == ("vllm", "fp8") else "auto",
        "max_num_batched_tokens": BUDGET,
        "max_num_seqs": max(256, users),
    }
    time_model = {"kind": "silicon", "backend": row["backend"], "fp8": scaling}
    times = make_time_model(
        TimeModel.model_validate(time_model),
        model_spec(MODELS[row["model_path"]]),
        gpu(GPUS[row["system"]]),
        EngineConfig.model_validate(engine),
    )
    middle = prompt + output // 2
    step_s = times.seconds(StepShape((), users, users * middle, middle, users))
    return {
        "name": row["id"],
        "cluster": {"nodes": [{"name": "node", "gpu": GPUS[row["system"]], "gpus": 1}]},
        "time_model": time_model,
        "deployment": [
            {
                "name": "model",
                "model": MODELS[row["model_path"]],
                "runtime_config": engine,
                "serving": {"max_concurrent": 2 * users},
            }
        ],
        "workload": {
            "requests": ROUNDS * users,
            "arrivals": {"kind": "closed", "concurrency": users, "ramp_s": output * step_s},
            "lengths": {"kind": "fixed", "prompt": prompt, "output": output},
        },
    }


def concurrency(row: dict[str, str]) -> int:
    """Requests under way at once."""
    said = re.search(r"silicon_concurrency=(\d+)", row["silicon_data_source"])
    return int(said.group(1)) if said else int(float(row["batch_size"]))


def simulate(row: dict[str, str]) -> dict[str, Any]:
    """TPOT and TTFT (mean, ms), real and simulated."""
    of = rakka_sim.run(scenario(row), progress=False).summary()
    found: dict[str, Any] = {
        "gpu": GPUS[row["system"]],
        "model": row["model_path"],
        "backend": row["backend"],
        "precision": row["gemm_quant_mode"],
        "isl": int(float(row["isl"])),
        "osl": int(float(row["osl"])),
        "concurrency": concurrency(row),
    }
    for metric in ("tpot", "ttft"):
        real, sim = float(row[f"silicon_{metric}_ms"]), of[f"{metric}_ms"]["mean"]
        found[metric] = {"real": real, "sim": sim, "error_pct": (sim / real - 1) * 100}
    return found


def compare(every: int = 1) -> dict[str, Any]:
    """Each `every`-th point that can be modelled; the figures, and what was left out and why."""
    try:
        asked = rows()
    except RakkaError as error:
        print(f"\nsilicon: skipped, {error}")
        return {"points": [], "unmodelled": {}, "skipped": str(error)}
    reasons: Counter[str] = Counter()
    points = []
    wanted = [row for row in asked if unmodelled(row) is None]
    reasons.update(reason for row in asked if (reason := unmodelled(row)) is not None)
    for row in wanted[::every]:
        try:
            points.append(simulate(row))
        except RakkaError as error:
            reasons[str(error)] += 1
    if every > 1:
        reasons[f"left out: one of {every} was simulated"] = len(wanted) - len(wanted[::every])
    return show(points, reasons, len(asked))


def show(points: list[dict[str, Any]], reasons: Counter[str], asked: int) -> dict[str, Any]:
    """Print by GPU and model; the document."""
    print(f"\nsilicon: {asked} measured points on one GPU, {len(points)} modelled; TPOT and TTFT, sim against real")
    groups: dict[str, Any] = {}
    for key in sorted({(p["gpu"], p["model"], p["backend"], p["precision"]) for p in points}):
        mine = [p for p in points if (p["gpu"], p["model"], p["backend"], p["precision"]) == key]
        groups[" ".join(key)] = of = medians(mine)
        print(f"  {' '.join(key):62s}{of['points']:4d} points, TPOT {of['tpot_median_abs_pct']:5.1f} % "
              f"(bias {of['tpot_median_pct']:+5.1f}), TTFT {of['ttft_median_abs_pct']:5.1f} % "
              f"(bias {of['ttft_median_pct']:+5.1f})")  # fmt: skip
    overall = medians(points) if points else None
    if overall:
        print(f"  all: median absolute error TPOT {overall['tpot_median_abs_pct']:.1f} %, "
              f"TTFT {overall['ttft_median_abs_pct']:.1f} %")  # fmt: skip
    for reason, count in reasons.most_common():
        print(f"  not modelled: {count:3d} x {reason}")
    return {"asked": asked, "overall": overall, "groups": groups, "unmodelled": dict(reasons), "points": points}


def medians(points: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {"points": len(points)}
    for metric in ("tpot", "ttft"):
        error = np.array([point[metric]["error_pct"] for point in points])
        found[f"{metric}_median_abs_pct"] = float(np.median(np.abs(error)))
        found[f"{metric}_median_pct"] = float(np.median(error))
    return found
