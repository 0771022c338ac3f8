"""The life tables: every state can be reached, what is over stays over."""

from __future__ import annotations

import pytest

from rakka_sim.core.lifecycle import DEPLOYMENT, REQUEST, WORKER, Lifecycle, Table, diagram
from rakka_sim.errors import InvariantBroken

OVER = {
    "request": (REQUEST, {"done", "failed", "cancelled"}),
    "worker": (WORKER, {"dead"}),
    "deployment": (DEPLOYMENT, {"stopped", "failed"}),
}


@pytest.mark.parametrize(("table", "over"), OVER.values(), ids=OVER)
def test_every_state_is_reached_and_only_final_ones_have_no_way_out(table: Table, over: set[str]) -> None:
    reached = {next(iter(table))}
    while new := {after for state in reached for after in table[state].values()} - reached:
        reached |= new
    assert reached == set(table)
    assert {state for state, moves in table.items() if not moves} == over


@pytest.mark.parametrize(("table", "over"), OVER.values(), ids=OVER)
def test_from_everywhere_life_can_end(table: Table, over: set[str]) -> None:
    ends = set(over)
    while new := {state for state, moves in table.items() if ends & set(moves.values())} - ends:
        ends |= new
    assert ends == set(table)


def test_a_request_that_lives_through_a_dead_engine() -> None:
    life = Lifecycle(REQUEST)
    path = [
        ("route", "routing"),
        ("dispatch", "queued"),
        ("schedule", "prefill"),
        ("first_token", "decode"),
        ("reroute", "received"),
        ("route", "routing"),
        ("dispatch", "queued"),
        ("schedule", "prefill"),
        ("first_token", "decode"),
        ("finish", "done"),
    ]
    assert [(event, life.fire(event)) for event, _ in path] == path
    assert life.over


@pytest.mark.parametrize("state", [state for state, moves in REQUEST.items() if moves])
def test_a_request_may_be_cancelled_or_fail_at_any_time(state: str) -> None:
    assert REQUEST[state]["cancel"] == "cancelled"
    assert REQUEST[state]["fail"] == "failed"


def test_an_illegal_move_says_what_was_possible() -> None:
    life = Lifecycle(DEPLOYMENT)
    with pytest.raises(InvariantBroken, match="'stop' happened in state 'pending'; possible: serve, drain, fail"):
        life.fire("stop")
    assert life.state == "pending"
    life.fire("fail")
    with pytest.raises(InvariantBroken, match="its life is over"):
        life.fire("serve")


def test_two_lives_of_one_table_do_not_meet() -> None:
    one, other = Lifecycle(WORKER), Lifecycle(WORKER)
    one.fire("ready")
    assert (one.state, other.state) == ("ready", "starting")
    assert not one.over


def test_a_diagram_shows_every_move() -> None:
    lines = diagram(DEPLOYMENT).splitlines()
    assert lines[:3] == ["stateDiagram-v2", "    [*] --> pending", "    pending --> serving: serve"]
    assert "    stopped --> [*]" in lines
    assert sum(": " in line for line in lines) == sum(len(moves) for moves in DEPLOYMENT.values())
