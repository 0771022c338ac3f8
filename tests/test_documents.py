"""Documents that are written from figures say what the figures say."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def test_accuracy_is_what_its_figures_give(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import accuracy_doc

    try:
        assert accuracy_doc.document(RESULTS) == (ROOT / "docs" / "accuracy.md").read_text("utf-8")
    finally:
        for name in ("accuracy_doc", "about"):
            sys.modules.pop(name, None)
