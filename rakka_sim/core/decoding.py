"""The sequences that decode: one token each a step, so what they add up to is kept, not counted. No policy is here.

Nothing is done to one of them per step or per run. All move with one beat: what a sequence has computed is its lead
plus the beat. Where many replicas take turns, looking at every sequence of a batch is mostly waiting for memory.
"""

from __future__ import annotations

from collections.abc import Collection
from heapq import heapify, heappop, heappush
from operator import attrgetter

from rakka_sim.core.kv import KvCache
from rakka_sim.core.plan_rows import LazyRows
from rakka_sim.core.sequence import Beat, Sequence
from rakka_sim.errors import InvariantBroken

_by_place = attrgetter("place")
ROOM = 64  # entries of those who have left, besides one for each who is there, before they are looked for


class Decoding:
    """Those running sequences that have sampled in their newest step and lack just that token."""

    __slots__ = ("_beat", "_ends", "_kv", "_leads", "_longest", "count", "streamed")

    def __init__(self, kv: KvCache) -> None:
        self._kv = kv
        self._clear()

    def _clear(self) -> None:
        self._beat = Beat()
        self.count = 0
        self.streamed = 0  # how many of them are
        self._leads = 0  # their sum
        self._longest: int | None = 0  # the highest lead; None: to be looked for
        self._ends: list[tuple[int, tuple[int, int], Sequence]] = []  # a heap; who has left stays for a while

    # --- who comes and goes -------------------------------------------------------------------------------------

    def join(self, seq: Sequence) -> None:
        """It has sampled, and computes that token next."""
        self._kv.join(seq.request_id, seq.computed, seq.place)
        self.enter(seq)

    def enter(self, seq: Sequence) -> None:
        """The same of one that the cache has decode already."""
        lead = seq.start(self._beat)
        self.count += 1
        self.streamed += seq.streamed
        self._leads += lead
        if self._longest is not None and (lead > self._longest or self.count == 1):
            self._longest = lead
        heappush(self._ends, (seq.end - lead - 1, seq.place, seq))
        if len(self._ends) > 2 * self.count + ROOM:  # many have left long before their end
            self._ends = self._entries()
            heapify(self._ends)

    def leave(self, seq: Sequence) -> None:
        """It has as many tokens as it had at the beat that is now."""
        lead = seq.lead
        seq.stop()
        self.count -= 1
        self.streamed -= seq.streamed
        self._leads -= lead
        if lead == self._longest:
            self._longest = None
        self._kv.leave(seq.request_id)

    def dissolve(self) -> None:
        """Everybody leaves."""
        for seq in self._members():
            seq.stop()
            self._kv.leave(seq.request_id)
        self._clear()

    def _entries(self) -> list[tuple[int, tuple[int, int], Sequence]]:
        return [entry for entry in self._ends if entry[2].beat is self._beat and entry[2].place == entry[1]]

    def _members(self) -> list[Sequence]:
        return [seq for _, _, seq in self._entries()]

    def advance(self, steps: int, also: Collection[Sequence] = ()) -> list[Sequence]:
        """All have computed and sampled so many tokens, and none ends before that.

        Those who end with it, and `also` these, have left with what they had before; they are returned in order of
        place.
        """
        ends, last = self._ends, self._beat.steps + steps
        ending: list[Sequence] = []
        while ends and ends[0][0] <= last:
            _, place, seq = heappop(ends)
            if seq.beat is self._beat and seq.place == place:
                ending.append(seq)
        if also:
            ending = sorted({*ending, *also}, key=_by_place)
        for seq in ending:
            self.leave(seq)
        self._beat.steps = last
        return ending

    # --- what they add up to ------------------------------------------------------------------------------------

    def context_tokens(self) -> int:
        """What all have computed."""
        return self._leads + self.count * self._beat.steps

    def longest(self) -> int:
        """The most that one has computed; 0 if there is nobody."""
        if not self.count:
            return 0
        if self._longest is None:
            self._longest = max([seq.lead for seq in self._members()])
        return self._longest + self._beat.steps

    def left(self) -> int:
        """Steps until the first of them ends; there must be one."""
        ends = self._ends
        while (seq := ends[0][2]).beat is not self._beat or seq.place != ends[0][1]:
            heappop(ends)
        return ends[0][0] - self._beat.steps

    def rows(self, sequences: list[Sequence]) -> LazyRows:
        """The rows of these, which are all in order of place, at the step that is next. The list is kept."""
        return LazyRows(sequences, self._beat.steps)

    def check(self, running: list[Sequence]) -> None:
        """Raise InvariantBroken unless what is kept is what would be counted."""
        members = [seq for seq in running if seq.beat is not None]
        if any(seq.beat is not self._beat for seq in members) or {*map(id, self._members())} != {*map(id, members)}:
            raise InvariantBroken("batcher", "who decodes is not known")
        contexts = [seq.computed for seq in members]
        kept = (self.count, self.context_tokens(), self.longest(), self.streamed)
        counted = (len(members), sum(contexts), max(contexts, default=0), sum(seq.streamed for seq in members))
        if kept != counted or (members and self.left() != min(seq.end - seq.total for seq in members)):
            raise InvariantBroken("batcher", f"those who decode add up to {counted}, not {kept}")
