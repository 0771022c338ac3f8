"""BurstGPT traces: CSV read by the names ``Timestamp`` (s), ``Request tokens``, ``Response tokens``; no other format.

The order of the columns differs between v1.1 and v1.2, so it does not count. Rows with 0 response tokens are failed
requests: they are skipped and counted. Time stamps must ascend.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rakka_sim.workload.fields import Clock, time_from_text, tokens_from_text
from rakka_sim.workload.files import csv_rows
from rakka_sim.workload.readers.row import Row, Tally

COLUMNS = ("Timestamp", "Request tokens", "Response tokens")


def rows(path: Path, timed: bool, tally: Tally) -> Iterator[Row]:
    """The requests of the file that did not fail; without `timed` no time stamp is read."""
    file = str(path)
    clock = Clock(file, COLUMNS[0])
    for line, (stamp, request, response) in csv_rows(path, COLUMNS):
        output = tokens_from_text(file, line, COLUMNS[2], response, least=0)
        prompt = tokens_from_text(file, line, COLUMNS[1], request, least=0 if output == 0 else 1)
        at = clock.seconds(line, time_from_text(file, line, COLUMNS[0], stamp), stamp) if timed else 0.0
        if output == 0:
            tally.skipped += 1
        else:
            yield Row(prompt, output, at=at)
