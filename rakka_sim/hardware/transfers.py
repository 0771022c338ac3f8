"""Transfers in flight that share links: how far each is and when it ends. No clock, no SimPy and no actor may be here.

A link is a direction: what goes the other way is another link. A transfer has no latency of its own; one who wants it
waits before. Who owns the clock tells the time with each call and asks for `next_end`, an absolute time: the very float
at which that transfer has arrived, however often somebody looks meanwhile.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

from rakka_sim.errors import InputError, InvariantBroken, UnknownName
from rakka_sim.hardware.sharing import max_min_rates


@dataclass(frozen=True, slots=True)
class Link:
    """One direction of a wire, a bus or a disk: its name and bytes/s."""

    name: str
    bytes_s: float

    def __post_init__(self) -> None:
        if not 0 < self.bytes_s < math.inf:
            raise InputError(f"bytes/s of link {self.name}", self.bytes_s, "a rate above 0")


class Moving:
    """`size` bytes on their way over `path`.

    `left`: bytes not yet moved, as of `since` (s); from then on they move at `rate` (bytes/s). `ended` (s) is None
    before. One that was `cancelled` has ended too, with something left.
    """

    __slots__ = ("cancelled", "ended", "left", "number", "order", "path", "rate", "since", "size", "started")

    def __init__(self, path: tuple[str, ...], size: float, now: float, order: int) -> None:
        self.path, self.size = path, size
        self.left, self.rate = size, 0.0
        self.started = self.since = now
        self.order = order  # among all that were ever started
        self.number = -1  # of the entry that says when it ends; others are void
        self.ended: float | None = None
        self.cancelled = False

    def left_at(self, now: float) -> float:
        """Bytes that have not arrived at `now` (s), a time at which its rate is still this."""
        return max(0.0, self.left - self.rate * (now - self.since)) if self.ended is None else self.left


class Transfers:
    """Links, and the transfers that share them max-min fairly at every moment (processor sharing on a single link).

    Rates change only where something starts or ends, and only for what shares links with it, directly or over others:
    an end does not depend on transfers elsewhere, not even in its last digit. Neither does it depend on the order in
    which transfers of one instant are started.
    """

    def __init__(self, links: Iterable[Link] = (), now: float = 0.0) -> None:
        self._capacity: dict[str, float] = {}
        self._carried: dict[str, float] = {}
        self._on: dict[str, dict[Moving, None]] = {}
        self._active: dict[Moving, None] = {}
        self._arrived: list[Moving] = []  # not told of yet
        self._ends: list[tuple[float, int, Moving]] = []  # a heap with void entries
        self._numbers = self._orders = 0
        self._changed: dict[str, None] = {}  # links on which something has started or ended at `_now`
        self._now = now
        for link in links:
            if link.name in self._capacity:
                raise InputError("links", link.name, "a name of its own for each")
            self.know(link)

    # --- what there is ------------------------------------------------------------------------------------------

    def know(self, link: Link) -> None:
        """There is this link; raises InputError if it is known with another rate."""
        known = self._capacity.setdefault(link.name, link.bytes_s)
        if known != link.bytes_s:
            raise InputError(f"bytes/s of link {link.name}", link.bytes_s, f"{known}, as before")
        self._carried.setdefault(link.name, 0.0)
        self._on.setdefault(link.name, {})

    @property
    def active(self) -> tuple[Moving, ...]:
        """The transfers under way, oldest first, with the rates that they have from now on."""
        self._share()
        return tuple(self._active)

    def carried(self, link: str, now: float) -> float:
        """Bytes that have gone over a link by `now` (s); raises UnknownName."""
        self._known((link,))
        self._upto(now)
        return self._carried[link] + sum(moving.left - moving.left_at(now) for moving in self._on[link])

    # --- what happens -------------------------------------------------------------------------------------------

    def start(self, now: float, path: Sequence[str], size: float) -> Moving:
        """Start moving `size` bytes over the links of `path`, all of them at once, as a pipeline does.

        Raises as `refuse` does.
        """
        self.refuse(path, size)
        self._upto(now)
        moving = Moving(tuple(path), float(size), now, self._orders)
        self._orders += 1
        if size > 0:
            self._active[moving] = None
            for link in path:
                self._on[link][moving] = None
                self._changed[link] = None
        else:
            moving.ended = now
            self._arrived.append(moving)
        return moving

    def refuse(self, path: Sequence[str], size: float) -> None:
        """Raise UnknownName for a link that is not here, InputError for no size and for no path, or one that names a
        link twice."""
        if not 0 <= size < math.inf:
            raise InputError("bytes of a transfer", size, "0 or more")
        if not path or len(set(path)) < len(path):
            raise InputError("path of a transfer", tuple(path), "at least one link, each once")
        self._known(path)

    def cancel(self, now: float, moving: Moving) -> None:
        """Stop here; what has arrived stays. Nothing happens to a transfer that has ended by `now` (s)."""
        self._upto(now)
        if moving.ended is None:
            self._update(moving)
            moving.cancelled = True
            self._end(moving)

    def next_end(self) -> float | None:
        """When (s) the next transfer arrives if nothing else happens; None if none is under way."""
        self._share()
        while self._ends and self._void(self._ends[0]):
            heappop(self._ends)
        return self._ends[0][0] if self._ends else None

    def advance(self, now: float) -> list[Moving]:
        """Those that have arrived by `now` (s) and were not told of yet, by when they ended, then by their start."""
        self._upto(now)
        self._let_end(now)
        arrived, self._arrived = self._arrived, []
        return arrived

    def check(self) -> None:
        """Raise InvariantBroken if a link carries more than it can or a transfer stands still."""
        self._share()
        for link, most in self._capacity.items():
            rate = sum(moving.rate for moving in self._on[link])
            if rate > most * (1 + 1e-9):
                raise InvariantBroken("transfers", f"{link} carries {rate} of {most} bytes/s")
        for moving in self._active:
            if moving.rate <= 0 or not 0 <= moving.left <= moving.size:
                raise InvariantBroken("transfers", f"{moving.left} of {moving.size} bytes at {moving.rate} bytes/s")
        if sum(not self._void(entry) for entry in self._ends) != len(self._active):
            raise InvariantBroken("transfers", "not every transfer has one end to come")

    # --- how ----------------------------------------------------------------------------------------------------

    def _known(self, path: Iterable[str]) -> None:
        for name in path:
            if name not in self._capacity:
                raise UnknownName("link", name, ", ".join(list(self._capacity)[:20]) or "none")

    def _void(self, entry: tuple[float, int, Moving]) -> bool:
        return entry[2].number != entry[1]

    def _upto(self, now: float) -> None:
        """Bring the time to `now`. What starts at one instant does not share its links anew each time."""
        if not self._now <= now < math.inf:
            raise InputError("time of a transfer", now, f"{self._now} s or later: time does not go back")
        if now > self._now:
            self._let_end(now)
            self._now = now

    def _let_end(self, now: float) -> None:
        """Let everything end that ends by `now`, one instant after the other."""
        while (end := self.next_end()) is not None and end <= now:
            self._now = end
            first: list[Moving] = []
            while self._ends and (self._ends[0][0] <= end or self._void(self._ends[0])):
                entry = heappop(self._ends)
                if not self._void(entry):
                    first.append(entry[2])
            for moving in sorted(first, key=lambda moving: moving.order):
                # What rounding has left of them: they are done, whatever the last digit says.
                self._carry(moving, moving.left)
                self._end(moving)
                self._arrived.append(moving)

    def _end(self, moving: Moving) -> None:
        moving.ended, moving.rate, moving.number = self._now, 0.0, -1
        del self._active[moving]
        for link in moving.path:
            del self._on[link][moving]
            self._changed[link] = None

    def _update(self, moving: Moving) -> None:
        """Bring what is left of it up to now; its rate has not changed since."""
        self._carry(moving, min(moving.left, moving.rate * (self._now - moving.since)))
        moving.since = self._now

    def _carry(self, moving: Moving, size: float) -> None:
        moving.left -= size
        for link in moving.path:
            self._carried[link] += size

    def _share(self) -> None:
        """New rates for all that shares links with what has changed, and from them new ends."""
        seen: dict[str, None] = {}
        for link in self._changed:
            if link not in seen:
                self._share_among(self._reached(link, seen))
        self._changed.clear()

    def _reached(self, link: str, seen: dict[str, None]) -> list[Moving]:
        """The transfers on that link, those on their other links, and so on."""
        found: dict[Moving, None] = {}
        seen[link] = None
        ahead = [link]
        while ahead:
            for moving in self._on[ahead.pop()]:
                if moving not in found:
                    found[moving] = None
                    for other in moving.path:
                        if other not in seen:
                            seen[other] = None
                            ahead.append(other)
        return list(found)

    def _share_among(self, moving: list[Moving]) -> None:
        # In an order that is not that of their start, so that rounding does not depend on it.
        moving.sort(key=lambda one: (one.path, one.order))
        rates = max_min_rates([one.path for one in moving], self._capacity)
        for one, rate in zip(moving, rates, strict=True):
            if rate == one.rate:
                continue  # it ends when it was to end
            self._update(one)
            one.rate = rate
            one.number = self._numbers
            self._numbers += 1
            heappush(self._ends, (self._now + one.left / rate, one.number, one))


def seconds_together(links: Iterable[Link], loads: Sequence[tuple[Sequence[str], float]]) -> list[float]:
    """Seconds that each of these transfers, (path, bytes), takes when all start at once and nothing else moves.

    What replicas of one node wait for their weights when they start together: a disk or a NIC that they share, a PCIe
    link of each GPU's own.
    """
    transfers = Transfers(links)
    started = [transfers.start(0.0, path, size) for path, size in loads]
    while (end := transfers.next_end()) is not None:
        transfers.advance(end)
    return [moving.ended or 0.0 for moving in started]
