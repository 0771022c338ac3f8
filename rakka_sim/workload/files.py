"""Reads text files row by row and knows the line of each; what a row means may not be known here.

Lines may end in LF or CRLF, the last one in nothing; blank lines are passed over; a byte order mark too. The text is
UTF-8. Every fault is a TraceError with the line, or an InputError for a file that cannot be opened at all.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rakka_sim.errors import InputError, TraceError


def open_checked(path: Path, where: str) -> Path:
    """The path, if a file is there that can be read; `where` is the key that named it. Raises InputError."""
    try:
        with path.open("rb"):
            return path
    except (OSError, ValueError) as error:  # the latter for a name with a zero byte
        reason = getattr(error, "strerror", None) or error
        raise InputError(where, str(path), f"a file that can be read ({reason})") from None


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text without its end) of each line that is not blank. Raises TraceError if there is none."""
    empty = True
    with path.open("rb") as file:
        for line, raw in enumerate(file, 1):
            try:
                text = raw.decode("utf-8-sig" if line == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError:
                raise TraceError(str(path), line, "line", raw[:40], "UTF-8 text") from None
            if text and not text.isspace():
                empty = False
                yield line, text
    if empty:
        raise TraceError(str(path), 1, "line", "", "at least one row: the file is empty")


def csv_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """(line, the cells of `columns`) of each row under the header. Raises TraceError, also if there is no row."""
    name, last = str(path), 0

    def texts() -> Iterator[str]:
        nonlocal last
        for line, text in lines(path):
            last = line
            yield text

    rows = csv.reader(texts(), strict=True)
    try:
        header = [cell.strip() for cell in next(rows)]
        for column in columns:
            if column not in header:
                raise TraceError(
                    name, last, column, ",".join(header), f"a header with the columns {', '.join(columns)}"
                )
        places = [header.index(column) for column in columns]
        first = last
        for cells in rows:
            if len(cells) != len(header):
                raise TraceError(name, last, "row", ",".join(cells), f"{len(header)} fields, as in the header")
            yield last, [cells[place] for place in places]
    except csv.Error as error:
        raise TraceError(name, last, "row", str(error), "a row of comma-separated values") from None
    if last == first:
        raise TraceError(name, last + 1, "row", "", "at least one row under the header")


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, object) of each line."""
    for line, text in lines(path):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            raise TraceError(str(path), line, "line", text[:80], "one JSON object a line") from None
        if not isinstance(found, dict):
            raise TraceError(str(path), line, "line", text[:80], "one JSON object a line")
        yield line, found
