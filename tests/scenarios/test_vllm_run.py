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
TURNS = ROOT / "benchmarks" / "data" / "sharegpt_300_turns.csv"
NOT_ASSIGNED = 32  # tokens of those that the authors' simulator has found in the cache
FOUND = {"RTX 4090": 2587, "RTX PRO 6000": None}  # KV blocks, where the run says how many there were


def asked(data: Path, out: Path) -> dict[str, Any]:
    command = [sys.executable, str(BENCHMARK), "--data", str(data), "--no-silicon", "--quick", "--json", str(out)]
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
    """The bounds are those asked for: a change of the scheduler that costs half a per cent shows here."""
    assert found["mean_abs_error_pct"] < 1.2
    assert found["largest_abs_error_pct"] < 5.0
    for name in FOUND:
        for metric in ("tpot", "e2e", "ttft"):
            assert abs(found["runs"][name][metric]["mean"]["error_pct"]) < 2.0


def turns() -> list[tuple[int, int, int]]:
    lines = [line for line in TURNS.read_text("utf-8").splitlines() if not line.startswith("#")]
    assert lines[0] == "request,continues,shared_tokens"
    return [(int(a), int(b), int(c)) for a, b, c in (line.split(",") for line in lines[1:])]


def test_each_turn_continues_an_earlier_one_by_whole_blocks() -> None:
    requests = [request for request, _, _ in turns()]
    assert requests == sorted(set(requests))
    for request, continues, shared in turns():
        assert 0 <= continues < request < 300
        assert shared > 0
        assert shared % 16 == 0


def test_turns_share_no_more_than_they_hold(shared_data: Path) -> None:
    """Nor the whole of a later prompt, and but for one that was edited all whole blocks of the earlier one."""
    file = shared_data / "vllm_runs" / "RTXPRO6000-Llama-3.1-8B" / "requests.jsonl"
    prompts = [json.loads(line)["input_toks"] for line in file.read_text("utf-8").splitlines()]
    for request, continues, shared in turns():
        assert shared < prompts[request]
        assert shared <= prompts[continues]
    assert sum(prompts[continues] - shared >= 16 for _, continues, shared in turns()) == 1


def test_as_many_tokens_are_found_in_the_cache_as_the_authors_simulator_found(found: dict[str, Any]) -> None:
    """All turns where nothing is evicted; a quarter of them where the cache is full for minutes."""
    ample, published = found["facts"]["RTX PRO 6000"], found["published_prefix_hits"]["hits"]
    assert ample["prefix_hits_sim"] == sum(shared for _, _, shared in turns()) == published - NOT_ASSIGNED
    assert 0 < found["facts"]["RTX 4090"]["prefix_hits_sim"] < ample["prefix_hits_sim"] / 2


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
