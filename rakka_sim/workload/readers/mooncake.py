"""Mooncake traces: JSON lines with ``timestamp`` (ms), ``input_length``, ``output_length``, ``hash_ids``; no other.

Each hash stands for 512 tokens of the prompt (or as many as the workload says) and all before them, the last one for
what is left. Time stamps must ascend. A row without output is an error: a request yields at least one token.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rakka_sim.errors import TraceError
from rakka_sim.workload.content import HASHED_TOKENS
from rakka_sim.workload.fields import Clock, time_from_json, tokens_from_json
from rakka_sim.workload.files import json_lines
from rakka_sim.workload.readers.row import Row, Tally


def rows(path: Path, timed: bool, tally: Tally, hashed: int = HASHED_TOKENS) -> Iterator[Row]:
    """The requests of the file; without `timed` no time stamp is read."""
    file = str(path)
    clock = Clock(file, "timestamp", per_second=1000)
    for line, found in json_lines(path):
        prompt = tokens_from_json(file, line, "input_length", found)
        output = tokens_from_json(file, line, "output_length", found)
        blocks = _hashes(file, line, found.get("hash_ids"), -(-prompt // hashed), hashed)
        at = clock.seconds(line, time_from_json(file, line, "timestamp", found), found["timestamp"]) if timed else 0.0
        yield Row(prompt, output, blocks, at)


def _hashes(file: str, line: int, hashes: Any, wanted: int, hashed: int) -> tuple[int, ...]:
    if isinstance(hashes, list) and len(hashes) == wanted and all(type(h) is int and 0 <= h < 2**53 for h in hashes):
        return tuple(hashes)
    shown = f"{len(hashes)} entries" if isinstance(hashes, list) and len(hashes) != wanted else hashes
    allowed = f"a list of {wanted} integers from 0, one per {hashed} tokens of input_length"
    raise TraceError(file, line, "hash_ids", shown, allowed)
