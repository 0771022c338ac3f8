"""The event log: the truth of a run, from which every number about it derives. No such number may be in this file."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from typing import Any, TypeVar, cast

import numpy as np

from rakka_sim.records import audit
from rakka_sim.records.entry import ReplicaFacts, RequestRecord
from rakka_sim.records.holdings import Holdings
from rakka_sim.records.requests import RequestTable
from rakka_sim.records.rows import Array, Rows, frozen
from rakka_sim.records.steps import ReplicaSteps
from rakka_sim.records.tokens import Tokens
from rakka_sim.values import StepOutcome, Stretch

T = TypeVar("T")

_STARTUP = {"replica": "i", "began": "d", "loaded": "d", "ready": "d"}


class EventLog:
    """Appended to by actors while a run lasts; read in one canonical order, whatever the order of append."""

    __slots__ = ("_kept", "_replicas", "_requests", "_startups", "_steps", "holdings")

    def __init__(self) -> None:
        self._replicas: dict[ReplicaFacts, int] = {}
        self._requests = RequestTable()
        self._steps: list[ReplicaSteps] = []  # by the number of the replica
        self._startups = Rows(_STARTUP)
        self._kept: dict[str, Any] = {}
        self.holdings = Holdings()

    def __reduce__(self) -> tuple[Any, ...]:
        # What was computed is computed again where the log goes: it is many times the log's own size.
        return EventLog, (), (self._replicas, self._requests, self._steps, self._startups, self.holdings)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._replicas, self._requests, self._steps, self._startups, self.holdings = state

    # --- writing

    def replica(self, facts: ReplicaFacts) -> int:
        """The number by which `steps` knows this replica; equal facts have one number."""
        self._kept.clear()
        number = self._replicas.setdefault(facts, len(self._replicas))
        if number == len(self._steps):
            self._steps.append(ReplicaSteps())
        return number

    def startup(self, replica: int, began: float, loaded: float, ready: float) -> None:
        """The replica can serve from `ready` (s) on (again); it had its weights at `loaded`."""
        self._kept.clear()
        self._startups.append(replica, began, loaded, ready)

    def request(self, record: RequestRecord) -> None:
        """A request has ended; raises InvariantBroken if it had ended before."""
        if self._kept:
            self._kept.clear()
        self._requests.append(record)

    def steps(
        self, replica: int, outcome: StepOutcome, preempted: int = 0, joined: Iterable[tuple[float, int]] = ()
    ) -> int:
        """A run of steps has ended; `preempted` requests lost their place when its first step was planned.

        `joined`: when (s) the number of waiting requests changed since then, and to what, in order. Returns the number
        of its first step among the replica's, by which tokens refer to it (`values.Stretch`).
        """
        if self._kept:
            self._kept.clear()
        return self._steps[replica].append(outcome, preempted, joined)

    def times_of(self, steps: tuple[Stretch, ...]) -> Array:
        """When these steps ended (s)."""
        parts = [self._steps[replica].some_ends(first, count) for replica, first, count in steps]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def __contains__(self, request_id: int) -> bool:
        """Whether that request has ended."""
        return request_id in self._requests

    # --- reading: arrays are computed once, until the next record, and closed to writing

    @property
    def request_count(self) -> int:
        """Requests that have ended."""
        return len(self._requests)

    @property
    def replicas(self) -> tuple[ReplicaFacts, ...]:
        """Every replica that was registered, in the order that `step_columns()["replica"]` counts."""
        return tuple(sorted(self._replicas, key=_place))

    @property
    def deployments(self) -> tuple[str, ...]:
        """The names that `request_columns()["deployment"]` counts."""
        return self._requests.deployments.sorted()

    @property
    def outcomes(self) -> tuple[str, ...]:
        """The names that `request_columns()["outcome"]` counts."""
        return self._requests.outcomes.sorted()

    def request_columns(self) -> dict[str, Array]:
        """By request_id. Times in s, NaN for what never happened."""
        return self._once("requests", self._requests.columns)

    def step_columns(self) -> dict[str, Array]:
        """By start, then replica. `context_tokens` sums what the step's rows had computed before it."""
        return self._once("steps", self._step_columns)

    def startup_columns(self) -> dict[str, Array]:
        """By replica (its place in `replicas`), then time (s): when each start-up began, had its weights, was over.

        A replica has several where its context was rebuilt or its engine replaced on the same GPUs.
        """
        return self._once("startups", self._startup_columns)

    def each_replica(self) -> Iterator[tuple[int, dict[str, Array]]]:
        """The steps of one replica after the other, in order of time: its place in `replicas`, and the columns.

        All at once they may be too many to hold.
        """
        for number, place in sorted(enumerate(self._rank().tolist()), key=lambda pair: pair[1]):
            yield place, self._steps[number].columns()

    def each_replicas_runs(self) -> Iterator[tuple[int, dict[str, Array], Array]]:
        """The same by runs of steps (`ReplicaSteps.runs`), with the ends (s) of all steps."""
        for number, place in sorted(enumerate(self._rank().tolist()), key=lambda pair: pair[1]):
            yield place, self._steps[number].runs(), self._steps[number].ends()

    def occupied(self) -> Iterator[tuple[ReplicaFacts, tuple[float, float]]]:
        """Request-seconds that each replica's steps count: of requests that decode, and of all that are there."""
        for facts, number in self._replicas.items():
            yield facts, self._steps[number].occupied()

    def step_window(self) -> tuple[float, float]:
        """When the first step began and the last one ended (s); infinities, the wrong way round, without any."""
        spans = [steps.window() for steps in self._steps if len(steps)]
        return min((a for a, _ in spans), default=math.inf), max((b for _, b in spans), default=-math.inf)

    @property
    def total_steps(self) -> int:
        """Steps of all replicas."""
        return sum(map(len, self._steps))

    @property
    def tokens(self) -> Tokens:
        """The tokens of the requests, in the order of `request_columns`, not expanded."""
        requests = self._requests
        return self._once(
            "tokens", lambda: requests.tokens.read(requests.order(), [steps.ends() for steps in self._steps])
        )

    def token_times(self) -> tuple[Array, Array]:
        """Every token's time (s) in the order of `request_columns`, and where each request's tokens begin."""
        return self._once("times", self.tokens.times)

    def itl(self, which: Array | None = None) -> Array:
        """Every gap (s) between two consecutive tokens of a request, pooled; `which` masks `request_columns`."""
        gaps = self._once("gaps", self._gaps)
        return gaps if which is None or bool(which.all()) else gaps[np.repeat(which, self._gap_counts())]

    def longest_gap(self) -> Array:
        """Each request's longest gap (s), 0 where it has none; in the order of `request_columns`."""
        return self.tokens.longest_gap()

    def littles_law(self) -> tuple[float, float]:
        """Requests in the system: L integrated over time, and arrival rate times mean time in the system."""
        return audit.littles_law(self.request_columns())

    def digest(self) -> str:
        """SHA-256 of the log; the same however the steps were grouped into runs and whatever came first at a tie."""
        return self._once("digest", self._digest)

    def check(self) -> None:
        """Raise InvariantBroken unless every record agrees with itself and with the others."""
        audit.audit(self)

    def check_whole(self) -> None:
        """`check`, for the log of a run that has ended: its steps count no requests that were not there."""
        self.check()
        audit.occupancy(self)
        audit.holdings(self)

    # --- how

    def _once(self, name: str, make: Callable[[], T]) -> T:
        if name not in self._kept:
            self._kept[name] = make()
        return cast(T, self._kept[name])

    def _rank(self) -> Array:
        places = {facts: place for place, facts in enumerate(self.replicas)}
        return np.array([places[facts] for facts in self._replicas], np.int32)

    def _startup_columns(self) -> dict[str, Array]:
        rows = self._startups.array()
        place = self._rank()[rows["replica"]] if len(rows) else np.empty(0, np.int32)
        order = np.lexsort((rows["ready"], rows["began"], place))
        columns = {"replica": place, **{name: rows[name] for name in ("began", "loaded", "ready")}}
        return {name: frozen(np.ascontiguousarray(column[order])) for name, column in columns.items()}

    def _step_columns(self) -> dict[str, Array]:
        columns: dict[str, list[Array]] = {}
        for place, of in list(self.each_replica()) or [(0, ReplicaSteps().columns())]:
            own = {
                "start": of.pop("start"),
                "end": of.pop("end"),
                "replica": np.full(len(of["running"]), place, np.int32),
            }
            for name, column in (own | of).items():
                columns.setdefault(name, []).append(column)
        order = np.argsort(np.concatenate(columns["start"]), kind="stable")  # replica by replica it is nearly sorted
        return {name: frozen(np.concatenate(columns.pop(name))[order]) for name in list(columns)}

    def _gap_counts(self) -> Array:
        _, begins = self.token_times()
        counts: Array = np.maximum(np.diff(begins) - 1, 0)
        return counts

    def _gaps(self) -> Array:
        times, begins = self.token_times()
        owner = np.repeat(np.arange(len(begins) - 1), np.diff(begins))
        return frozen(np.diff(times)[owner[1:] == owner[:-1]])

    def _digest(self) -> str:
        times, begins = self.token_times()
        names: dict[str, Any] = {
            "layout": 2,
            "replicas": [_fields(facts) for facts in self.replicas],
            "deployments": self.deployments,
            "outcomes": self.outcomes,
        }
        if given_back := self.holdings.ended():
            names["given back"] = given_back
        sha = hashlib.sha256(json.dumps(names, sort_keys=True).encode())
        tokens = {"token": times, "tokens of request": begins}
        for table in (self.request_columns(), self.step_columns(), tokens, self.startup_columns()):
            for name, column in table.items():
                sha.update(f"\n{name} {column.dtype.str} {len(column)}\n".encode())
                sha.update(np.ascontiguousarray(column).data)
        return sha.hexdigest()


def _fields(facts: ReplicaFacts) -> dict[str, Any]:
    """What a digest says of a replica: nothing of further nodes where it has none."""
    return {name: value for name, value in asdict(facts).items() if value or name != "others"}


def _place(facts: ReplicaFacts) -> tuple[str, int, str, tuple[int, ...], str]:
    return facts.deployment, facts.replica, facts.node, facts.gpus, repr(facts)
