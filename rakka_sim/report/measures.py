"""What is measured of each request: latencies, and whether it met its objectives; no averages may be in this file."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Protocol

import numpy as np

from rakka_sim.records import EventLog
from rakka_sim.values import FinishReason

Array = np.ndarray[Any, Any]

COMPLETED = (FinishReason.STOP.value, FinishReason.LENGTH.value, FinishReason.TOOL_CALLS.value)


class Slo(Protocol):
    """Limits in ms, None for no limit; a value equal to its limit keeps it. `itl_ms` limits a request's longest gap."""

    @property
    def ttft_ms(self) -> float | None: ...

    @property
    def tpot_ms(self) -> float | None: ...

    @property
    def itl_ms(self) -> float | None: ...

    @property
    def e2e_ms(self) -> float | None: ...


LIMITS = ("ttft_ms", "tpot_ms", "itl_ms", "e2e_ms")


def limits(slo: Slo | None) -> dict[str, float]:
    """The limits that are set, by name."""
    given = {name: getattr(slo, name) for name in LIMITS} if slo is not None else {}
    return {name: float(limit) for name, limit in given.items() if limit is not None}


class Measures:
    """One value per request, in the order of the log's `request_columns`.

    Latencies are in ms, and NaN for a request that did not complete: a failure is counted, never averaged. TTFT is
    first token - arrival, TPOT (last - first) / (n - 1) for n > 1, E2E last token - arrival.
    """

    def __init__(self, log: EventLog, slo: Slo | None) -> None:
        self.log = log
        self.slo = slo
        self.of = log.request_columns()

    @cached_property
    def completed(self) -> Array:
        good = np.array([name in COMPLETED for name in self.log.outcomes], bool)
        return good[self.of["outcome"]]

    @cached_property
    def ttft_ms(self) -> Array:
        return self._latency(self.of["first_token"] - self.of["arrival"])

    @cached_property
    def e2e_ms(self) -> Array:
        return self._latency(self.of["last_token"] - self.of["arrival"])

    @cached_property
    def tpot_ms(self) -> Array:
        gaps = self.of["output_tokens"] - 1
        span = self.of["last_token"] - self.of["first_token"]
        return self._latency(np.where(gaps > 0, span / np.maximum(gaps, 1), np.nan))

    @cached_property
    def queue_ms(self) -> Array:
        return self._latency(self.of["scheduled"] - self.of["arrival"])

    @cached_property
    def slo_ok(self) -> Array:
        """Completed within every limit; one token has neither TPOT nor gaps and keeps those limits, as in vLLM."""
        ok = self.completed.copy()
        worst = {"ttft_ms": self.ttft_ms, "tpot_ms": np.nan_to_num(self.tpot_ms, nan=0.0), "e2e_ms": self.e2e_ms}
        for name, limit in limits(self.slo).items():
            ok &= (self.log.longest_gap() * 1e3 if name == "itl_ms" else worst[name]) <= limit
        return ok

    def itl_ms(self, which: Array) -> Array:
        """Every gap between tokens of the completed ones among `which` (a mask), pooled."""
        return self.log.itl(which & self.completed) * 1e3

    def gaps_ms(self, which: Array) -> tuple[Array, Array]:
        """The same as different gaps and how often each occurs: what is shared by a batch is there once."""
        gaps, times = self.log.tokens.gaps(which & self.completed)
        return gaps * 1e3, times

    def pooled(self, which: Array) -> dict[str, Array]:
        """Every latency of the completed ones among `which`, without the NaN."""
        return {**self.latencies(which), "itl_ms": self.itl_ms(which)}

    def latencies(self, which: Array) -> dict[str, Array]:
        """The same without the gaps between tokens."""
        own = {"ttft_ms": self.ttft_ms, "tpot_ms": self.tpot_ms, "e2e_ms": self.e2e_ms, "queue_ms": self.queue_ms}
        values = {name: column[which] for name, column in own.items()}
        return {name: column[~np.isnan(column)] for name, column in values.items()}

    def _latency(self, seconds: Array) -> Array:
        return np.where(self.completed, seconds * 1e3, np.nan)
