"""Texts that occur often, as small numbers; nothing here knows what they name."""

from __future__ import annotations

from typing import Any

import numpy as np

from rakka_sim.records.rows import Array


class Names:
    """Texts by number, in order of first use."""

    __slots__ = ("_codes",)

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return Names, (), self._codes

    def __setstate__(self, codes: dict[str, int]) -> None:
        self._codes = codes

    def code(self, name: str) -> int:
        code = self._codes.get(name)
        if code is None:
            code = self._codes[str(name)] = len(self._codes)
        return code

    def sorted(self) -> tuple[str, ...]:
        return tuple(sorted(self._codes))

    def rank(self) -> Array:
        """Each code's place among the sorted names."""
        places = {name: place for place, name in enumerate(self.sorted())}
        return np.array([places[name] for name in self._codes], dtype=np.int32)
