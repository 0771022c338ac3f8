"""Azure LLM inference traces: CSV with ``TIMESTAMP,ContextTokens,GeneratedTokens``; no other format.

Time stamps have up to nine decimals (2023: seven) and, in 2024, a zone of ``+00:00``; they must ascend. A row without
generated tokens is an error: a request yields at least one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache
from pathlib import Path

from rakka_sim.errors import TraceError
from rakka_sim.workload.fields import Clock, tokens_from_text
from rakka_sim.workload.files import csv_rows
from rakka_sim.workload.readers.row import Row, Tally

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")

_STAMP = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(?:\+00:00|Z)?", re.ASCII)


def rows(path: Path, timed: bool, tally: Tally) -> Iterator[Row]:
    """The requests of the file; without `timed` no time stamp is read."""
    file = str(path)
    clock = Clock(file, COLUMNS[0], per_second=10**9)
    for line, (stamp, context, generated) in csv_rows(path, COLUMNS):
        yield Row(
            tokens_from_text(file, line, COLUMNS[1], context),
            tokens_from_text(file, line, COLUMNS[2], generated),
            at=clock.seconds(line, _nanoseconds(file, line, stamp), stamp) if timed else 0.0,
        )


def _nanoseconds(file: str, line: int, stamp: str) -> int:
    # Neither a float nor a datetime holds seven decimals of today's date: integers do.
    found = _STAMP.fullmatch(stamp)
    try:
        date, hours, minutes, seconds, fraction = found.groups() if found else ("", "", "", "", "")
        clock = int(hours) * 3600 + int(minutes) * 60 + int(seconds)
        if int(hours) > 23 or int(minutes) > 59 or int(seconds) > 59:
            raise ValueError
        whole = _day(date) * 86_400 + clock
    except ValueError:
        raise TraceError(file, line, COLUMNS[0], stamp, "a time such as 2023-11-16 18:15:46.6805900") from None
    return whole * 10**9 + int((fraction or "").ljust(9, "0"))


@lru_cache(maxsize=64)
def _day(date: str) -> int:
    return datetime.fromisoformat(date).toordinal()
