"""The speed benchmark and the page made from it: run in small, so that neither is broken on the day it is wanted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def script(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(BENCHMARKS / name), *arguments], capture_output=True, text=True)


def test_the_benchmark_says_what_it_measured_and_the_page_shows_it(tmp_path: Path) -> None:
    results = tmp_path / "simulate.json"
    done = script("simulate.py", "poisson_8", "--quick", "--json", str(results))
    assert done.returncode == 0, done.stderr
    found = json.loads(results.read_text("utf-8"))
    case = found["cases"]["poisson_8"]
    assert {"requests_per_s", "x_real_time", "peak_mib", "wall_s"} <= case.keys()
    assert case["requests"] == case["completed"] == 2_000
    assert {"machine", "versions", "commit", "seed"} <= found.keys()
    page = tmp_path / "performance.md"
    done = script("write_performance.py", "--results", str(tmp_path), "--out", str(page))
    assert done.returncode == 0, done.stderr
    assert f"`poisson_8`) | 2,000 | {case['requests_per_s']:,.0f} |" in page.read_text("utf-8")


def test_an_unknown_case_and_missing_results_are_told(tmp_path: Path) -> None:
    done = script("simulate.py", "azure")
    assert done.returncode == 2
    assert "no case 'azure'; there are azure_conv_4" in done.stderr
    done = script("write_performance.py", "--results", str(tmp_path))
    assert done.returncode == 2
    assert "run benchmarks/simulate.py" in done.stderr
