"""Documents that are written from figures say what the figures say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_accuracy_is_what_its_figures_give(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "accuracy_doc.py"), "--out", str(tmp_path / "accuracy.md")]
    subprocess.run(command, check=True, capture_output=True, text=True)
    assert (tmp_path / "accuracy.md").read_text("utf-8") == (ROOT / "docs" / "accuracy.md").read_text("utf-8")
