"""The message trace of a run: recorded, digested, compared with another's. How messages come about is not here."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from rakka_sim.errors import InputError, NotDeterministic
from rakka_sim.runtime.encoding import encode


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message as it was delivered; `at` in s, `message` in canonical text."""

    at: float
    to: str
    message: str

    def __str__(self) -> str:
        return f"t={self.at!r} s, to {self.to}: {self.message}"


class Trace:
    """Every message that an actor, a question or a promise took, in order, as a digest; `keep` also keeps them all."""

    def __init__(self, keep: bool = False) -> None:
        self.keep = keep
        self.deliveries: list[Delivery] = []
        self.count = 0
        self._hash = hashlib.sha256()

    def record(self, at: float, to: str, msg: object) -> None:
        delivery = Delivery(float(at), to, encode(msg))
        self.count += 1
        self._hash.update(f"{delivery}\n".encode())
        if self.keep:
            self.deliveries.append(delivery)

    @property
    def digest(self) -> str:
        """SHA-256 of all deliveries so far."""
        return self._hash.hexdigest()


@dataclass(frozen=True, slots=True)
class Difference:
    """Where two traces part; None stands for a trace that has ended."""

    index: int
    first: Delivery | None
    second: Delivery | None


def first_difference(first: Trace, second: Trace, times: bool = True) -> Difference | None:
    """Where two kept traces part, if they do; without `times`, only receivers and messages count."""
    for trace in (first, second):
        if not trace.keep:
            raise InputError("first_difference", trace, "traces made with keep=True")
    ours, theirs = first.deliveries, second.deliveries
    for index, (one, other) in enumerate(zip(ours, theirs, strict=False)):
        same = one == other if times else (one.to, one.message) == (other.to, other.message)
        if not same:
            return Difference(index, one, other)
    index = min(len(ours), len(theirs))
    if len(ours) == len(theirs):
        return None
    return Difference(index, ours[index] if ours[index:] else None, theirs[index] if theirs[index:] else None)


def assert_same_trace(run_once: Callable[[Trace], None]) -> str:
    """Run twice and return the digest of both; raises `NotDeterministic`, which names the first differing message."""
    first, second = Trace(keep=True), Trace(keep=True)
    run_once(first)
    run_once(second)
    parting = first_difference(first, second)
    if parting is not None:
        texts = (None if delivery is None else str(delivery) for delivery in (parting.first, parting.second))
        raise NotDeterministic(parting.index, *texts)
    return first.digest
