"""Faults that random clusters seldom show: room within islands, epochs, a gang that is given up halfway."""

from __future__ import annotations

from core.placing_oracle import Links

from rakka_sim.core.placing import POLICIES, Alike, Demand, Ledger, NodeFacts, Plan
from rakka_sim.core.placing.greedy import Greedy
from rakka_sim.errors import NotEnoughGpus

CHAIN = Links(((0, 2, 0, 0), (2, 0, 3, 0), (0, 3, 0, 2), (0, 0, 2, 0)))


def test_the_best_pair_is_left_where_it_would_take_the_room_of_another() -> None:
    result = Ledger([NodeFacts("n", CHAIN)]).place(Demand("d", 2, 2, island="require"))
    assert {each.gpus for each in result.assignments} == {(0, 1), (2, 3)}


def test_a_release_and_a_return_give_a_node_a_new_epoch() -> None:
    ledger = Ledger([NodeFacts("n", Alike(2))])
    ledger.place(Demand("d", 1))
    placed = ledger.books["n"].epoch
    ledger.release("d")
    released = ledger.books["n"].epoch
    ledger.fail("n")
    ledger.restore("n")
    assert placed < released < ledger.books["n"].epoch


def test_a_gang_given_up_halfway_leaves_its_gpus() -> None:
    greedy = Greedy(Ledger([NodeFacts("n", Alike(3))]).books.values(), POLICIES["topology"])
    assert isinstance(greedy.place(Demand("two", 2, 2)), NotEnoughGpus)
    assert isinstance(greedy.place(Demand("one", 1, 3)), Plan)
