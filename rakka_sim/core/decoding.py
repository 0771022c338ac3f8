"""The sequences that decode: one token each a step, so what they add up to is kept, not counted. No policy is here.

Nothing is done to one of them per step or per run. All move with one beat: what a sequence has computed is its lead
plus the beat. Where many replicas take turns, looking at every sequence of a batch is mostly waiting for memory.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Collection
from heapq import heappop, heappush
from operator import attrgetter

from rakka_sim.core.plan_rows import LazyRows
from rakka_sim.core.sequence import Beat, Sequence
from rakka_sim.errors import InvariantBroken

_by_place = attrgetter("place")


class Decoding:
    """Those running sequences that have sampled in their newest step and lack just that token."""

    __slots__ = (
        "_bases",
        "_beat",
        "_counts",
        "_crossing",
        "_ends",
        "_leads",
        "_longest",
        "block_size",
        "count",
        "streamed",
        "twins",
    )

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self.clear()

    def clear(self) -> None:
        """Nobody decodes. Whoever did stays as it was."""
        self._beat = Beat()
        self.count = 0
        self.streamed = 0  # how many of them are
        self._leads = 0  # their sum
        self._longest: int | None = 0  # the highest lead; None: to be looked for
        # By the step of a cycle at which they take a block, counted from beat 0; each list in order of place.
        self._crossing: list[list[Sequence]] = [[] for _ in range(self.block_size)]
        self._counts = [0] * self.block_size  # how long those lists are
        self._ends: list[tuple[int, tuple[int, int], Sequence]] = []  # a heap; who has left stays until the top
        self._bases: dict[int, int] = {}  # how many have a last span with this base
        self.twins = 0  # how many share theirs with an earlier one: only they can fill blocks with equal keys

    # --- who comes and goes -------------------------------------------------------------------------------------

    def join(self, seq: Sequence) -> None:
        """It has sampled, and computes that token next."""
        lead = seq.start(self._beat)
        self.count += 1
        self.streamed += seq.streamed
        self._leads += lead
        if self._longest is not None and (lead > self._longest or self.count == 1):
            self._longest = lead
        at = -lead % self.block_size
        crossing = self._crossing[at]
        self._counts[at] += 1
        if crossing and crossing[-1].place > seq.place:
            insort(crossing, seq, key=_by_place)
        else:
            crossing.append(seq)
        heappush(self._ends, (seq.end - lead - 1, seq.place, seq))
        base = seq.keys.last
        known = self._bases.get(base, 0)
        self._bases[base] = known + 1
        self.twins += known > 0

    def leave(self, seq: Sequence) -> None:
        """It has as many tokens as it had at the beat that is now."""
        lead = seq.lead
        seq.stop()
        self.count -= 1
        self.streamed -= seq.streamed
        self._leads -= lead
        if lead == self._longest:
            self._longest = None
        at = -lead % self.block_size
        self._crossing[at].remove(seq)
        self._counts[at] -= 1
        base = seq.keys.last
        known = self._bases[base] - 1
        if known:
            self._bases[base] = known
            self.twins -= 1
        else:
            del self._bases[base]

    def dissolve(self) -> None:
        """Everybody leaves."""
        for crossing in self._crossing:
            for seq in crossing:
                seq.stop()
        self.clear()

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
            self._longest = max([seq.lead for crossing in self._crossing for seq in crossing])
        return self._longest + self._beat.steps

    def left(self) -> int:
        """Steps until the first of them ends; there must be one."""
        ends = self._ends
        while (seq := ends[0][2]).beat is not self._beat or seq.place != ends[0][1]:
            heappop(ends)
        return ends[0][0] - self._beat.steps

    def crossing(self, step: int) -> list[Sequence]:
        """Who takes a block at the step that comes after `step` others, in order of place; not to be kept."""
        return self._crossing[(self._beat.steps + step) % self.block_size]

    def cycle(self) -> list[list[Sequence]]:
        """The same for each step of a cycle, from the next step on."""
        at = self._beat.steps % self.block_size
        return self._crossing[at:] + self._crossing[:at]

    def crossings(self) -> list[int]:
        """How many they are at each step of a cycle."""
        at = self._beat.steps % self.block_size
        return self._counts[at:] + self._counts[:at]

    def rows(self, sequences: list[Sequence]) -> LazyRows:
        """The rows of these, which are all in order of place, at the step that is next. The list is kept."""
        return LazyRows(sequences, self._beat.steps)

    def check(self, running: list[Sequence]) -> None:
        """Raise InvariantBroken unless what is kept is what would be counted."""
        members = [seq for seq in running if seq.beat is not None]
        known = [seq for crossing in self._crossing for seq in crossing]
        if any(seq.beat is not self._beat for seq in members) or sorted(map(id, known)) != sorted(map(id, members)):
            raise InvariantBroken("batcher", "who decodes is not known")
        for step in range(self.block_size):
            due = [seq for seq in members if -seq.computed % self.block_size == step]
            if self.crossing(step) != due or self.crossings()[step] != len(due):
                raise InvariantBroken("batcher", f"who takes a block in {step} steps is not known")
        contexts = [seq.computed for seq in members]
        kept = (self.count, self.context_tokens(), self.longest(), self.streamed, self.twins)
        bases = {seq.keys.last for seq in members}
        streamed = sum(seq.streamed for seq in members)
        counted = (len(members), sum(contexts), max(contexts, default=0), streamed, len(members) - len(bases))
        if kept != counted or (members and self.left() != min(seq.end - seq.total for seq in members)):
            raise InvariantBroken("batcher", f"those who decode add up to {counted}, not {kept}")
