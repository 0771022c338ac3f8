"""`benchmarks/kernels.py` without a GPU: it says that it needs one; all but its clock runs, over kernels only built."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from engines.torch.ahead import compiled

from benchmarks import kernels as benchmark
from rakka_sim.config.gpus import gpu

pytest.importorskip("triton", reason="Triton is not installed: it is for Linux alone")
SCRIPT = Path(benchmark.__file__)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_it_says_that_it_needs_a_gpu(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "needs a CUDA device" in done.stdout
    file = tmp_path / "figures.json"
    refused = subprocess.run([sys.executable, str(SCRIPT), "--json", str(file)], capture_output=True, text=True)
    assert refused.returncode == 1
    assert not file.exists()


def test_bytes_and_flops_by_hand() -> None:
    rows = benchmark.Rows(2, 3, 4, heads=8, kv_heads=2, head_dim=16)
    assert rows.kv_bytes == 2 * 7 * 2 * 2 * 16 * 2  # rows, tokens, keys and values, heads, elements, bytes
    # Three queries see 5, 6 and 7 keys; a key costs a multiplication and an addition an element, and so does its value.
    assert rows.flops == 2 * 8 * (5 + 6 + 7) * 16 * 2 * 2


def test_every_case_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in (("HIDDEN", 64), ("WIDTH", 64), ("VOCABULARY", 500), ("COLD_BYTES", 1)):
        monkeypatch.setattr(benchmark, name, value)
    monkeypatch.setattr(benchmark, "MATRICES", {"qkv": (96, 64)})
    monkeypatch.setattr(benchmark, "DRAWS", {"top_p": (1, 0, 0.9)})
    decode = benchmark.Rows(2, 1, 31)
    monkeypatch.setattr(benchmark, "DECODE", [decode])
    monkeypatch.setattr(benchmark, "SEARCHED", [decode])
    monkeypatch.setattr(benchmark, "PREFILL", [benchmark.Rows(1, 20, 12)])
    monkeypatch.setattr(benchmark, "DECODE_AXES", {"page": [16, 32], "head_first": [True], "segments": [1]})
    monkeypatch.setattr(benchmark, "PREFILL_AXES", {"stages": [2]})
    calls = []

    def clock(call: benchmark.Call, copies: int) -> float:
        """Each measurement is quicker than the one before, so that a search goes on to its end."""
        calls.append([call(copy) for copy in range(copies)])
        return 1.0 / len(calls)

    with compiled(90, tmp_path):
        figures = dict(benchmark.measure(benchmark.Bench("cpu", clock, gpu("H100"), 3e12), quick=False))
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
    (found,) = figures["decode"]
    assert found["gb_per_s"] == pytest.approx(decode.kv_bytes / found["us"] / 1e3)
    assert found["of_datasheet"] == pytest.approx(decode.kv_bytes / found["us"] * 1e6 / 3350e9)
    few, many = figures["linear"][0], figures["linear"][-1]
    assert few["gb_per_s"] == pytest.approx(2 * 96 * 64 / (few["us"] * 1e3))
    assert many["tflop_per_s"] == pytest.approx(2 * 96 * 64 * 2048 / (many["us"] * 1e6))
    (best,) = figures["decode_search"].values()
    assert (best["tiling"]["head_first"], best["tiling"]["segments"]) == (True, 1)
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("rms_norm", "silu_mul", "rope_store", "sample, top_p", "best"))


def test_a_search_without_time_stays_with_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = benchmark.Bench("cpu", lambda call, copies: 1.0, gpu("H100"), 3e12, until=0.0)
    monkeypatch.setattr(benchmark.Bench, "attend", lambda self, rows, cut=None: (1.0, cut or Cut()))
    found = bench.search(benchmark.Rows(2, 1, 31), benchmark.DECODE_AXES, rounds=2)
    assert found["out_of_time"]
    assert (found["tiling"]["page"], found["best_us"]) == (16, found["default_us"])


@dataclass(frozen=True)
class Cut:
    tile: int = 64


def test_tables_of_another_device_are_not_kept(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    assert benchmark.kept(file, "NVIDIA H200") == {}
    file.write_text(json.dumps({"cases": {"device": {"name": "NVIDIA H200"}, "decode": [1]}}), "utf-8")
    assert benchmark.kept(file, "NVIDIA H200")["decode"] == [1]
    assert benchmark.kept(file, "NVIDIA H100 80GB HBM3") == {}
