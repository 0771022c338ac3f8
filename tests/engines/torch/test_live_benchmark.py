"""`benchmarks/live.py` on a CPU: parts run alone, their figures join in one file, and what fails is told and no end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.slow


def run(file: Path, *options: str) -> tuple[int, dict[str, Any]]:
    command = [sys.executable, str(ROOT / "benchmarks" / "live.py"), "--device", "cpu", "--quick", "--json", str(file)]
    done = subprocess.run([*command, *options], capture_output=True, text=True)
    assert file.exists(), done.stderr
    return done.returncode, json.loads(file.read_text("utf-8"))


def test_slices_come_to_one_file(tmp_path: Path) -> None:
    file = tmp_path / "live.json"
    code, first = run(file, "--only", "decode")
    assert code == 0
    assert [one["batch"] for one in first["cases"]["found"]] == [1, 8]
    for one in first["cases"]["found"]:
        assert one["share_of_bound"] == pytest.approx(one["bound_ms"] / one["step_ms"])
    code, both = run(file, "--only", "prefill", "--update")
    assert code == 0
    assert [one["part"] for one in both["cases"]["found"]] == ["decode"] * 2 + ["prefill"] * 2
    assert both["cases"]["found"][:2] == first["cases"]["found"]
    # Measured again, a part is replaced.
    _, again = run(file, "--only", "decode", "--update")
    assert [one["part"] for one in again["cases"]["found"]] == ["prefill"] * 2 + ["decode"] * 2


def test_what_fails_is_told_and_the_next_part_begins(tmp_path: Path) -> None:
    code, found = run(tmp_path / "live.json", "--only", "decode", "--only", "prefill", "--dtype", "complex64")
    assert code == 1
    assert [(one["part"], one["error"].split(":")[0]) for one in found["cases"]["found"]] == [
        ("decode", "NotBuilt"),
        ("prefill", "NotBuilt"),
    ]
