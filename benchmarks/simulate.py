"""How fast whole runs are simulated, and in how much memory: requests and engine steps per second, times real time.

    python benchmarks/simulate.py [--json FILE] [--quick] [CASE ...]

Each case runs in a process of its own, on one core, after a small run that imports everything; its wall time is that
of `rakka_sim.run`, from the scenario to the checked report; its memory is the most that the process ever held, the
report's summary included. CPU time is given beside wall time: where the two differ, others used the core.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import about

import rakka_sim

SEED = 0
MODEL = "meta-llama/Llama-3.1-8B"
ENGINE = {"max_num_seqs": 256, "max_num_batched_tokens": 8192}
# The generator fitted to the Azure conversation trace (benchmarks/fit_quickstart.py).
CHAT = {
    "kind": "lognormal",
    "prompt": {"median": 796, "sigma": 0.956, "min": 2, "max": 4142},
    "output": {"median": 160, "sigma": 0.858, "min": 7, "max": 601},
    "correlation": 0.076,
}
RATE = 8.0  # requests per second and replica: a third of what such a replica can carry


def scenario(replicas: int, workload: dict[str, Any], policy: str = "least_load") -> dict[str, Any]:
    """So many replicas of one model, each on one GPU of nodes with eight."""
    nodes = [{"name": f"node-{n}", "gpu": "H200", "gpus": min(8, replicas)} for n in range(-(-replicas // 8))]
    deployment = {
        "name": "llama-8b",
        "model": MODEL,
        "gpus": 1,
        "replicas": replicas,
        "serving": {"max_concurrent": 256},
        "runtime_config": ENGINE,
    }
    return {
        "seed": SEED,
        "cluster": {"nodes": nodes},
        "deployment": [deployment],
        "routing": {"policy": policy},
        "workload": workload,
    }


def trace(file: str, form: str, limit: int | None) -> dict[str, Any]:
    """A recorded trace at its own times."""
    path = about.recorded_data() / "traces" / file
    return {"trace": {"format": form, "path": str(path), **({"limit": limit} if limit else {})}}


def poisson(replicas: int, requests: int) -> dict[str, Any]:
    """Poisson arrivals of chat requests, at the same load per replica whatever their number."""
    return {
        "requests": requests,
        "arrivals": {"kind": "poisson", "rate": RATE * replicas},
        "lengths": CHAT,
    }


def azure(replicas: int, quick: bool) -> dict[str, Any]:
    return scenario(replicas, trace("azure_llm_2023_conv.csv", "azure", 2_000 if quick else None))


CASES: dict[str, Callable[[bool], dict[str, Any]]] = {
    "azure_conv_4": lambda quick: azure(4, quick),
    "azure_conv_8": lambda quick: azure(8, quick),
    "poisson_8": lambda quick: scenario(8, poisson(8, 2_000 if quick else 31_250)),
    "poisson_64": lambda quick: scenario(64, poisson(64, 4_000 if quick else 100_000)),
    "mooncake_prefix": lambda quick: scenario(
        8, trace("mooncake_conversation.jsonl", "mooncake", 1_000 if quick else None), "prefix_affinity"
    ),
    "poisson_256_1m": lambda quick: scenario(256, poisson(256, 10_000 if quick else 1_000_000)),
}
UNITS = {
    "requests_per_s": "requests simulated per wall second",
    "x_real_time": "simulated seconds per wall second",
    "steps_per_s": "engine steps simulated per wall second",
    "peak_mib": "most memory held, MiB",
}


def measure(name: str, quick: bool) -> dict[str, Any]:
    """Run one case in this process."""
    rakka_sim.run(scenario(1, poisson(1, 20)), progress=False).summary()
    made = CASES[name](quick)
    wall, cpu = time.perf_counter(), time.process_time()
    report = rakka_sim.run(made, progress=False)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    then = time.perf_counter()
    summary = report.summary()
    summary_s = time.perf_counter() - then
    return {
        "requests_per_s": summary["requests"] / wall,
        "x_real_time": summary["simulated_s"] / wall,
        "steps_per_s": summary["steps"] / wall,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "wall_s": wall,
        "cpu_s": cpu,
        "summary_s": summary_s,
        "requests": summary["requests"],
        "completed": summary["completed"],
        "engine_steps": summary["steps"],
        "output_tokens": summary["output_tokens"],
        "simulated_s": summary["simulated_s"],
        "us_per_request": wall / summary["requests"] * 1e6,
        "prefix_hit_rate": summary["prefix_hit_rate"],
        "replicas": len(summary["replicas"]),
    }


def in_a_process(name: str, quick: bool) -> dict[str, Any]:
    command = [sys.executable, __file__, name, "--measure", *(["--quick"] if quick else [])]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def show(name: str, case: dict[str, Any]) -> None:
    print(
        f"{name:16s}{case['requests']:10,d}{case['requests_per_s']:12,.0f}{case['x_real_time']:13,.0f}"
        f"{case['steps_per_s']:11,.0f}{case['us_per_request']:9,.0f}{case['wall_s']:9.1f}{case['cpu_s']:9.1f}"
        f"{case['summary_s']:9.1f}{case['peak_mib']:9,.0f}",
        flush=True,
    )


def main() -> None:
    """All cases, or those named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", nargs="*", help=f"of {', '.join(CASES)}; all without any")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="a fraction of the requests, to see that it works")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    unknown = [name for name in options.case if name not in CASES]
    if unknown:
        parser.error(f"no case {unknown[0]!r}; there are {', '.join(CASES)}")
    if options.measure:
        print(json.dumps(measure(options.case[0], options.quick)))
        return
    head = ("requests", "requests/s", "x real time", "steps/s", "us/req", "wall s", "CPU s", "summary", "MiB")
    widths = (10, 12, 13, 11, 9, 9, 9, 9, 9)
    print(f"{'':16s}" + "".join(f"{word:>{width}s}" for word, width in zip(head, widths, strict=True)))
    cases: dict[str, Any] = {}
    for name in options.case or CASES:
        cases[name] = in_a_process(name, options.quick)
        show(name, cases[name])
    if options.json:
        about.write(options.json, "simulate", cases, SEED)


if __name__ == "__main__":
    main()
