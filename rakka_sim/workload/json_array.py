"""Reads a JSON array of objects one by one, whatever the file's size; what an object means may not be known here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from rakka_sim.errors import TraceError

_BLOCK = 1 << 20


def json_array(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line it begins on, object) of each element. Raises TraceError, also if there is none."""
    with path.open(encoding="utf-8-sig") as file:
        yield from _Array(str(path), file).objects()


class _Array:
    """A window on the text: what is before `_at` is done with, what is behind the window is not read yet."""

    __slots__ = ("_at", "_ended", "_file", "_line", "_name", "_text")

    def __init__(self, name: str, file: TextIO) -> None:
        self._name, self._file = name, file
        self._text, self._at, self._line = "", 0, 1
        self._ended = False

    def objects(self) -> Iterator[tuple[int, dict[str, Any]]]:
        self._take("[", "a JSON array")
        while True:
            if self._next() != "{":
                raise self._fault("a JSON object, as every element")
            line = self._line
            yield line, self._object()
            if self._next() == "]":
                return
            self._take(",", "a comma or the array's end")

    def _take(self, sign: str, allowed: str) -> None:
        if self._next() != sign:
            raise self._fault(allowed)
        self._at += 1

    def _next(self) -> str:
        """The next sign that is not blank, without taking it; '' at the end."""
        while True:
            rest = len(self._text)
            while self._at < rest and self._text[self._at] in " \t\r\n":
                self._line += self._text[self._at] == "\n"
                self._at += 1
            if self._at < rest:
                return self._text[self._at]
            if self._ended:
                return ""
            self._read()

    def _object(self) -> dict[str, Any]:
        while True:
            try:
                found, end = json.JSONDecoder().raw_decode(self._text, self._at)
            except json.JSONDecodeError:
                # Either it is malformed or the window ends inside it: only the rest of the file can tell.
                if self._ended:
                    raise self._fault("well-formed JSON up to the array's end") from None
                self._read()
            except (ValueError, RecursionError):
                raise self._fault("JSON of ordinary depth and numbers") from None
            else:
                self._line += self._text.count("\n", self._at, end)
                self._at = end
                return dict(found)

    def _read(self) -> None:
        rest = self._text[self._at :]
        try:
            new = self._file.read(max(_BLOCK, len(rest)))
        except UnicodeDecodeError:
            raise self._fault("UTF-8 text") from None
        self._ended = not new
        self._text, self._at = rest + new, 0

    def _fault(self, allowed: str) -> TraceError:
        return TraceError(self._name, self._line, "element", self._text[self._at : self._at + 40], allowed)
