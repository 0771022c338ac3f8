"""Deployments and nodes come and go: whatever the order, no GPU is held twice and what is gone is free."""

from __future__ import annotations

import dataclasses

from core.placing_oracle import nodes
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rakka_sim.core.placing import POLICIES, Claim, Demand, Ledger, NodeFacts
from rakka_sim.errors import NodeChanged, PlacementError, UnknownNode
from rakka_sim.hardware.mig import MigState
from rakka_sim.values import NodeAssignment, PlacementResult

HONEST = sorted(POLICIES.keys() - {"naive"})
Replicas = dict[int, NodeAssignment]


class LedgerMachine(RuleBasedStateMachine):
    """Beside the ledger, a dict of who should have what."""

    @initialize(facts=nodes(4, fabrics=True), policy=st.sampled_from(HONEST), slices=st.booleans())
    def start(self, facts: list[NodeFacts], policy: str, slices: bool) -> None:
        if slices:
            facts = [dataclasses.replace(facts[0], sliced={0: MigState("A30")}), *facts[1:]]
        self.ledger = Ledger(facts, policy)
        self.facts = {fact.name: fact for fact in facts}
        self.held: dict[str, Replicas] = {}
        self.demands: dict[str, Demand] = {}
        self.down: list[str] = []
        self.next_id = 0

    def snapshot(self) -> object:
        return {name: (book.free_mask, book.hosted, book.epoch) for name, book in self.ledger.books.items()}

    @rule(
        replicas=st.integers(1, 4),
        gpus=st.integers(1, 9),
        kind=st.sampled_from(["gpus", "gpus", "island", "remote", "slice", "python"]),
    )
    def place(self, replicas: int, gpus: int, kind: str) -> None:
        name, self.next_id = f"d{self.next_id}", self.next_id + 1
        demand = {
            "gpus": Demand(name, replicas, gpus),
            "island": Demand(name, replicas, gpus, island="require"),
            "remote": Demand(name, replicas, 0, "openai", "k"),
            "slice": Demand(name, replicas, 1, profile="1g.6gb"),
            "python": Demand(name, replicas, 1, profile="2g.12gb", gil=True),
        }[kind]
        before = self.snapshot()
        try:
            result = self.ledger.place(demand)
        except PlacementError:
            assert self.snapshot() == before
            return
        self.demands[name] = demand
        self.held[name] = {each.replica_index: each for each in result.assignments}
        assert sorted(self.held[name]) == list(range(replicas))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(list(self.held)))
        self.ledger.release(name)
        del self.held[name], self.demands[name]

    @precondition(lambda self: self.held)
    @rule(data=st.data(), replicas=st.integers(1, 5))
    def resize(self, data: st.DataObject, replicas: int) -> None:
        name = data.draw(st.sampled_from(list(self.held)))
        demand = dataclasses.replace(self.demands[name], replicas=replicas)
        before, stays = self.snapshot(), {i: a for i, a in self.held[name].items() if i < replicas}
        try:
            result = self.ledger.resize(demand)
        except PlacementError:
            assert self.snapshot() == before
            return
        now = {each.replica_index: each for each in result.assignments}
        assert sorted(now) == list(range(replicas))
        assert {i: now[i] for i in stays} == stays
        self.held[name], self.demands[name] = now, demand

    @precondition(lambda self: len(self.down) < len(self.facts))
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        node = data.draw(st.sampled_from([name for name in self.facts if name not in self.down]))
        lost = self.ledger.fail(node)
        self.down.append(node)
        expected = {}
        for name, replicas in self.held.items():
            gone = tuple(i for i, each in replicas.items() if node in dict(each.parts))
            if gone:
                expected[name] = gone
            self.held[name] = {i: each for i, each in replicas.items() if i not in gone}
        assert {name: tuple(sorted(gone)) for name, gone in lost.items()} == {
            name: tuple(sorted(gone)) for name, gone in expected.items()
        }

    @precondition(lambda self: self.down)
    @rule(data=st.data())
    def come_back(self, data: st.DataObject) -> None:
        node = data.draw(st.sampled_from(self.down))
        self.down.remove(node)
        self.ledger.restore(node)
        assert self.ledger.books[node].hosted == 0
        assert list(self.ledger.books) == [name for name in self.facts if name not in self.down]

    @precondition(lambda self: len(self.down) < len(self.facts))
    @rule(data=st.data())
    def reserve_against_the_past(self, data: st.DataObject) -> None:
        """A reservation that names another state of the node than the present one is refused, whatever it asks for."""
        book = data.draw(st.sampled_from(list(self.ledger.books.values())))
        past = data.draw(st.integers(-3, 3).filter(bool))
        before = self.snapshot()
        try:
            book.reserve("late", book.epoch - past, Claim(Demand("late", 1), ()))
        except NodeChanged:
            assert self.snapshot() == before
        else:
            raise AssertionError("a reservation against another state was taken")

    @precondition(lambda self: len(self.down) < len(self.facts))
    @rule(data=st.data(), gpus=st.integers(1, 3))
    def reserve_and_think_better_of_it(self, data: st.DataObject, gpus: int) -> None:
        book = data.draw(st.sampled_from(list(self.ledger.books.values())))
        demand = Demand("maybe", 1, gpus)
        quote = book.quote(demand)
        if not quote.places:
            return
        free = book.free_mask
        claim = Claim(demand, (NodeAssignment(0, book.facts.name, quote.places[0].gpus),))
        book.reserve("maybe#1", quote.epoch, claim)
        assert book.free == quote.free - gpus
        book.abort("maybe#1")
        book.abort("maybe#1")
        assert book.free_mask == free
        assert book.epoch > quote.epoch

    @invariant()
    def who_has_what(self) -> None:
        if not hasattr(self, "ledger"):
            return
        self.ledger.check()
        expected: dict[tuple[str, int], list[str]] = {}
        for name, replicas in self.held.items():
            for each in replicas.values():
                for node, gpus in each.parts:
                    for gpu in gpus:
                        expected.setdefault((node, gpu), []).append(name)
        for node, fact in self.facts.items():
            for gpu in range(fact.shape.count):
                assert sorted(self.ledger.holders(node, gpu)) == sorted(expected.get((node, gpu), []))
                if gpu not in fact.sliced:
                    assert len(expected.get((node, gpu), [])) <= 1
        placed: dict[str, PlacementResult] = self.ledger.placed
        assert {name: {a.replica_index: a for a in result.assignments} for name, result in placed.items()} == self.held

    @invariant()
    def several_nodes_are_of_one_fabric(self) -> None:
        for name, replicas in getattr(self, "held", {}).items():
            for each in replicas.values():
                if not each.others:
                    continue
                assert sum(len(gpus) for _, gpus in each.parts) == self.demands[name].gpus
                facts = [self.facts[node] for node, _ in each.parts]
                assert len({fact.name for fact in facts}) == len(facts)
                assert len({(fact.fabric and fact.fabric.name, fact.gpu_model) for fact in facts}) == 1
                for fact, (_, gpus) in zip(facts, each.parts, strict=True):
                    assert gpus
                    assert fact.fabric is not None
                    assert all(fact.fabric.cost(gpu, 2, 1) is not None for gpu in gpus)

    @invariant()
    def slices_are_apart_and_interpreters_are_not_shared(self) -> None:
        for name, book in getattr(self, "ledger", Ledger([])).books.items():
            if 0 not in book.facts.sliced:
                continue
            there = [
                (a.slice.profile, a.slice.start)
                for replicas in self.held.values()
                for a in replicas.values()
                if a.node == name and a.slice is not None
            ]
            assert MigState("A30", tuple(there)).remaining() == book.board(0).remaining()
            python = {n for n, r in self.held.items() for a in r.values() if a.node == name and self.demands[n].gil}
            assert len(python) <= 1


TestLedgerMachine = LedgerMachine.TestCase


def test_only_nodes_there_are_can_fail_or_come_back() -> None:
    ledger = Ledger([NodeFacts("a"), NodeFacts("b")])
    ledger.fail("a")
    for call in (lambda: ledger.fail("a"), lambda: ledger.fail("x"), lambda: ledger.restore("b")):
        try:
            call()
        except UnknownNode:
            continue
        raise AssertionError("a node that is not there")
