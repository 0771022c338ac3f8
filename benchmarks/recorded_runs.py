"""The real vLLM runs that simulations are held against: what was recorded, and the same run as a scenario.

A run's `arrival_time` is wall-clock time, its other stamps are monotonic. The least distance between a request's
arrival and its being queued in the engine is taken for the offset of the two clocks, so every latency counts from the
arrival, and the front end's own (unknown) least share is left out on both sides.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rakka_sim.report.report import Report

Array = np.ndarray[Any, Any]

GPUS = {"RTX 4090": "RTX4090-Llama-3.1-8B", "RTX PRO 6000": "RTXPRO6000-Llama-3.1-8B"}
TURNS = Path(__file__).parent / "data" / "sharegpt_300_turns.csv"
BLOCK = 16  # tokens
SETTINGS = ("max_num_seqs", "max_num_batched_tokens", "max_model_len", "dtype", "kv_cache_dtype")
SEED = 0


@dataclass(frozen=True)
class Recorded:
    """One real run; times in s since its first arrival."""

    folder: Path
    meta: dict[str, Any]
    prompt: Array
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
        return cls(folder, meta, of["input_toks"], arrival - arrival[0], scheduled, first, last, of["output_toks"])

    @property
    def latencies(self) -> dict[str, Array]:
        """In ms, by the definitions of a report; in the order of the file."""
        gaps = np.where(self.output > 1, self.output - 1, np.nan)
        return {
            "ttft": (self.first_token - self.arrival) * 1e3,
            "tpot": (self.last_token - self.first_token) / gaps * 1e3,
            "e2e": (self.last_token - self.arrival) * 1e3,
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


def turns(file: Path = TURNS) -> dict[int, tuple[int, int]]:
    """Request -> the earlier one that it begins like, and the number of tokens."""
    with file.open(encoding="utf-8", newline="") as lines:
        rows = csv.DictReader(line for line in lines if not line.startswith("#"))
        return {int(row["request"]): (int(row["continues"]), int(row["shared_tokens"])) for row in rows}


def block_ids(run: Recorded, shared: dict[int, tuple[int, int]]) -> list[list[int]]:
    """The blocks of every prompt: those that it shares with an earlier one, and others that are nobody else's."""
    found: list[list[int]] = []
    new = 0
    for number, prompt in enumerate(run.prompt):
        earlier, tokens = shared.get(number, (0, 0))
        blocks = found[earlier][: tokens // BLOCK] if tokens else []
        more = -(-int(prompt) // BLOCK) - len(blocks)
        found.append([*blocks, *range(new, new + more)])
        new += more
    return found


def write_trace(run: Recorded, shared: dict[int, tuple[int, int]], file: Path) -> None:
    """The run's requests as a trace whose prompts share those blocks."""
    with file.open("w", encoding="utf-8") as out:
        requests = zip(run.prompt, run.output, run.arrival, block_ids(run, shared), strict=True)
        for prompt, output, at, blocks in requests:
            row = {"timestamp": at * 1e3, "input_length": int(prompt), "output_length": int(output)}
            out.write(json.dumps({**row, "hash_ids": blocks}) + "\n")


def scenario(
    run: Recorded, gpu: str, time_model: dict[str, Any], overheads: dict[str, float], trace: Path, ahead: bool = True
) -> dict[str, Any]:
    """The run's own settings, with the requests of `trace`; the KV blocks as it resolved them, where it says so.

    One of the blocks that vLLM reports is its null block, which no request can hold. vLLM 0.19 schedules one step ahead
    unless told otherwise.
    """
    given = run.meta["engine_kwargs"]
    engine = {name: given[name] for name in SETTINGS if given[name] is not None}
    engine["async_scheduling"] = ahead
    blocks = run.meta.get("kv_cache", {}).get("num_gpu_blocks")
    if blocks is not None:
        engine["num_gpu_blocks"] = blocks - 1
    return {
        "name": f"vllm-{gpu}",
        "seed": SEED,
        "cluster": {"nodes": [{"name": "node", "gpu": gpu, "gpus": 1}]},
        "time_model": time_model,
        "deployment": [
            {
                "name": "llama-8b",
                "model": given["model"],
                "runtime_config": {**engine, **overheads},
                "serving": {"max_concurrent": run.meta["num_requests"]},
            }
        ],
        "workload": {
            "trace": {"format": "mooncake", "path": str(trace), "hashed_tokens": BLOCK},
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
