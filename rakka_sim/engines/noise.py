"""How single steps scatter about a time model: draws by step number, so that a run of steps has those of its steps."""

from __future__ import annotations

from typing import Any

import numpy as np

_Array = np.ndarray[Any, np.dtype[np.float64]]


class Noise:
    """Factors about 1 from even quantiles of relative residuals; step `n` of a key always draws the same."""

    __slots__ = ("_key", "_levels", "_residuals", "done")

    def __init__(self, residuals: tuple[float, ...]) -> None:
        self._residuals = np.asarray(residuals, dtype=np.float64)
        self._levels = np.linspace(0.0, 1.0, len(residuals))
        self._key: int | None = None
        self.done = 0  # steps that have run

    def factors(self, steps: int, rng: np.random.Generator) -> _Array:
        """Those of the next `steps`; they are used up only by adding to `done`."""
        if self._key is None:
            self._key = int(rng.integers(1 << 63))
        with np.errstate(over="ignore"):
            x = np.uint64(self._key) + np.arange(self.done + 1, self.done + steps + 1, dtype=np.uint64) * np.uint64(
                0x9E3779B97F4A7C15
            )
            # splitmix64: a counter to a uniform
            x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        uniform = ((x ^ (x >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53
        factors: _Array = 1.0 + np.interp(uniform, self._levels, self._residuals)
        return factors
