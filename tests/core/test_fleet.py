"""The fleet beside a naive model, in which every replica is a row and every question is asked of all rows."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rakka_sim.core.fleet import Due, Fleet, Stage
from rakka_sim.errors import InvariantBroken

NUMBERS = st.integers(0, 6)


class FleetMachine(RuleBasedStateMachine):
    """Wishes, places, engines and losses in any order that the fleet's own questions allow."""

    @initialize(wanted=st.integers(1, 5))
    def begin(self, wanted: int) -> None:
        self.fleet, self.wanted = Fleet(wanted), wanted
        self.rows: dict[int, str] = {}
        self.given_up: set[int] = set()

    def of(self, *stages: str) -> list[int]:
        return sorted(number for number, stage in self.rows.items() if stage in stages)

    def needed(self, number: int) -> bool:
        return number < self.wanted and number not in self.given_up

    @rule(wanted=st.integers(0, 5))
    def want(self, wanted: int) -> None:
        assert list(self.fleet.want(wanted)) == sorted(self.rows, reverse=True), "the highest go first"
        self.wanted, self.given_up = wanted, set()

    @rule(number=NUMBERS)
    def place(self, number: int) -> None:
        if number in self.rows:
            with pytest.raises(InvariantBroken):
                self.fleet.happens(number, "place")
        else:
            self.fleet.happens(number, "place")
            self.rows[number] = "placed"

    @rule(number=NUMBERS)
    def do_what_is_due(self, number: int) -> None:
        due, stage = self.fleet.due(number), self.rows.get(number)
        if stage == "placed":
            assert due is (Due.START if self.needed(number) else Due.GIVE_BACK)
        elif stage in ("starting", "ready"):
            assert due is (None if self.needed(number) else Due.DRAIN)
        else:
            assert due is (Due.RECALL if stage == "draining" and self.needed(number) else None)
        if due is Due.GIVE_BACK:
            self.fleet.happens(number, "give_back")
            del self.rows[number]
        elif due is not None:
            self.fleet.happens(number, due.value)
            self.rows[number] = "draining" if due is Due.DRAIN else "starting"

    @rule(number=NUMBERS, what=st.sampled_from(["ready", "end", "lose", "give_back", "start", "drain", "recall"]))
    def something_happens(self, number: int, what: str) -> None:
        possible = {
            "ready": {"starting": "ready"},
            "end": {"starting": "placed", "ready": "placed", "draining": "placed"},
            "lose": dict.fromkeys(("placed", "starting", "ready", "draining"), ""),
            "give_back": {"placed": ""},
            "start": {"placed": "starting"},
            "drain": {"starting": "draining", "ready": "draining"},
            "recall": {"draining": "starting"},
        }[what]
        stage = self.rows.get(number)
        if stage not in possible:
            with pytest.raises(InvariantBroken):
                self.fleet.happens(number, what)
            return
        self.fleet.happens(number, what)
        self.rows[number] = possible[stage]
        if not self.rows[number]:
            del self.rows[number]

    @rule(number=NUMBERS)
    def give_up(self, number: int) -> None:
        if number < self.wanted:
            self.fleet.give_up(number)
            self.given_up.add(number)
        else:
            with pytest.raises(InvariantBroken):
                self.fleet.give_up(number)

    @invariant()
    @precondition(lambda self: hasattr(self, "fleet"))
    def answers_are_those_of_the_rows(self) -> None:
        fleet = self.fleet
        fleet.check()
        assert sorted(fleet.numbers) == sorted(self.rows)
        assert {n: fleet.stage(n) for n in range(7)} == {n: self.rows.get(n) for n in range(7)}
        assert list(fleet.lacking()) == [n for n in range(self.wanted) if n not in self.rows and self.needed(n)]
        assert list(fleet.lacking(6)) == [n for n in range(6) if n not in self.rows]
        assert fleet.counts[Stage.READY] == len(self.of("ready"))
        assert fleet.up == (bool(self.of("ready")) and not self.of("placed", "starting"))
        assert fleet.settled == (not self.of("placed", "starting", "draining"))
        assert fleet.hopeless == (self.wanted > 0 and self.given_up == set(range(self.wanted)))
        staying = self.of("placed", "starting", "ready") or [n for n in self.of("draining") if n < self.wanted]
        assert fleet.coming == bool(staying)


TestFleet = FleetMachine.TestCase
TestFleet.settings = settings(deadline=None, stateful_step_count=40)


def test_a_fleet_that_does_what_is_due_gets_what_is_wanted() -> None:
    """From any state, whatever was wanted before: as many serve as are wanted, and nobody else has a GPU."""
    fleet = Fleet(4)
    for number in range(4):
        for what in ("place", "start", "ready"):
            fleet.happens(number, what)
    fleet.happens(1, "drain")  # as of a wish that is past
    fleet.want(2)
    for number in (3, 2):
        assert fleet.due(number) is Due.DRAIN
        fleet.happens(number, "drain")
    assert [fleet.due(number) for number in range(4)] == [None, Due.RECALL, None, None]
    for number in (3, 1, 2):
        fleet.happens(number, "end")
    assert [fleet.due(number) for number in range(4)] == [None, Due.START, Due.GIVE_BACK, Due.GIVE_BACK]


def test_what_is_counted_wrong_is_found() -> None:
    fleet = Fleet(2)
    fleet.happens(0, "place")
    fleet.counts[Stage.READY] += 1
    with pytest.raises(InvariantBroken, match="counts"):
        fleet.check()
    fleet = Fleet(2)
    fleet.given_up[2] = None
    with pytest.raises(InvariantBroken, match="given up"):
        fleet.check()
