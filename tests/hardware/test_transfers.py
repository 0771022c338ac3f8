"""Transfers without a clock: the same ends however often one looks and in whatever order they start."""

from __future__ import annotations

import math

import pytest
from hardware.test_links import Job, capacities, fluid, jobs_strategy, paths
from hypothesis import given
from hypothesis import strategies as st

from rakka_sim.errors import InputError, UnknownName
from rakka_sim.hardware.transfers import Link, Moving, Transfers


def links(capacity: dict[str, int]) -> list[Link]:
    return [Link(name, float(most)) for name, most in capacity.items()]


def played(jobs: list[Job], transfers: Transfers) -> list[Moving]:
    """Start and cancel as the jobs say, looking at nothing else: what arrives meanwhile arrives."""
    made: dict[int, Moving] = {}
    for now in sorted({job.at for job in jobs} | {job.at + job.patience for job in jobs if job.patience is not None}):
        for number, job in enumerate(jobs):
            if job.patience is not None and job.at + job.patience == now:
                transfers.cancel(now, made[number])
        for number, job in enumerate(jobs):
            if job.at == now:
                made[number] = transfers.start(now, job.path, job.size)
        transfers.check()
    arrived = transfers.advance(1e6)
    assert sorted(moving.order for moving in arrived) == [m.order for m in made.values() if not m.cancelled]
    assert [moving.ended for moving in arrived] == sorted(moving.ended or 0.0 for moving in arrived)
    assert (transfers.active, transfers.next_end()) == ((), None)
    return [made[number] for number in range(len(jobs))]


@given(jobs_strategy, capacities)
def test_who_looks_late_finds_every_end_where_it_was(jobs: list[Job], capacity: dict[str, int]) -> None:
    fluid(jobs, capacity)
    for job, moving in zip(jobs, played(jobs, Transfers(links(capacity))), strict=True):
        assert job.ended is not None
        assert moving.ended == pytest.approx(float(job.ended), rel=1e-9, abs=1e-9)
        assert moving.size - moving.left == pytest.approx(float(job.size - job.left), rel=1e-9, abs=1e-7)


flows = st.lists(st.tuples(paths, st.integers(1, 200)), min_size=1, max_size=12)


@given(flows, capacities, st.randoms(use_true_random=False), st.floats(0, 1e6))
def test_ends_do_not_depend_on_the_order_of_start_in_the_last_digit(
    together: list[tuple[tuple[str, ...], int]], capacity: dict[str, int], chance: object, now: float
) -> None:
    order = list(range(len(together)))
    chance.shuffle(order)  # type: ignore[attr-defined]
    ends = []
    for numbers in (range(len(together)), order):
        transfers = Transfers(links(capacity), now)
        made = {number: transfers.start(now, *together[number]) for number in numbers}
        assert len(transfers.advance(math.nextafter(now + 1e6, math.inf))) == len(together)
        ends.append([made[number].ended for number in range(len(together))])
    assert ends[0] == ends[1]


def test_where_rounding_would_tell_the_order_of_start_it_does_not() -> None:
    """Two links full at the same rate: which of them is settled first decides a last digit of the others."""
    known = [Link("a", 3.0), Link("b", 27 / 7), Link("c", 5 / 7), Link("d", 1.0)]
    paths = ["bd", "bacd", "d", "cdba", "d", "bdc", "d", "a", "bca", "cb"]
    ends = []
    for numbers in (range(10), (8, 7, 5, 3, 1, 0, 4, 2, 9, 6)):
        transfers = Transfers(known)
        made = {number: transfers.start(0.0, tuple(paths[number]), 10) for number in numbers}
        transfers.advance(1e6)
        ends.append([made[number].ended for number in range(10)])
    assert ends[0] == ends[1]


@given(flows, flows, capacities, st.floats(0, 10))
def test_ends_do_not_depend_on_what_moves_elsewhere(
    here: list[tuple[tuple[str, ...], int]],
    there: list[tuple[tuple[str, ...], int]],
    capacity: dict[str, int],
    later: float,
) -> None:
    ends = []
    for with_others in (False, True):
        elsewhere = [Link(f"far {name}", float(most)) for name, most in capacity.items()]
        transfers = Transfers([*links(capacity), *elsewhere])
        made = [transfers.start(0.0, path, size) for path, size in here]
        for path, size in there if with_others else []:
            transfers.start(later, [f"far {link}" for link in path], size)
        transfers.advance(1e6)
        ends.append([moving.ended for moving in made])
    assert ends[0] == ends[1]


def test_what_a_link_has_carried_and_what_is_left() -> None:
    """10 B/s. Alone for 1 s, two for 2 s (10 each), then one gives up and the other has 4 left of 24: 0.4 s."""
    transfers = Transfers([Link("x", 10.0)])
    first = transfers.start(0.0, ("x",), 50)
    second = transfers.start(1.0, ("x",), 24)
    assert (transfers.carried("x", 1.0), transfers.carried("x", 2.0)) == (10.0, 20.0)
    assert (first.left_at(2.0), second.left_at(2.0)) == (35.0, 19.0)
    transfers.cancel(3.0, first)
    assert (first.cancelled, first.left, first.ended) == (True, 30.0, 3.0)
    assert transfers.next_end() == 3.0 + 14.0 / 10.0
    assert transfers.advance(4.0) == []
    assert transfers.advance(5.0) == [second]
    transfers.cancel(5.0, second)
    assert (second.cancelled, second.ended, transfers.carried("x", 6.0)) == (False, 4.4, 44.0)


def test_nothing_to_move_has_arrived_at_once() -> None:
    transfers = Transfers([Link("x", 10.0)])
    nothing = transfers.start(2.0, ("x",), 0)
    assert (nothing.ended, transfers.next_end()) == (2.0, None)
    assert transfers.advance(2.0) == [nothing]
    assert transfers.advance(2.0) == []


def test_what_does_not_last_a_digit_of_the_clock_ends_at_once() -> None:
    """At 10^9 s a byte over 10 GB/s takes less than the clock can tell."""
    transfers = Transfers([Link("x", 1e10)], 1e9)
    moving = transfers.start(1e9, ("x",), 1)
    assert transfers.next_end() == 1e9
    assert transfers.advance(1e9) == [moving]


def test_time_does_not_go_back_and_links_keep_their_rate() -> None:
    transfers = Transfers([Link("x", 10.0)])
    transfers.start(5.0, ("x",), 1)
    for wrong in (4.0, math.nan, math.inf):
        with pytest.raises(InputError, match="time of a transfer"):
            transfers.advance(wrong)
    transfers.know(Link("x", 10.0))
    with pytest.raises(InputError, match=r"bytes/s of link x: 11.0 is not allowed; allowed: 10.0, as before"):
        transfers.know(Link("x", 11.0))
    with pytest.raises(UnknownName, match="link: 'y' is not allowed; allowed: x"):
        transfers.carried("y", 6.0)
