"""Rows of numbers, cheap to append and read as numpy; nothing here knows what they mean."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

ROOM = 128  # places to begin with

_NUMPY = {"d": "<f8", "q": "<i8", "i": "<i4"}


class Rows:
    """A growing table; `fields` maps a name to its code: d (float), q (64-bit integer) or i (32-bit integer)."""

    __slots__ = ("_data", "_fields", "_pack")

    def __init__(self, fields: Mapping[str, str], data: bytes = b"") -> None:
        self._fields = fields
        self._pack = struct.Struct("<" + "".join(fields.values())).pack
        self._data = bytearray(data)

    def __reduce__(self) -> tuple[Any, ...]:
        return Rows, (self._fields, bytes(self._data))

    def append(self, *values: float) -> None:
        self._data += self._pack(*values)

    def array(self) -> Array:
        """The rows so far as a structured array: a copy, because a view would forbid the next append."""
        dtype = np.dtype([(name, _NUMPY[code]) for name, code in self._fields.items()])
        return np.frombuffer(bytes(self._data), dtype)


class Floats:
    """A growing column of float64. What is read is no copy, and stays as it is: only room behind it is written to."""

    __slots__ = ("_count", "_data", "_seen")

    def __init__(self, values: Array | None = None) -> None:
        self._count = 0
        self._make_room(ROOM)
        if values is not None:
            self.extend(values)

    def __reduce__(self) -> tuple[Any, ...]:
        return Floats, (self.array(),)

    def __len__(self) -> int:
        return self._count

    def extend(self, values: Array) -> None:
        first, stop = self._count, self._count + len(values)
        if stop > len(self._data):
            self._make_room(2 * stop)  # what is not written to yet takes no memory
        self._data[first:stop] = values
        self._count = stop

    def array(self) -> Array:
        """All of it."""
        return self._seen[: self._count]

    def some(self, first: int, count: int) -> Array:
        """So many from a place on."""
        return self._seen[first : first + count]

    def _make_room(self, places: int) -> None:
        data = np.empty(places)
        if self._count:
            data[: self._count] = self.array()
        self._data = data
        self._seen = frozen(data.view())


def frozen(column: Array) -> Array:
    """The same array, closed to writing: columns are handed out to many."""
    column.setflags(write=False)
    return column
