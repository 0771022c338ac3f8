"""When each token of each request came: kept by reference to the steps that made them, expanded on demand.

No statistics of requests may be here; what is computed here is the times themselves and the gaps between them.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np

from rakka_sim.records.entry import RequestRecord
from rakka_sim.records.rows import Array, Rows, frozen

OWN = -1  # the source of times that came by value

_FIELDS = {"source": "i", "count": "i", "first": "q"}


class TokenTable:
    """Stretches of tokens, request by request in order of append: a source, the first one's place there, how many.

    A source is a replica (its steps' ends), or this table's own list of times.
    """

    __slots__ = ("_counts", "_own", "_rows")

    def __init__(self) -> None:
        self._rows = Rows(_FIELDS)
        self._counts = array("i")  # stretches of each request
        self._own = bytearray()  # float64

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenTable, (), (self._rows, self._counts, self._own)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._rows, self._counts, self._own = state

    def __len__(self) -> int:
        return len(self._counts)

    def append(self, record: RequestRecord) -> None:
        """The next request's tokens."""
        count = 0
        for source, first, tokens in record.token_steps:
            self._rows.append(source, tokens, first)
            count += 1
        for times in record.token_times:
            self._rows.append(OWN, len(times), len(self._own) // 8)
            self._own += times.astype("<f8", copy=False).tobytes()
            count += 1
        self._counts.append(count)

    def read(self, order: Array, ends: Sequence[Array]) -> Tokens:
        """The tokens of the requests in `order`; `ends` are the steps' ends of each source."""
        counts = np.array(self._counts, np.int64)
        begins = np.cumsum(counts) - counts
        counts, begins = counts[order], begins[order]
        owner = np.repeat(np.arange(len(order)), counts)
        place = np.arange(len(owner)) - (np.cumsum(counts) - counts)[owner]
        rows = self._rows.array()[begins[owner] + place]
        some = rows["count"] > 0
        return Tokens(len(order), owner[some], rows[some], [*ends, np.frombuffer(bytes(self._own), "<f8")])


class Tokens:
    """The tokens of `requests` requests: stretches in order, none empty, and the times that they refer to."""

    def __init__(self, requests: int, owner: Array, rows: Array, pools: list[Array]) -> None:
        self.requests = requests
        self.owner = owner
        self.first, self.count = rows["first"].copy(), rows["count"].astype(np.int64)
        self.source = rows["source"] % len(pools)  # the last one, where it is OWN
        self.pools = pools
        # By source, so that each pool is looked at once: `by_source[bounds[s]:bounds[s + 1]]` are those of source s.
        self._by_source = np.argsort(self.source, kind="stable")
        self._bounds = np.searchsorted(self.source[self._by_source], np.arange(len(pools) + 1))

    def _each_source(self) -> list[tuple[Array, Array]]:
        """The stretches of each source that has any, and its times."""
        parts = [self._by_source[a:b] for a, b in zip(self._bounds, self._bounds[1:], strict=False)]
        return [(part, pool) for part, pool in zip(parts, self.pools, strict=True) if len(part)]

    def at(self, place: Array) -> Array:
        """Of each stretch the time (s) of one of its tokens."""
        times = np.empty(len(self.owner))
        for which, pool in self._each_source():
            times[which] = pool[self.first[which] + place[which]]
        return times

    def counts(self) -> Array:
        """Tokens of each request."""
        return np.bincount(self.owner, self.count, self.requests).astype(np.int64)

    def times(self) -> tuple[Array, Array]:
        """Every token's time (s), request by request, and where each request's begin (one longer than the requests)."""
        begins = np.zeros(self.requests + 1, np.int64)
        np.cumsum(self.counts(), out=begins[1:])
        stops = np.cumsum(self.count)
        times = np.empty(int(begins[-1]))
        for which, pool in self._each_source():
            count = self.count[which]
            step = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
            times[np.repeat((stops - self.count)[which], count) + step] = pool[
                np.repeat(self.first[which], count) + step
            ]
        return frozen(times), frozen(begins)

    def joints(self) -> tuple[Array, Array]:
        """The gaps (s) between one stretch of a request and its next, and whose they are."""
        joint = self.owner[1:] == self.owner[:-1]
        gaps = self.at(np.zeros_like(self.count))[1:] - self.at(self.count - 1)[:-1]
        return gaps[joint], self.owner[1:][joint]

    def gaps(self, which: Array) -> tuple[Array, Array]:
        """The gaps (s) between two tokens of the requests that the mask `which` names, and how often each occurs."""
        joints, owner = self.joints()
        values, weights = [joints[which[owner]]], [np.ones(int(which[owner].sum()), np.int32)]
        for stretches, pool in self._each_source():
            wanted = stretches[which[self.owner[stretches]]]
            first, count = self.first[wanted], self.count[wanted]
            change = np.zeros(len(pool) + 1, np.int64)
            np.add.at(change, first + 1, 1)
            np.add.at(change, first + count, -1)
            times = np.cumsum(change)[1 : len(pool)]  # how many requests have both this step and the one before
            seen = times > 0
            values.append(np.diff(pool)[seen])
            weights.append(times[seen].astype(np.int32))
        return np.concatenate(values), np.concatenate(weights)

    def longest_gap(self) -> Array:
        """Each request's longest gap (s), 0 where it has none."""
        longest = np.zeros(self.requests)
        joints, owner = self.joints()
        np.maximum.at(longest, owner, joints)
        for stretches, pool in self._each_source():
            some = stretches[self.count[stretches] > 1]
            some = some[np.argsort(self.first[some], kind="stable")]  # else what lies between two would be costly
            if len(some):
                gaps = np.append(np.diff(pool), 0.0)
                bounds = np.stack([self.first[some], self.first[some] + self.count[some] - 1], axis=1)
                np.maximum.at(longest, self.owner[some], np.maximum.reduceat(gaps, bounds.ravel())[::2])
        return longest

    def disorder(self) -> Array:
        """Whether some token of a request is not later than, or at, the time of the one before; whose, as a mask."""
        bad = np.zeros(self.requests, bool)
        joints, owner = self.joints()
        bad[owner[~(joints >= 0)]] = True
        for stretches, pool in self._each_source():
            wrong = np.zeros(len(pool) + 1, np.int64)  # wrong steps before this one
            np.cumsum(~(np.diff(pool) >= 0), out=wrong[2:])
            first, last = self.first[stretches] + 1, self.first[stretches] + self.count[stretches]
            bad[self.owner[stretches[wrong[last] > wrong[first]]]] = True
        return bad
