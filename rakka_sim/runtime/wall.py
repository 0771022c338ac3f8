"""The wall clock for those who report how long something took; nothing may decide anything by it."""

from __future__ import annotations

import time


def instant() -> float:
    """Seconds since some moment, the same for all processes of this machine, as `LiveRuntime` counts them."""
    return time.monotonic()


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._start
