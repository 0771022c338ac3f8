"""Real vLLM runs replayed with their own settings and their GPUs' own kernels: how near the simulation is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
BENCHMARK = ROOT / "benchmarks" / "accuracy.py"
FOUND = {"RTX 4090": 2587, "RTX PRO 6000": None}  # KV blocks, where the run says how many there were


def asked(data: Path, out: Path) -> dict[str, Any]:
    command = [sys.executable, str(BENCHMARK), "--data", str(data), "--no-silicon", "--json", str(out)]
    print(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    found: dict[str, Any] = json.loads(out.read_text("utf-8"))
    return found


@pytest.fixture(scope="module")
def found(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the benchmark wrote; its table goes to the captured output."""
    return asked(shared_data, tmp_path_factory.mktemp("replay") / "figures.json")


def test_the_document_says_where_it_comes_from(found: dict[str, Any]) -> None:
    assert {"machine", "versions", "commit", "seed", "runs", "mean_abs_error_pct"} <= set(found)
    for name in FOUND:
        assert found["facts"][name]["requests"] == 300
        assert found["facts"][name]["kv_blocks"] == FOUND[name] or FOUND[name] is None
        for part in (found["runs"][name][metric][of] for metric in ("ttft", "tpot", "e2e") for of in ("mean", "p99")):
            assert part["error_pct"] == pytest.approx((part["sim"] / part["real"] - 1) * 100)


def test_measured_kernels_bring_the_latencies_to_the_recorded_ones(found: dict[str, Any]) -> None:
    """The bounds leave room above what is reached: a change of the scheduler that costs a per cent shows here."""
    assert found["mean_abs_error_pct"] < 2.0
    for name in FOUND:
        for metric in ("tpot", "e2e", "ttft"):
            assert abs(found["runs"][name][metric]["mean"]["error_pct"]) < 3.0


def test_no_data_at_all_is_near_too(found: dict[str, Any]) -> None:
    for name in FOUND:
        for metric in ("tpot", "e2e"):
            assert abs(found["runs"][f"{name} (roofline)"][metric]["mean"]["error_pct"]) < 12.0


def test_requests_are_preempted_where_they_really_were(found: dict[str, Any]) -> None:
    """The RTX 4090 had too few blocks and preempted, by its own time series; the RTX PRO 6000 had enough."""
    short, ample = (found["facts"][name] for name in FOUND)
    assert short["preemptions_sim"] > 20
    for of in ("preempted_max", "preempted_mean"):
        assert short[of]["sim"] == pytest.approx(short[of]["real"], rel=0.5)
    assert ample["preemptions_sim"] == 0
    assert ample["preempted_max"]["real"] <= 2  # what is left of reading two clocks


def test_kv_blocks_run_out_as_they_really_did(shared_data: Path) -> None:
    """The series that the preemptions above are read from: the cache was full for minutes, and was the bottleneck."""
    series = np.genfromtxt(
        shared_data / "vllm_runs" / "RTX4090-Llama-3.1-8B" / "timeseries.csv", delimiter=",", names=True
    )
    assert np.median(series["kv_cache_pct"]) > 90


def test_without_the_runs_the_benchmark_says_so(tmp_path: Path) -> None:
    nothing = asked(tmp_path, tmp_path / "figures.json")
    assert nothing["runs"] == {}
    assert nothing["mean_abs_error_pct"] is None
