"""The same seed and scenario, the same records: in any process, watched or not, and in another order of ties."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from scenarios.stacks import checked, play

import rakka_sim
from rakka_sim.runtime.api import Actor, Context
from rakka_sim.runtime.replay import Trace
from rakka_sim.runtime.sim import SimRuntime

ROOT = Path(__file__).resolve().parents[2]

# Conversations with shared prefixes on three tight replicas, some given up by their users, and a second stream beside.
MIXED: dict[str, Any] = {
    "name": "mixed",
    "seed": 7,
    "cluster": {"nodes": [{"name": "a", "gpu": "L40S", "gpus": 2}, {"name": "b", "gpu": "L40S", "gpus": 2}]},
    "deployment": [
        {
            "name": "m",
            "model": "Qwen3-0.6B",
            "replicas": 3,
            "runtime_config": {
                "num_gpu_blocks": 24,
                "max_num_seqs": 4,
                "max_num_batched_tokens": 64,
                "max_model_len": 512,
            },
        }
    ],
    "routing": {"policy": "prefix_affinity"},
    "workload": [
        {
            "requests": 60,
            "arrivals": {"kind": "gamma", "rate": 60.0, "burstiness": 0.3},
            "lengths": {
                "kind": "lognormal",
                "prompt": {"mean": 60, "cv": 1.0, "max": 200},
                "output": {"mean": 60, "cv": 1.0, "max": 150},
            },
            "prefix": {"groups": 3, "tokens": 40, "zipf": 1.0},
            "sessions": {"turns": {"kind": "geometric", "mean": 2.0}, "think_time_s": 0.05, "think_cv": 1.0},
            "timeout_s": 0.25,
        },
        {
            "requests": 40,
            "arrivals": {"kind": "closed", "concurrency": 5, "think_time_s": 0.01, "think_cv": 1.0},
            "lengths": {"kind": "fixed", "prompt": 30, "output": 12},
        },
    ],
}
POWER_OF_TWO = {"routing.policy": "power_of_two"}  # a policy that draws

DIGEST = "import json, sys, rakka_sim; print(rakka_sim.run(**json.load(sys.stdin)).digest)"


def digests_by_hash_seed(scenario: Any, overrides: dict[str, Any]) -> dict[str, str]:
    """The digest that a fresh process of each hash seed comes to."""
    asked = json.dumps({"scenario": scenario, "overrides": overrides})
    processes = {
        seed: subprocess.Popen(
            [sys.executable, "-c", DIGEST],
            env={**os.environ, "PYTHONHASHSEED": seed},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("0", "1", "random")
    }
    found = {seed: process.communicate(asked)[0].strip() for seed, process in processes.items()}
    assert all(process.returncode == 0 for process in processes.values())
    return found


def test_mixed_shows_what_it_is_for() -> None:
    summary = checked(rakka_sim.run(MIXED)).summary()
    assert summary["requests"] == 100
    assert set(summary["outcomes"]) == {"stop", "timeout"}
    assert summary["preemptions"] > 0
    assert summary["prefix_hit_rate"] > 0.1


def test_fresh_processes_agree_whatever_their_hash_seed() -> None:
    found = digests_by_hash_seed(MIXED, {})
    assert set(found.values()) == {rakka_sim.run(MIXED).digest}, found


def test_fresh_processes_agree_on_the_azure_trace(shared_data: Path) -> None:
    overrides = {"workload.trace.limit": 500, "workload.trace.data_dirs": [str(shared_data / "traces")]}
    found = digests_by_hash_seed(str(ROOT / "scenarios/azure_conv.toml"), overrides)
    assert len(set(found.values())) == 1, found
    assert len(found["0"]) == 64


@pytest.mark.parametrize("overrides", [{}, POWER_OF_TWO], ids=["affinity", "power of two"])
@pytest.mark.parametrize("shuffle", [None, 3])
def test_two_runs_have_the_same_messages(overrides: dict[str, Any], shuffle: int | None) -> None:
    trace = rakka_sim.assert_deterministic(MIXED, overrides=overrides, shuffle_ties=shuffle)
    assert trace != rakka_sim.assert_deterministic(MIXED, overrides=overrides, seed=8, shuffle_ties=shuffle)


def test_another_seed_is_another_run() -> None:
    first, same, other = (rakka_sim.run(MIXED, seed=seed) for seed in (7, None, 8))
    assert first.digest == same.digest != other.digest
    assert (first.seed, same.seed, other.seed) == (7, 7, 8)


class Observer(Actor):
    """Wakes up often, draws, and keeps what it sees to itself."""

    def started(self, ctx: Context) -> None:
        self.drawn = 0.0
        ctx.after(0.0073, "again")

    def receive(self, ctx: Context, msg: Any) -> None:
        self.drawn += ctx.rng.random()
        ctx.after(0.0073, "again")


@pytest.mark.parametrize("overrides", [{}, POWER_OF_TWO], ids=["affinity", "power of two"])
def test_who_only_watches_changes_nothing(overrides: dict[str, Any]) -> None:
    alone = play(MIXED, overrides=overrides)

    trace = Trace()
    watched = SimRuntime(7, trace=trace)
    observer = Observer()
    watched.spawn("observer", lambda: observer)

    def physics() -> Any:  # a SimPy process of the user's own
        while True:
            yield watched.env.timeout(0.0031)

    watched.env.process(physics())
    assert play(MIXED, overrides=overrides, system=watched).digest == alone.digest
    assert trace.count > 1_000
    assert observer.drawn > 1.0


def test_shuffled_ties_lose_and_forge_nothing() -> None:
    """Bursts at one instant, whose order is chance: other records, but the same requests with all their tokens."""
    burst = {
        "requests": 60,
        "arrivals": {"kind": "closed", "concurrency": 20},
        "lengths": {"kind": "fixed", "prompt": 30, "output": 25},
    }
    scenario = {**MIXED, "workload": burst, "routing": {"policy": "power_of_two"}}
    reports = [play(scenario, system=SimRuntime(7, shuffle_ties=shuffle)) for shuffle in range(6)]
    assert len({report.digest for report in reports}) > 1
    for report in reports:
        assert report.requests.output_tokens.tolist() == [25] * 60
        assert set(report.requests.outcome) == {"stop"}
    assert play(scenario, system=SimRuntime(7, shuffle_ties=0)).digest == reports[0].digest
