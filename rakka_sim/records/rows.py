"""Rows of numbers, cheap to append and read as numpy; nothing here knows what they mean."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_NUMPY = {"d": "<f8", "q": "<i8", "i": "<i4"}


class Rows:
    """A growing table; `fields` maps a name to its code: d (float), q (64-bit integer) or i (32-bit integer)."""

    __slots__ = ("_data", "_dtype", "_format")

    def __init__(self, fields: Mapping[str, str]) -> None:
        self._format = "<" + "".join(fields.values())
        self._dtype = np.dtype([(name, _NUMPY[code]) for name, code in fields.items()])
        self._data = bytearray()

    def append(self, *values: float) -> None:
        self._data += struct.pack(self._format, *values)

    def array(self) -> Array:
        """The rows so far as a structured array: a copy, because a view would forbid the next append."""
        return np.frombuffer(bytes(self._data), self._dtype)


def frozen(column: Array) -> Array:
    """The same array, closed to writing: columns are handed out to many."""
    column.setflags(write=False)
    return column
