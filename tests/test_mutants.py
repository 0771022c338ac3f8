"""The list of mutants itself: a fault whose line is gone tests nothing. Whether tests notice it is not checked here."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

FOLDER = Path(__file__).parent / "mutants"
ROOT = FOLDER.parents[1]


def test_every_mutant_finds_its_line_exactly_once() -> None:
    sys.path.insert(0, str(FOLDER))
    try:
        every = import_module("run").every()
    finally:
        sys.path.remove(str(FOLDER))
    files = {file: (ROOT / file).read_text("utf-8") for _, file, _, _ in every}
    lost = [
        f"{file}: {text!r} {files[file].count(text)} times"
        for _, file, text, _ in every
        if files[file].count(text) != 1
    ]
    assert lost == []
    assert all(text != fault for _, _, text, fault in every)
