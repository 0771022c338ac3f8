"""What open and closed loops have in common; when requests arrive may not be decided here."""

from __future__ import annotations

from math import inf

from rakka_sim.config.workload import WorkloadConfig
from rakka_sim.workload.readers.trace import TraceFile
from rakka_sim.workload.requests import Requests


class Loop:
    """A source's requests, its end, and what is known of its size."""

    __slots__ = ("_requests", "_trace", "_until", "total")

    def __init__(self, config: WorkloadConfig, requests: Requests, trace: TraceFile | None, total: int | None) -> None:
        self._requests = requests
        self._trace = trace
        self._until = config.duration_s if config.duration_s is not None else inf
        self.total = total

    @property
    def skipped(self) -> int:
        """Rows of the trace left out so far."""
        return self._trace.skipped if self._trace else 0

    def number(self, first_id: int, stride: int) -> None:
        """Number everything ``first_id + n * stride``; only before the first `pop`."""
        self._requests.number(first_id, stride)
