"""The placement actor: answers with a place, with a typed refusal that changes nothing, and never books a GPU twice."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rakka_sim.actors.placement import DeploymentPlacementActor, demand_of
from rakka_sim.config.base import parse
from rakka_sim.config.deployment import Deployment
from rakka_sim.errors import InputError, NoEgressNodes, NoGpuNodes, NotEnoughGpus, UnknownPlacement
from rakka_sim.messages import Place, Release, Released
from rakka_sim.runtime.sim import SimRuntime
from rakka_sim.values import NodeAssignment, PlacementConstraints, PlacementResult, TransportKind

TWO_NODES = PlacementConstraints({"a": 4, "b": 4}, ("e1", "e2"))


def deployment(name: str = "m", replicas: int = 1, gpus: int | None = None, **fields: Any) -> Deployment:
    return parse(
        Deployment, {"name": name, "model": "Qwen3-0.6B", "replicas": replicas, "gpus": gpus, **fields}, "test"
    )


class Placing:
    """One placement actor, asked from outside."""

    def __init__(self, policy: str = "exclusive", constraints: PlacementConstraints = TWO_NODES) -> None:
        self.system = SimRuntime()
        self.actor = self.system.spawn("placement", lambda: DeploymentPlacementActor(policy, constraints))

    def place(self, *args: Any, constraints: PlacementConstraints | None = None, **fields: Any) -> PlacementResult:
        result: PlacementResult = self.system.ask(
            self.actor, Place(deployment(*args, **fields), None, constraints), 1.0
        )
        return result

    def release(self, name: str) -> Released:
        released: Released = self.system.ask(self.actor, Release(name), 1.0)
        return released


def test_every_replica_gets_a_node_and_gpus_of_its_own() -> None:
    result = Placing().place("m", replicas=4, gpus=2)
    assert [assignment.replica_index for assignment in result.assignments] == [0, 1, 2, 3]
    taken = [(assignment.node, gpu) for assignment in result.assignments for gpu in assignment.gpus]
    assert sorted(taken) == [(node, gpu) for node in "ab" for gpu in range(4)]
    assert {assignment.node for assignment in result.assignments[:2]} == {"a", "b"}, "replicas spread over nodes"


def test_naive_is_upstreams_and_books_twice() -> None:
    placing = Placing("naive")
    for name in ("one", "two"):
        assert placing.place(name, replicas=3, gpus=2).assignments == (
            NodeAssignment(0, "a", (0, 1)),
            NodeAssignment(1, "b", (0, 1)),
            NodeAssignment(2, "a", (0, 1)),
        )


def test_a_refusal_changes_nothing() -> None:
    placing = Placing()
    placing.place("first", replicas=2, gpus=3)
    for replicas, gpus in ((1, 2), (3, 1), (1, 9)):
        with pytest.raises(NotEnoughGpus) as refusal:
            placing.place("second", replicas=replicas, gpus=gpus)
        assert (refusal.value.requested, refusal.value.deployment) == (gpus, "second")
    assert len(placing.place("second", replicas=2, gpus=1).assignments) == 2


def test_a_release_gives_everything_back() -> None:
    placing = Placing()
    whole = placing.place("m", replicas=2, gpus=4)
    assert placing.release("m") == Released("m")
    assert placing.place("m", replicas=2, gpus=4) == whole


def test_what_is_not_placed_cannot_be_released_and_a_name_is_placed_once() -> None:
    placing = Placing()
    with pytest.raises(UnknownPlacement) as unknown:
        placing.release("m")
    assert unknown.value.deployment == "m"
    placing.place("m")
    with pytest.raises(InputError, match="not placed yet"):
        placing.place("m")


def test_where_there_is_no_node_of_the_kind_the_error_says_which() -> None:
    none = PlacementConstraints()
    for policy in ("naive", "exclusive"):
        with pytest.raises(NoGpuNodes):
            Placing(policy, none).place("m")
        with pytest.raises(NoEgressNodes) as refusal:
            Placing(policy, none).place("r", model="gpt-4o")
        assert refusal.value.provider == "openai"


def test_a_remote_deployment_goes_where_its_provider_and_key_are_served() -> None:
    known = PlacementConstraints({}, ("e1", "e2", "e3"), {("openai", "k1"): ("e2",)})
    result = Placing(constraints=known).place("r", model="gpt-4o", replicas=2, runtime_config={"api_key": "k1"})
    assert [(assignment.node, assignment.gpus) for assignment in result.assignments] == [("e2", ()), ("e2", ())]
    other = Placing(constraints=known).place("r", model="gpt-4o", replicas=2, runtime_config={"api_key": "k2"})
    assert {assignment.node for assignment in other.assignments} == {"e1", "e2"}


def test_constraints_of_a_demand_count_for_it_alone() -> None:
    placing = Placing()
    only_b = PlacementConstraints({"b": 4})
    assert placing.place("m", replicas=2, constraints=only_b).assignments[1].node == "b"
    assert placing.place("n", replicas=1, gpus=4).assignments[0].node == "a"


def test_demands_are_read_off_deployments() -> None:
    local = deployment("m", 2, 4)
    assert (local.transport, demand_of(local).gpus, demand_of(local).provider) == (TransportKind.LOCAL_GPU, 4, "")
    remote = deployment("r", 2, model="claude-3-opus")
    assert (demand_of(remote).gpus, demand_of(remote).provider) == (0, "anthropic")


@given(
    nodes=st.lists(st.integers(0, 4), min_size=1, max_size=4),
    steps=st.lists(st.tuples(st.integers(0, 5), st.integers(1, 4), st.integers(1, 4)), max_size=25),
)
def test_no_gpu_is_booked_twice_and_what_fits_is_placed(nodes: list[int], steps: list[tuple[int, int, int]]) -> None:
    """Beside it a table of who has what. For one demand of equal replicas, fitting is a sum over nodes."""
    size = {f"n{number}": gpus for number, gpus in enumerate(nodes)}
    placing = Placing(constraints=PlacementConstraints(dict(size)))
    held: dict[str, list[tuple[str, int]]] = {}
    for number, replicas, gpus in steps:
        name = f"d{number}"
        if name in held:
            placing.release(name)
            del held[name]
            continue
        free = {
            node: gpus_there - sum(on == node for of in held.values() for on, _ in of)
            for node, gpus_there in size.items()
        }
        fits = sum(room // gpus for room in free.values()) >= replicas
        if not fits:
            with pytest.raises(NotEnoughGpus if any(nodes) else NoGpuNodes):
                placing.place(name, replicas=replicas, gpus=gpus)
            continue
        result = placing.place(name, replicas=replicas, gpus=gpus)
        mine = [(assignment.node, gpu) for assignment in result.assignments for gpu in assignment.gpus]
        assert len(mine) == replicas * gpus
        assert all(gpu < size[node] for node, gpu in mine)
        held[name] = mine
        everything = [place for of in held.values() for place in of]
        assert len(everything) == len(set(everything))
