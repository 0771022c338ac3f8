"""The queue of requests that wait for a seat; who is admitted when is not decided here."""

from __future__ import annotations

from bisect import insort
from collections import OrderedDict
from collections.abc import Iterator

from rakka_sim.core.sequence import Sequence


class WaitingQueue:
    """First come, first served within a priority, lower priorities first; every operation is cheap at any length."""

    __slots__ = ("_classes", "_order", "count")

    def __init__(self) -> None:
        self._classes: dict[int, OrderedDict[int, Sequence]] = {}
        self._order: list[int] = []  # the priorities that have someone waiting, lowest first
        self.count = 0

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Sequence]:
        for priority in self._order:
            yield from self._classes[priority].values()

    def push(self, seq: Sequence) -> None:
        """Add behind its equals."""
        self._class_of(seq)[seq.request_id] = seq
        self.count += 1

    def push_front(self, seq: Sequence) -> None:
        """Add before its equals."""
        self.push(seq)
        self._classes[seq.priority].move_to_end(seq.request_id, last=False)

    def head(self) -> Sequence | None:
        """Who is next; None if nobody waits."""
        return next(iter(self._classes[self._order[0]].values())) if self._order else None

    def remove(self, seq: Sequence) -> None:
        """Take out, from wherever it stands."""
        waiting = self._classes[seq.priority]
        del waiting[seq.request_id]
        self.count -= 1
        if not waiting:
            del self._classes[seq.priority]
            self._order.remove(seq.priority)

    def _class_of(self, seq: Sequence) -> OrderedDict[int, Sequence]:
        waiting = self._classes.get(seq.priority)
        if waiting is None:
            waiting = self._classes[seq.priority] = OrderedDict()
            insort(self._order, seq.priority)
        return waiting
