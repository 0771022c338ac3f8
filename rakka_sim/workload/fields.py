"""From a cell's text or a JSON value to tokens and times; which columns there are may not be known here.

What cannot be one is a TraceError with file, line, field, the value, and what is allowed.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

from rakka_sim.config.base import MAX_SECONDS
from rakka_sim.config.workload import MAX_TOKENS
from rakka_sim.errors import TraceError


def tokens_from_text(file: str, line: int, field: str, text: str, least: int = 1) -> int:
    """A number of tokens in decimal digits."""
    digits = text.strip()
    # `int` alone would also take "1_0", "+5" and the digits of other scripts.
    if digits.isascii() and digits.isdigit() and len(digits) <= 10 and least <= int(digits) <= MAX_TOKENS:
        return int(digits)
    raise TraceError(file, line, field, text, f"an integer from {least} to {MAX_TOKENS}")


def tokens_from_json(file: str, line: int, field: str, row: Mapping[str, Any], least: int = 1) -> int:
    """A number of tokens as a JSON integer."""
    value = row.get(field)
    if type(value) is int and least <= value <= MAX_TOKENS:
        return value
    shown = value if field in row else "(nothing)"
    raise TraceError(file, line, field, shown, f"an integer from {least} to {MAX_TOKENS}")


def time_from_text(file: str, line: int, field: str, text: str) -> float:
    """A time in whatever unit the field has, zero or more."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if isfinite(value) and value >= 0 and "_" not in text:
        return value
    raise TraceError(file, line, field, text, "a number, 0 or more")


def time_from_json(file: str, line: int, field: str, row: Mapping[str, Any]) -> float:
    """A time in whatever unit the field has, zero or more; integers stay exact."""
    value = row.get(field)
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 2**63:  # NaN is not
        return value
    raise TraceError(file, line, field, value if field in row else "(nothing)", "a number, 0 or more")


class Clock:
    """Times of a trace's rows as seconds since its first row; later rows may not go back."""

    __slots__ = ("_field", "_file", "_first", "_last", "_per_second")

    def __init__(self, file: str, field: str, per_second: int = 1) -> None:
        self._file, self._field, self._per_second = file, field, per_second
        self._first: float | None = None
        self._last: float = 0

    def seconds(self, line: int, at: float, shown: object) -> float:
        """`at` in the trace's own unit; `shown` is what stands in the file. Raises TraceError."""
        if self._first is None:
            self._first = at
        elif at < self._last:
            raise TraceError(self._file, line, self._field, shown, "a time not before the row above (sort the file)")
        self._last = at
        since = (at - self._first) / self._per_second
        if since > MAX_SECONDS:
            raise TraceError(self._file, line, self._field, shown, f"at most {MAX_SECONDS:g} s after the first row")
        return since
