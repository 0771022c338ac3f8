"""JSON lines as vLLM benchmarks, LLMServingSim and our own records write them; no other format.

Names differ by tool: ``input_toks`` or ``prompt_tokens``, ``output_toks`` or ``output_tokens``, and ``arrival_time``
or ``arrival_s`` (s) or ``arrival_time_ns``; what the first row has, all rows must have. Token ids are not read, so
prompts share nothing. Arrivals must ascend. A row without output is an error: a request yields at least one token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rakka_sim.workload.fields import Clock, time_from_json, tokens_from_json
from rakka_sim.workload.files import json_lines
from rakka_sim.workload.readers.row import Row, Tally

PROMPT = ("input_toks", "prompt_tokens")
OUTPUT = ("output_toks", "output_tokens")
ARRIVAL = {"arrival_time": 1, "arrival_s": 1, "arrival_time_ns": 10**9}


def rows(path: Path, timed: bool, tally: Tally) -> Iterator[Row]:
    """The requests of the file; without `timed` no arrival is read."""
    file = str(path)
    prompt = output = arrival = ""
    clock: Clock | None = None
    for line, found in json_lines(path):
        if clock is None:
            prompt, output, arrival = (_present(names, found) for names in (PROMPT, OUTPUT, tuple(ARRIVAL)))
            clock = Clock(file, arrival, per_second=ARRIVAL[arrival])
        yield Row(
            tokens_from_json(file, line, prompt, found),
            tokens_from_json(file, line, output, found),
            at=clock.seconds(line, time_from_json(file, line, arrival, found), found[arrival]) if timed else 0.0,
        )


def _present(names: tuple[str, ...], found: Mapping[str, Any]) -> str:
    return next((name for name in names if name in found), names[0])
