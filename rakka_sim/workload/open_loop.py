"""The open loop: requests that arrive when they arrive, whatever the system does. No feedback may be here."""

from __future__ import annotations

from collections.abc import Iterator

from rakka_sim.config.workload import WorkloadConfig
from rakka_sim.errors import InvariantBroken
from rakka_sim.values import ExecuteBatch
from rakka_sim.workload.loop import Loop
from rakka_sim.workload.readers.trace import TraceFile
from rakka_sim.workload.requests import Requests


class OpenLoop(Loop):
    """Single requests at the given times."""

    __slots__ = ("_next", "_times")

    def __init__(
        self,
        config: WorkloadConfig,
        requests: Requests,
        trace: TraceFile | None,
        total: int | None,
        *,
        times: Iterator[float],
    ) -> None:
        super().__init__(config, requests, trace, total)
        self._times = times
        self._next: float | None = None
        self._advance()

    @property
    def exhausted(self) -> bool:
        """Whether the last request was taken."""
        return self._next is None

    def peek(self) -> float | None:
        """When the next request arrives."""
        return self._next

    def pop(self) -> ExecuteBatch:
        """The next request."""
        if self._next is None:
            raise InvariantBroken("workload", "pop, and no arrival is scheduled")
        request = self._requests.single()
        self._advance()
        return request

    def ended(self, request_id: int, now: float, output_tokens: int) -> None:
        """Changes nothing."""

    def _advance(self) -> None:
        at = next(self._times, None) if self._requests.more else None
        self._next = at if at is not None and at < self._until else None
