"""What is due when, as one heap that may be SimPy's own; who waits for it and why may not be in it."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rakka_sim.runtime.cell import Cell

# SimPy's order of what is due at the same instant; the ends of jobs come after all of it.
NORMAL = 1
JOB_END = 2

ROOM = 1024

# When, priority, a number that no other entry has, and a `Due` or an event of SimPy; for such an event "when" may be a
# number of numpy's, as after `env.timeout(np.float32(0.1))`.
Entry = tuple[Any, int, int, Any]


class Due:
    """Something an incarnation waits for; it lapses when that incarnation ends."""

    __slots__ = ("generation", "number", "ref")

    def __init__(self, cell: Cell) -> None:
        self.ref = cell.ref
        self.generation = cell.generation
        self.number = -1  # of its entry in the agenda; an entry with another number is void

    @property
    def current(self) -> bool:
        """Whether the incarnation that waits for it still runs."""
        return self.ref.cell.generation == self.generation

    @property
    def active(self) -> bool:
        return self.number >= 0 and self.current

    def cancel(self) -> None:
        self.number = -1

    def fire(self) -> None:
        """It is due, and whom it is for is there."""
        raise NotImplementedError

    def lapse(self) -> None:
        """It is due, but the incarnation that waited for it has ended."""
        raise NotImplementedError


class Agenda:
    """The heap of entries, void ones among them; these are dropped at the top, and all at once when there are many."""

    __slots__ = ("_limit", "_numbers", "_queue")

    def __init__(self, queue: list[Any], numbers: Iterator[int]) -> None:
        self._queue: list[Entry] = queue
        self._numbers = numbers
        self._limit = ROOM

    def add(self, due: Due, when: float, priority: int, rank: int = 0) -> None:
        """Enter it at exactly `when` s; of one instant and priority the lower `rank` comes first, then the older."""
        number = next(self._numbers)
        if rank:
            number += rank << 64
        due.number = number
        queue = self._queue
        heappush(queue, (when, priority, number, due))
        if len(queue) > self._limit:
            self._compact()

    def __len__(self) -> int:
        """Entries, void ones included."""
        return len(self._queue)

    def first(self) -> Entry | None:
        """The next entry that is not void, left where it is."""
        queue = self._queue
        while queue:
            entry = queue[0]
            due = entry[3]
            if isinstance(due, Due):  # as `_valid` does
                if due.number != entry[2]:
                    heappop(queue)
                    continue
                if due.ref.cell.generation == due.generation:
                    return entry
            if self._valid(entry):
                return entry
            heappop(queue)
        return None

    def pop(self) -> None:
        """Take the first entry out."""
        heappop(self._queue)

    def _valid(self, entry: Entry) -> bool:
        due = entry[3]
        if not isinstance(due, Due):
            return True
        if due.number != entry[2]:
            return False
        if due.current:
            return True
        due.cancel()
        due.lapse()
        return False

    def _compact(self) -> None:
        # In place: SimPy holds this very list. Doubling the limit makes the cost per entry constant.
        self._queue[:] = [entry for entry in self._queue if self._valid(entry)]
        heapify(self._queue)
        self._limit = max(ROOM, 2 * len(self._queue))
