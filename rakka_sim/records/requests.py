"""The table of requests; their tokens are in `tokens`, and what may be computed from it is in `report`."""

from __future__ import annotations

import math

import numpy as np

from rakka_sim.errors import InvariantBroken
from rakka_sim.records.entry import RequestRecord
from rakka_sim.records.names import Names
from rakka_sim.records.rows import Array, Rows, frozen
from rakka_sim.records.tokens import TokenTable

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

    __slots__ = ("_ids", "_rows", "deployments", "outcomes", "tokens")

    def __init__(self) -> None:
        self._rows = Rows(_FIELDS)
        self._ids: set[int] = set()
        self.tokens = TokenTable()
        self.deployments = Names()
        self.outcomes = Names()

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, request_id: int) -> bool:
        return request_id in self._ids

    def append(self, record: RequestRecord) -> None:
        """Raises InvariantBroken for a request that has a record already."""
        request_id = record.request_id
        if request_id in self._ids:
            raise InvariantBroken("event log", f"request {request_id} has a second record ({record.outcome})")
        self._ids.add(request_id)
        self.tokens.append(record)
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

    def order(self) -> Array:
        """The rows, by request_id."""
        return np.argsort(self._rows.array()["request_id"], kind="stable")

    def columns(self) -> dict[str, Array]:
        """Times in s, NaN for never; `deployment` and `outcome` number the sorted names."""
        rows, order = self._rows.array(), self.order()
        columns = {name: rows[name][order] for name in _FIELDS}
        columns["deployment"] = self.deployments.rank()[columns["deployment"]]
        columns["outcome"] = self.outcomes.rank()[columns["outcome"]]
        return {name: frozen(column) for name, column in columns.items()}
