"""Documents that are written from figures say what the figures say, and the code in the README runs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from rakka_sim.config.gpus import gpu
from rakka_sim.config.models import model_spec
from rakka_sim.timing.api import StepShape
from rakka_sim.timing.roofline import Roofline

ROOT = Path(__file__).resolve().parents[1]


def test_accuracy_is_what_its_figures_give(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "accuracy_doc.py"), "--out", str(tmp_path / "accuracy.md")]
    subprocess.run(command, check=True, capture_output=True, text=True)
    assert (tmp_path / "accuracy.md").read_text("utf-8") == (ROOT / "docs" / "accuracy.md").read_text("utf-8")


def _measured_steps() -> str:
    """Decode steps of all batches up to 60, as long as the roofline says: what a user would have measured."""
    roof = Roofline(model_spec("Llama-3.1-8B"), gpu("H200"))
    rows = [
        {"prefill": [], "decode_seqs": n, "decode_context": n * 500, "decode_max": 500, "samples": n}
        for n in range(1, 61)
    ]
    return "".join(
        json.dumps(row | {"seconds": roof.seconds(StepShape((), *list(row.values())[1:]))}) + "\n" for row in rows
    )


@pytest.mark.slow
def test_the_code_in_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    (tmp_path / "scenarios").symlink_to(ROOT / "scenarios")
    (tmp_path / "steps.jsonl").write_text(_measured_steps())
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)
    plt.close("all")
    assert len(blocks) == 5
    assert names["fitted"].holdout["median_abs_pct"] < 5  # type: ignore[attr-defined]
    assert {"report", "four", "rack"} <= set(names)
