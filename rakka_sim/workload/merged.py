"""Several sources as one; nothing about any single kind of source may be here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rakka_sim.errors import InvariantBroken
from rakka_sim.values import ExecuteBatch

if TYPE_CHECKING:
    from rakka_sim.workload.source import Source


class Merged:
    """Source i of n numbers everything ``first + i * stride`` plus multiples of ``n * stride``, so an id tells whose
    it is and nothing need be remembered. Ids ascend within each source."""

    __slots__ = ("_first", "_sources", "_stride")

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = tuple(sources)
        self.number(1, 1)

    @property
    def total(self) -> int | None:
        """The sum, if every source knows its own."""
        totals = [source.total for source in self._sources]
        return None if None in totals else sum(total or 0 for total in totals)

    @property
    def skipped(self) -> int:
        """Rows left out by all of them."""
        return sum(source.skipped for source in self._sources)

    @property
    def exhausted(self) -> bool:
        """Whether all of them are."""
        return all(source.exhausted for source in self._sources)

    def peek(self) -> float | None:
        """When the next request of any of them arrives."""
        return min((at for source in self._sources if (at := source.peek()) is not None), default=None)

    def pop(self) -> ExecuteBatch:
        """That request; at the same instant the earlier source's comes first."""
        at = self.peek()
        for source in self._sources:
            if at is not None and source.peek() == at:
                return source.pop()
        raise InvariantBroken("workload", "pop, and no arrival is scheduled")

    def ended(self, request_id: int, now: float, output_tokens: int) -> None:
        """Passed on to the source it came from."""
        whose = (request_id - self._first) // self._stride % len(self._sources)
        self._sources[whose].ended(request_id, now, output_tokens)

    def number(self, first_id: int, stride: int) -> None:
        """Number everything ``first_id + n * stride``; only before the first `pop`."""
        self._first, self._stride = first_id, stride
        for lane, source in enumerate(self._sources):
            source.number(first_id + lane * stride, stride * len(self._sources))
