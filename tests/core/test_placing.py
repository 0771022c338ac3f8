"""Placement: what upstream's policy does, and one that holds what it promises, against brute force."""

from __future__ import annotations

from itertools import combinations_with_replacement

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rakka_sim.core.placing import POLICIES, Demand, Ledger, exclusive, make_policy, naive
from rakka_sim.errors import (
    InputError,
    InvariantBroken,
    NoEgressNodes,
    NoGpuNodes,
    NotEnoughGpus,
    PlacementError,
    UnknownName,
    UnknownPlacement,
)
from rakka_sim.values import NodeAssignment, PlacementConstraints, PlacementResult

TWO_NODES = PlacementConstraints(gpu_nodes={"a": 8, "b": 8}, egress_nodes=("x", "y", "z"))


def places(result: PlacementResult) -> list[tuple[str, tuple[int, ...]]]:
    assert [each.replica_index for each in result.assignments] == list(range(len(result.assignments)))
    return [(each.node, each.gpus) for each in result.assignments]


def can_be_placed(free: list[int], replicas: int, gpus: int) -> bool:
    """By trying every way to spread the replicas over the nodes."""
    ways = combinations_with_replacement(range(len(free)), replicas)
    return any(all(way.count(node) * gpus <= free[node] for node in range(len(free))) for way in ways)


@settings(max_examples=2 * settings.default.max_examples)
@given(st.lists(st.integers(0, 8), max_size=4), st.data())
def test_whatever_fits_is_placed_and_nothing_else(sizes: list[int], data: st.DataObject) -> None:
    constraints = PlacementConstraints(gpu_nodes={f"n{at}": size for at, size in enumerate(sizes)})
    used = {
        node: {gpu: ["other"] for gpu in range(size) if data.draw(st.booleans())}
        for node, size in constraints.gpu_nodes.items()
    }
    demand = Demand("d", data.draw(st.integers(1, 5)), data.draw(st.integers(1, 5)))
    free = [size - len(used[node]) for node, size in constraints.gpu_nodes.items()]
    if not any(sizes):
        with pytest.raises(NoGpuNodes):
            exclusive(used, demand, constraints)
    elif can_be_placed(free, demand.replicas, demand.gpus):
        result = exclusive(used, demand, constraints)
        taken = [(node, gpu) for node, gpus in places(result) for gpu in gpus]
        assert len(set(taken)) == len(taken) == demand.replicas * demand.gpus
        assert all(gpu < constraints.gpu_nodes[node] and gpu not in used[node] for node, gpu in taken)
    else:
        with pytest.raises(NotEnoughGpus) as refused:
            exclusive(used, demand, constraints)
        assert (refused.value.requested, refused.value.deployment) == (demand.gpus, "d")


class LedgerMachine(RuleBasedStateMachine):
    """Deployments come and go; no GPU is ever held twice, and what is released is free."""

    @initialize(sizes=st.lists(st.integers(0, 6), min_size=1, max_size=4))
    def start(self, sizes: list[int]) -> None:
        nodes = {f"n{at}": size for at, size in enumerate(sizes)}
        self.ledger = Ledger(PlacementConstraints(nodes, ("x", "y")))
        self.held: dict[str, PlacementResult] = {}
        self.next_id = 0

    @rule(replicas=st.integers(1, 4), gpus=st.integers(1, 4), remote=st.booleans())
    def place(self, replicas: int, gpus: int, remote: bool) -> None:
        name, self.next_id = f"d{self.next_id}", self.next_id + 1
        try:
            self.held[name] = self.ledger.place(Demand(name, replicas, gpus, "openai" if remote else ""))
        except PlacementError:
            assert not remote

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(list(self.held)))
        self.ledger.release(name)
        del self.held[name]

    @invariant()
    def who_has_what(self) -> None:
        if not hasattr(self, "ledger"):
            return
        self.ledger.check()
        expected = {
            (each.node, gpu): (name,)
            for name, result in self.held.items()
            for each in result.assignments
            for gpu in each.gpus
        }
        for node, size in self.ledger.constraints.gpu_nodes.items():
            for gpu in range(size):
                assert self.ledger.holders(node, gpu) == expected.get((node, gpu), ())


TestLedgerMachine = LedgerMachine.TestCase


def test_naive_is_upstreams_policy() -> None:
    assert places(naive({}, Demand("d", 3, 2), TWO_NODES)) == [("a", (0, 1)), ("b", (0, 1)), ("a", (0, 1))]
    assert places(naive({}, Demand("d", 1, 99), TWO_NODES)) == [("a", tuple(range(99)))]
    remote = Demand("r", 4, provider="openai", api_key="k")
    chosen = PlacementConstraints({}, ("x", "y", "z"), {("openai", "k"): ("z",)})
    assert places(naive({}, remote, chosen)) == [("x", ()), ("y", ()), ("z", ()), ("x", ())]


