"""Two real vLLM runs simulated with their own settings: latencies as recorded and as the roofline model has them.

    python benchmarks/replay_vllm.py [--json FILE]

A run's `arrival_time` is wall-clock time, its other stamps are monotonic. The least distance between a request's
arrival and its being queued in the engine is taken for the offset of the two clocks, so every latency counts from the
arrival, and the front end's own (unknown) least share is left out on both sides.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import about
import numpy as np

import rakka_sim
from rakka_sim.report.report import Report

Array = np.ndarray[Any, Any]

GPUS = {"RTX 4090": "RTX4090-Llama-3.1-8B", "RTX PRO 6000": "RTXPRO6000-Llama-3.1-8B"}
SETTINGS = ("max_num_seqs", "max_num_batched_tokens", "max_model_len", "dtype", "kv_cache_dtype")
STATISTICS = ("mean", "p50", "p90", "p99")
SEED = 0


@dataclass(frozen=True)
class Recorded:
    """One real run; times in s since its first arrival."""

    folder: Path
    meta: dict[str, Any]
    arrival: Array
    scheduled: Array
    first_token: Array
    last_token: Array
    output: Array

    @classmethod
    def read(cls, folder: Path) -> Recorded:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        rows = [json.loads(line) for line in (folder / "requests.jsonl").read_text(encoding="utf-8").splitlines()]
        of = {name: np.array([row[name] for row in rows]) for name in rows[0] if name != "request_id"}
        arrival = of["arrival_time"] + (of["queued_ts"] - of["arrival_time"]).min()
        scheduled, first, last = (of[f"{name}_ts"] - arrival[0] for name in ("scheduled", "first_token", "last_token"))
        return cls(folder, meta, arrival - arrival[0], scheduled, first, last, of["output_toks"])

    @property
    def latencies(self) -> dict[str, Array]:
        """In ms, by the definitions of a report."""
        gaps = self.output - 1
        return {
            "ttft_ms": (self.first_token - self.arrival) * 1e3,
            "tpot_ms": ((self.last_token - self.first_token)[gaps > 0] / gaps[gaps > 0]) * 1e3,
            "e2e_ms": (self.last_token - self.arrival) * 1e3,
        }

    def preempted(self) -> Array:
        """How many requests that had been scheduled were not running, each second: those preempted and not yet back."""
        table = np.genfromtxt(self.folder / "timeseries.csv", delimiter=",", names=True)
        best = min(np.arange(-2.0, 2.0, 0.02), key=lambda shift: self._misfit(table, shift))
        at = table["t"] + best
        return _begun(self.scheduled, at) - _begun(self.last_token, at) - table["running"]

    def _misfit(self, table: Array, shift: float) -> float:
        """How far the requests in the system, by the series' own clock shifted so, are from those by the stamps."""
        at = table["t"] + shift
        inside = _begun(self.arrival, at) - _begun(self.last_token, at)
        return float(np.abs(inside - table["running"] - table["waiting"]).sum())


def _begun(times: Array, at: Array) -> Array:
    return np.searchsorted(np.sort(times), at, side="right")


def scenario(run: Recorded, gpu: str) -> dict[str, Any]:
    """The run's own settings and requests; the KV blocks as it resolved them, where it says so."""
    given = run.meta["engine_kwargs"]
    engine = {name: given[name] for name in SETTINGS if given[name] is not None}
    blocks = run.meta.get("kv_cache", {}).get("num_gpu_blocks")
    if blocks is not None:
        engine["num_gpu_blocks"] = blocks
    engine["frontend_overhead_us"] = 0.0
    return {
        "name": f"vllm-{gpu}",
        "seed": SEED,
        "cluster": {"nodes": [{"name": "node", "gpu": gpu, "gpus": 1}]},
        "deployment": [
            {
                "name": "llama-8b",
                "model": given["model"],
                "runtime_config": engine,
                "serving": {"max_concurrent": run.meta["num_requests"]},
            }
        ],
        "workload": {
            "trace": {"format": "vllm", "path": str(run.folder / "requests.jsonl")},
            "sampling": {"max_tokens": "output"},
        },
    }


def preempted_in(report: Report, seconds: int) -> Array:
    """As `Recorded.preempted`, of a simulation."""
    steps, requests = report.steps, report.requests
    origin = requests.arrival_s.min()
    at = origin + np.arange(1.0, seconds + 1)
    step = steps.iloc[np.clip(_begun(steps.start_s.to_numpy(), at) - 1, 0, None)]
    running = np.where(at < step.start_s + step.seconds, step.running, 0)
    return _begun(requests.scheduled_s.to_numpy(), at) - _begun(requests.last_token_s.to_numpy(), at) - running


def describe(values: Array) -> dict[str, float]:
    percentiles = {name: float(np.percentile(values, int(name[1:]))) for name in STATISTICS[1:]}
    return {"mean": float(values.mean()), **percentiles}


def compare(run: Recorded, gpu: str) -> dict[str, Any]:
    """Simulate the run; real and simulated figures side by side."""
    report = rakka_sim.run(scenario(run, gpu), progress=False)
    real = run.latencies
    figures: dict[str, Any] = {}
    for name, values in real.items():
        ours, theirs = describe(report.requests[name].dropna().to_numpy()), describe(values)
        figures[name] = {
            which: {"real": theirs[which], "simulated": ours[which], "error": ours[which] / theirs[which] - 1}
            for which in STATISTICS
        }
    length = {"real": float(run.last_token.max()), "simulated": float(report.summary()["simulated_s"])}
    seen = run.preempted()
    ours_seen = preempted_in(report, len(seen))
    return {
        **figures,
        "makespan_s": {**length, "error": length["simulated"] / length["real"] - 1},
        "preempted_requests_mean": {"real": float(seen.mean()), "simulated": float(ours_seen.mean())},
        "preempted_requests_max": {"real": int(seen.max()), "simulated": int(ours_seen.max())},
        "preemptions_simulated": int(report.summary()["preemptions"]),
        "kv_blocks": report.log.replicas[0].kv_blocks,
        "requests": len(report.requests),
    }


def show(gpu: str, case: dict[str, Any]) -> None:
    print(f"\n{gpu}: {case['requests']} requests, {case['kv_blocks']:,} KV blocks, real / simulated / error")
    for name in ("ttft_ms", "tpot_ms", "e2e_ms"):
        cells = "".join(
            f"{part['real']:13,.1f} {part['simulated']:10,.1f} {part['error']:+7.1%}" for part in case[name].values()
        )
        print(f"  {name:8s}{cells}")
    span = case["makespan_s"]
    print(f"  whole run {span['real']:.1f} s / {span['simulated']:.1f} s / {span['error']:+.1%}; ", end="")
    mean, most = case["preempted_requests_mean"], case["preempted_requests_max"]
    print(f"{case['preemptions_simulated']} preemptions simulated; preempted and not yet back: ", end="")
    print(f"mean {mean['real']:.1f} / {mean['simulated']:.1f}, most {most['real']} / {most['simulated']}")


def main() -> None:
    """Both runs, as far as they are there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=about.recorded_data() / "vllm_runs", help="folder of the runs")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    print(" " * 10 + "".join(f"{name:>32s}" for name in STATISTICS))
    cases = {}
    for gpu, folder in GPUS.items():
        if (options.data / folder / "requests.jsonl").is_file():
            cases[gpu] = compare(Recorded.read(options.data / folder), gpu)
            show(gpu, cases[gpu])
        else:
            print(f"{gpu}: skipped, no {options.data / folder}")
    if options.json:
        about.write(options.json, "replay_vllm", cases, SEED)


if __name__ == "__main__":
    main()
