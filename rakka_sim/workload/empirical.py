"""Reads pairs of lengths to draw from; drawing itself is in `lengths`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from rakka_sim.config.workload import EmpiricalLengths
from rakka_sim.errors import InputError, TraceError
from rakka_sim.workload.fields import tokens_from_json, tokens_from_text
from rakka_sim.workload.files import csv_rows, json_lines, open_checked
from rakka_sim.workload.readers import sharegpt
from rakka_sim.workload.readers.row import Tally

Pairs = np.ndarray[tuple[int, int], np.dtype[np.int64]]


def read_pairs(lengths: EmpiricalLengths, base_dir: Path) -> Pairs:
    """(prompt, output) rows, by the file's suffix. Raises InputError or TraceError."""
    path = base_dir / lengths.file
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError("workload.lengths.file", lengths.file, f"a file ending in {', '.join(_READERS)}")
    open_checked(path, "workload.lengths.file")
    flat = np.fromiter((n for pair in reader(path, lengths) for n in pair), dtype=np.int64)
    if not len(flat):
        raise TraceError(str(path), 1, "row", "", "at least one pair of lengths")
    return flat.reshape(-1, 2)


def _csv(path: Path, lengths: EmpiricalLengths) -> Iterator[tuple[int, int]]:
    file, names = str(path), (lengths.prompt, lengths.output)
    for line, cells in csv_rows(path, names):
        prompt, output = (tokens_from_text(file, line, name, cell) for name, cell in zip(names, cells, strict=True))
        yield prompt, output


def _jsonl(path: Path, lengths: EmpiricalLengths) -> Iterator[tuple[int, int]]:
    file = str(path)
    for line, row in json_lines(path):
        yield tokens_from_json(file, line, lengths.prompt, row), tokens_from_json(file, line, lengths.output, row)


def _sharegpt(path: Path, lengths: EmpiricalLengths) -> Iterator[tuple[int, int]]:
    for row in sharegpt.rows(path, False, Tally()):
        yield row.prompt, row.output


_READERS: dict[str, Callable[[Path, EmpiricalLengths], Iterator[tuple[int, int]]]] = {
    ".csv": _csv,
    ".jsonl": _jsonl,
    ".json": _sharegpt,
}