def test_naive_books_a_gpu_twice_and_the_ledger_says_so() -> None:
    ledger = Ledger(TWO_NODES, "naive")
    ledger.place(Demand("one", 3, 2))
    ledger.place(Demand("two", 1, 1))
    assert ledger.holders("a", 0) == ("one", "one", "two")
    assert ledger.double_booked() == {("a", 0): ("one", "one", "two"), ("a", 1): ("one", "one")}
    with pytest.raises(InvariantBroken, match="GPU 0 of a has 3 holders: one, one, two"):
        ledger.check()
    ledger.release("one")
    ledger.check()
    assert ledger.holders("a", 0) == ("two",)


def test_naive_hands_out_gpus_that_do_not_exist() -> None:
    ledger = Ledger(PlacementConstraints({"a": 2}), "naive")
    ledger.place(Demand("one", 1, 4))
    with pytest.raises(InvariantBroken, match=r"a has no GPUs \[2, 3\]"):
        ledger.check()


def test_the_worked_example() -> None:
    ledger = Ledger(TWO_NODES)
    assert places(ledger.place(Demand("llama-70b", 2, 4))) == [("a", (0, 1, 2, 3)), ("b", (0, 1, 2, 3))]
    whisper = places(ledger.place(Demand("whisper", 4, 1)))
    assert whisper == [("a", (4,)), ("b", (4,)), ("a", (5,)), ("b", (5,))]


def test_replicas_go_to_other_nodes_before_fuller_ones() -> None:
    constraints = PlacementConstraints({"small": 2, "big": 8})
    assert [node for node, _ in places(exclusive({}, Demand("d", 3, 2), constraints))] == ["big", "small", "big"]


def test_a_refusal_changes_nothing() -> None:
    ledger = Ledger(PlacementConstraints({"a": 4, "b": 3}))
    with pytest.raises(NotEnoughGpus, match="'big' requires 2 GPUs"):
        ledger.place(Demand("big", 4, 2))
    assert places(ledger.place(Demand("big", 3, 2))) == [("a", (0, 1)), ("b", (0, 1)), ("a", (2, 3))]


def test_constraints_of_a_demand_take_the_place_of_the_ledgers() -> None:
    ledger = Ledger(TWO_NODES)
    only_b = PlacementConstraints(gpu_nodes={"b": 8})
    assert places(ledger.place(Demand("one", 1), only_b)) == [("b", (0,))]
    assert places(ledger.place(Demand("two", 1), only_b)) == [("b", (1,))]


def test_a_remote_deployment_goes_where_its_key_is_served_already() -> None:
    remote = Demand("r", 3, provider="openai", api_key="k")
    known = PlacementConstraints({}, ("x", "y", "z"), {("openai", "k"): ("z", "gone", "y")})
    assert places(exclusive({}, remote, known)) == [("y", ()), ("z", ()), ("y", ())]
    assert places(exclusive({}, remote, TWO_NODES)) == [("x", ()), ("y", ()), ("z", ())]
    gone = PlacementConstraints({}, ("x",), {("openai", "k"): ("gone",)})
    assert places(exclusive({}, remote, gone)) == [("x", ())] * 3


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_without_nodes_there_is_no_place(policy: str) -> None:
    ledger = Ledger(PlacementConstraints(), policy)
    with pytest.raises(NoGpuNodes):
        ledger.place(Demand("d", 1))
    with pytest.raises(NoEgressNodes) as refused:
        ledger.place(Demand("d", 1, provider="gemini"))
    assert refused.value.provider == "gemini"


def test_names_are_placed_once_and_released_once() -> None:
    ledger = Ledger(TWO_NODES)
    ledger.place(Demand("d", 1))
    with pytest.raises(InputError, match="not placed yet"):
        ledger.place(Demand("d", 1))
    ledger.release("d")
    with pytest.raises(UnknownPlacement):
        ledger.release("d")


def test_a_users_function_is_a_policy_and_an_unknown_name_is_told_what_there_is() -> None:
    def always_a(used: object, demand: Demand, constraints: PlacementConstraints) -> PlacementResult:
        return PlacementResult(demand.deployment, (NodeAssignment(0, "a", (7,)),))

    assert Ledger(TWO_NODES, always_a).place(Demand("d", 1)).assignments[0].gpus == (7,)
    with pytest.raises(UnknownName, match="naive, exclusive"):
        make_policy("best")
