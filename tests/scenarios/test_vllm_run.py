"""Real vLLM runs replayed with their own settings. How near is the benchmark's to say; here, that it is near at all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
BENCHMARK = ROOT / "benchmarks" / "replay_vllm.py"
SANE = 0.3


@pytest.fixture(scope="module")
def cases(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the benchmark found, by GPU; its table goes to the captured output."""
    file = tmp_path_factory.mktemp("replay") / "figures.json"
    command = [sys.executable, str(BENCHMARK), "--data", str(shared_data / "vllm_runs"), "--json", str(file)]
    print(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    found: dict[str, Any] = json.loads(file.read_text("utf-8"))
    assert {"machine", "versions", "commit", "seed", "cases"} <= set(found)
    return found["cases"]


@pytest.mark.parametrize(("gpu", "blocks"), [("RTX 4090", 2588), ("RTX PRO 6000", None)])
def test_latencies_are_near_the_recorded_ones(cases: dict[str, Any], gpu: str, blocks: int | None) -> None:
    case = cases[gpu]
    assert case["requests"] == 300
    assert blocks in (None, case["kv_blocks"])
    for name in ("ttft_ms", "tpot_ms", "e2e_ms"):
        for which, part in case[name].items():
            real, simulated = part["real"], part["simulated"]
            print(f"{gpu} {name} {which}: {real:.1f} real, {simulated:.1f} simulated, {part['error']:+.1%}")
            assert part["error"] == pytest.approx(part["simulated"] / part["real"] - 1)
        assert abs(case[name]["mean"]["error"]) < SANE
    assert abs(case["makespan_s"]["error"]) < SANE


def test_requests_are_preempted_where_they_really_were(cases: dict[str, Any]) -> None:
    """The RTX 4090 had too few blocks and preempted, by its own time series; the RTX PRO 6000 had enough."""
    short, ample = cases["RTX 4090"], cases["RTX PRO 6000"]
    assert short["preemptions_simulated"] > 20
    assert short["preempted_requests_max"]["simulated"] == pytest.approx(
        short["preempted_requests_max"]["real"], rel=0.5
    )
    assert short["preempted_requests_mean"]["simulated"] == pytest.approx(
        short["preempted_requests_mean"]["real"], rel=0.5
    )
    assert ample["preemptions_simulated"] == 0
    assert ample["preempted_requests_max"]["real"] <= 2  # what is left of reading two clocks


def test_kv_blocks_run_out_as_they_really_did(shared_data: Path) -> None:
    """The series that the preemptions above are read from: the cache was full for minutes, and was the bottleneck."""
    series = np.genfromtxt(
        shared_data / "vllm_runs" / "RTX4090-Llama-3.1-8B" / "timeseries.csv", delimiter=",", names=True
    )
    assert np.median(series["kv_cache_pct"]) > 90


def test_without_the_runs_the_benchmark_says_so(tmp_path: Path) -> None:
    asked = [sys.executable, str(BENCHMARK), "--data", str(tmp_path), "--json", str(tmp_path / "figures.json")]
    said = subprocess.run(asked, check=True, capture_output=True, text=True).stdout
    assert said.count("skipped") == 2
    assert json.loads((tmp_path / "figures.json").read_text("utf-8"))["cases"] == {}
