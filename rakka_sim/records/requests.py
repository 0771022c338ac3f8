"""The table of requests; their tokens are in `tokens`, and what may be computed from it is in `report`."""

from __future__ import annotations

import math
from typing import Any

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


class Ids:
    """A set of numbers, most of which count up from 1 in nearly that order: only those ahead of a gap are kept."""

    __slots__ = ("_ahead", "_next")

    def __init__(self) -> None:
        self._next = 1  # all from 1 to this one are there, and this one is not
        self._ahead: set[int] = set()

    def __reduce__(self) -> tuple[Any, ...]:
        return Ids, (), (self._next, self._ahead)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._next, self._ahead = state

    def __len__(self) -> int:
        return self._next - 1 + len(self._ahead)

    def __contains__(self, number: int) -> bool:
        return 1 <= number < self._next or number in self._ahead

    def add(self, number: int) -> bool:
        """Whether it is new."""
        ahead = self._ahead
        if 1 <= number < self._next or number in ahead:
            return False
        ahead.add(number)
        while self._next in ahead:
            ahead.remove(self._next)
            self._next += 1
        return True


class RequestTable:
    """One row per request, in order of append; read in order of request_id."""

    __slots__ = ("_ids", "_rows", "deployments", "outcomes", "tokens")

    def __init__(self) -> None:
        self._rows = Rows(_FIELDS)
        self._ids = Ids()
        self.tokens = TokenTable()
        self.deployments = Names()
        self.outcomes = Names()

    def __reduce__(self) -> tuple[Any, ...]:
        return RequestTable, (), (self._rows, self._ids, self.tokens, self.deployments, self.outcomes)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._rows, self._ids, self.tokens, self.deployments, self.outcomes = state

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, request_id: int) -> bool:
        return request_id in self._ids

    def append(self, record: RequestRecord) -> None:
        """Raises InvariantBroken for a request that has a record already."""
        request_id = record.request_id
        if not self._ids.add(request_id):
            raise InvariantBroken("event log", f"request {request_id} has a second record ({record.outcome})")
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
