"""How many replicas are wanted against what is there, and so what is to be done next; no engine and no GPU is here."""

from __future__ import annotations

import enum
from collections import Counter

from rakka_sim.errors import InvariantBroken


class Stage(enum.StrEnum):
    """How far a replica that has its GPUs has come."""

    PLACED = "placed"  # no engine runs on them
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


class Due(enum.StrEnum):
    """What is to be done about a replica now."""

    START = "start"  # an engine on its GPUs
    DRAIN = "drain"  # its engine, which goes on until it has nothing left
    RECALL = "recall"  # the drain is off: its engine goes on, unless it has nothing left already
    GIVE_BACK = "give back"  # its GPUs


# What happens to a replica, and from which stage to which; None is a replica without GPUs.
_MOVES: dict[str, dict[Stage | None, Stage | None]] = {
    "place": {None: Stage.PLACED},
    "start": {Stage.PLACED: Stage.STARTING},
    "ready": {Stage.STARTING: Stage.READY},
    "drain": {Stage.STARTING: Stage.DRAINING, Stage.READY: Stage.DRAINING},
    "recall": {Stage.DRAINING: Stage.STARTING},
    "end": {Stage.STARTING: Stage.PLACED, Stage.READY: Stage.PLACED, Stage.DRAINING: Stage.PLACED},
    "give_back": {Stage.PLACED: None},
    "lose": dict.fromkeys(Stage, None),
}


class Fleet:
    """The replicas of one deployment by number. Those below `wanted` are to serve, the others are to go.

    A replica that was given up is wanted no more until somebody says anew how many are.
    """

    __slots__ = ("_stages", "counts", "given_up", "wanted")

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.given_up: dict[int, None] = {}
        self._stages: dict[int, Stage] = {}
        self.counts: Counter[Stage] = Counter()

    # --- looking ----------------------------------------------------------------------------------------------------

    def stage(self, number: int) -> Stage | None:
        """How far a replica has come; None if it has no GPUs."""
        return self._stages.get(number)

    @property
    def numbers(self) -> tuple[int, ...]:
        """The replicas that have GPUs."""
        return tuple(self._stages)

    def lacking(self, wanted: int | None = None) -> tuple[int, ...]:
        """The wanted replicas without GPUs; with `wanted`, those that would be if so many were, given up or not."""
        if wanted is not None:
            return tuple(number for number in range(wanted) if number not in self._stages)
        return tuple(n for n in range(self.wanted) if n not in self._stages and n not in self.given_up)

    def due(self, number: int) -> Due | None:
        """What is to be done about a replica now; None: nothing, or it is under way."""
        stage = self._stages.get(number)
        needed = number < self.wanted and number not in self.given_up
        if stage is Stage.PLACED:
            return Due.START if needed else Due.GIVE_BACK
        if stage in (Stage.STARTING, Stage.READY) and not needed:
            return Due.DRAIN
        return Due.RECALL if stage is Stage.DRAINING and needed else None

    @property
    def up(self) -> bool:
        """Whether some serve, and every wanted one that has GPUs does."""
        return bool(self.counts[Stage.READY]) and not self.counts[Stage.PLACED] and not self.counts[Stage.STARTING]

    @property
    def coming(self) -> bool:
        """Whether some serve or will."""
        staying = len(self._stages) - self.counts[Stage.DRAINING]
        return staying > 0 or any(number < self.wanted for number in self._stages)

    @property
    def settled(self) -> bool:
        """Whether nothing is under way: each replica that has GPUs is ready."""
        return self.counts[Stage.READY] == len(self._stages)

    @property
    def hopeless(self) -> bool:
        """Whether every wanted replica has been given up."""
        return self.wanted > 0 and len(self.given_up) == self.wanted

    # --- what is wished, and what happens -----------------------------------------------------------------------------

    def want(self, wanted: int) -> tuple[int, ...]:
        """From now on so many are wanted. The replicas about which something may be due, the highest first."""
        self.wanted = wanted
        self.given_up.clear()
        return tuple(sorted(self._stages, reverse=True))

    def happens(self, number: int, what: str) -> None:
        """place, start, ready, drain, recall, end (of its engine), give_back, lose.

        Raises InvariantBroken for what cannot be.
        """
        before = self._stages.get(number)
        if before not in _MOVES[what]:
            raise InvariantBroken("fleet", f"replica {number} is {before or 'without GPUs'}: {what!r} cannot happen")
        after = _MOVES[what][before]
        if before is not None:
            self.counts[before] -= 1
        if after is None:
            del self._stages[number]
        else:
            self._stages[number] = after
            self.counts[after] += 1

    def give_up(self, number: int) -> None:
        """A wanted replica cannot serve where it is; it stays away until somebody says how many are wanted."""
        if not number < self.wanted:
            raise InvariantBroken("fleet", f"replica {number} is given up, and {self.wanted} are wanted")
        self.given_up[number] = None

    def check(self) -> None:
        """Raise InvariantBroken if the counts are not those of the replicas, or what is given up is not wanted."""
        if +self.counts != Counter(self._stages.values()):
            raise InvariantBroken("fleet", f"counts {dict(self.counts)} of {self._stages}")
        if not all(0 <= number < self.wanted for number in self.given_up):
            raise InvariantBroken("fleet", f"given up {list(self.given_up)}, and {self.wanted} are wanted")
