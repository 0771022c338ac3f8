"""The table of requests with their tokens' times; what may be computed from it is in `report`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import chain

import numpy as np

from rakka_sim.errors import InvariantBroken
from rakka_sim.records.entry import RequestRecord
from rakka_sim.records.names import Names
from rakka_sim.records.rows import Array, Rows, frozen

_FIELDS = {
    "request_id": "q",
    "arrival": "d",
    "scheduled": "d",
    "first_token": "d",
    "last_token": "d",
    "ended": "d",
    "session": "q",
    "deployment": "i",
    "replica": "i",
    "prompt_tokens": "i",
    "output_tokens": "i",
    "cached_tokens": "i",
    "preemptions": "i",
    "outcome": "i",
}


class RequestTable:
    """One row per request, in order of append; read in order of request_id."""

    __slots__ = ("_ids", "_rows", "_tokens", "deployments", "outcomes")

    def __init__(self) -> None:
        self._rows = Rows(_FIELDS)
        self._ids: set[int] = set()
        self._tokens: list[tuple[Array, ...]] = []
        self.deployments = Names()
        self.outcomes = Names()

    def __len__(self) -> int:
        return len(self._tokens)

    def __contains__(self, request_id: int) -> bool:
        return request_id in self._ids

    def append(self, record: RequestRecord) -> None:
        """Raises InvariantBroken for a request that has a record already."""
        request_id = record.request_id
        if request_id in self._ids:
            raise InvariantBroken("event log", f"request {request_id} has a second record ({record.outcome})")
        self._ids.add(request_id)
        self._tokens.append(record.token_times)
        scheduled, first, last = record.scheduled, record.first_token, record.last_token
        self._rows.append(
            request_id,
            record.arrival,
            math.nan if scheduled is None else scheduled,
            math.nan if first is None else first,
            math.nan if last is None else last,
            record.ended,
            record.session,
            self.deployments.code(record.deployment),
            record.replica,
            record.prompt_tokens,
            record.output_tokens,
            record.cached_tokens,
            record.preemptions,
            self.outcomes.code(record.outcome),
        )

    def _sorted(self) -> tuple[Array, Array]:
        rows = self._rows.array()
        return rows, np.argsort(rows["request_id"], kind="stable")

    def columns(self) -> dict[str, Array]:
        """Times in s, NaN for never; `deployment` and `outcome` number the sorted names."""
        rows, order = self._sorted()
        columns = {name: rows[name][order] for name in _FIELDS}
        columns["deployment"] = self.deployments.rank()[columns["deployment"]]
        columns["outcome"] = self.outcomes.rank()[columns["outcome"]]
        return {name: frozen(column) for name, column in columns.items()}

    def token_times(self) -> tuple[Array, Array]:
        """Every token's time (s), request by request, and where each request's begin (one longer than the table)."""
        _, order = self._sorted()
        requests = [self._tokens[row] for row in order.tolist()]
        chunks = list(chain.from_iterable(requests))
        times = np.concatenate(chunks) if chunks else np.empty(0)
        token_ends = _running_total(map(len, chunks), len(chunks))
        chunk_ends = _running_total(map(len, requests), len(requests))
        return frozen(times.astype(np.float64, copy=False)), frozen(token_ends[chunk_ends])


def _running_total(counts: Iterable[int], length: int) -> Array:
    total = np.zeros(length + 1, np.int64)
    np.cumsum(np.fromiter(counts, np.int64, length), out=total[1:])
    return total
