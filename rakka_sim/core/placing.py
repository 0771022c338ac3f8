"""Which node and which GPUs a replica gets: pure policies, and a ledger of who has what. No topology and no actor here.

A policy reads GPUs in use and returns a whole placement or raises; it never changes anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from rakka_sim.errors import (
    InputError,
    InvariantBroken,
    NoEgressNodes,
    NoGpuNodes,
    NotEnoughGpus,
    UnknownName,
    UnknownPlacement,
)
from rakka_sim.values import NodeAssignment, PlacementConstraints, PlacementResult, value

# node -> GPU -> the deployments on it
Used = Mapping[str, Mapping[int, list[str]]]


@value
class Demand:
    """What a deployment asks for. A remote one has a `provider` and needs no GPUs."""

    deployment: str
    replicas: int
    gpus: int = 1
    provider: str = ""
    api_key: str = ""


class PlacingPolicy(Protocol):
    """A placement for every replica; raises NoGpuNodes, NotEnoughGpus or NoEgressNodes."""

    def __call__(self, used: Used, demand: Demand, constraints: PlacementConstraints) -> PlacementResult: ...


def naive(used: Used, demand: Demand, constraints: PlacementConstraints) -> PlacementResult:
    """Upstream's policy as it is: nodes in turn, always the first GPUs, whoever has them and whether they exist."""
    nodes = _nodes(demand, constraints)
    gpus = () if demand.provider else tuple(range(demand.gpus))
    return _result(demand, [(nodes[i % len(nodes)], gpus) for i in range(demand.replicas)])


def exclusive(used: Used, demand: Demand, constraints: PlacementConstraints) -> PlacementResult:
    """No GPU twice; a replica's GPUs on one node. Replicas spread over nodes, those with most free GPUs first.

    Every demand that fits is placed: replicas are alike, so none takes a place that another needs more. A remote
    deployment goes to egress nodes that serve its (provider, api_key) already, where there are any.
    """
    nodes = _nodes(demand, constraints)
    if demand.provider:
        known = constraints.egress_preference.get((demand.provider, demand.api_key), ())
        nodes = [node for node in nodes if node in known] or nodes
        return _result(demand, [(nodes[i % len(nodes)], ()) for i in range(demand.replicas)])
    free = {
        node: [gpu for gpu in range(constraints.gpu_nodes[node]) if not used.get(node, {}).get(gpu)] for node in nodes
    }
    replicas_on = dict.fromkeys(nodes, 0)
    places: list[tuple[str, tuple[int, ...]]] = []
    for _ in range(demand.replicas):
        fitting = [node for node in nodes if len(free[node]) >= demand.gpus]
        if not fitting:
            raise NotEnoughGpus(demand.gpus, demand.deployment)
        node = min(fitting, key=lambda name: (replicas_on[name], -len(free[name])))  # ties: in order of the nodes
        taken, free[node] = free[node][: demand.gpus], free[node][demand.gpus :]
        replicas_on[node] += 1
        places.append((node, tuple(taken)))
    return _result(demand, places)


def _nodes(demand: Demand, constraints: PlacementConstraints) -> list[str]:
    if demand.provider:
        if not constraints.egress_nodes:
            raise NoEgressNodes(demand.provider)
        return list(constraints.egress_nodes)
    nodes = [node for node, gpus in constraints.gpu_nodes.items() if gpus > 0]
    if not nodes:
        raise NoGpuNodes
    return nodes


def _result(demand: Demand, places: list[tuple[str, tuple[int, ...]]]) -> PlacementResult:
    assignments = (NodeAssignment(replica, node, gpus) for replica, (node, gpus) in enumerate(places))
    return PlacementResult(demand.deployment, tuple(assignments))


POLICIES: dict[str, PlacingPolicy] = {"naive": naive, "exclusive": exclusive}


def make_policy(policy: str | PlacingPolicy) -> PlacingPolicy:
    """A policy by its name in `POLICIES`, or a function as it is; raises UnknownName."""
    if isinstance(policy, str):
        if policy not in POLICIES:
            raise UnknownName("placement policy", policy, ", ".join(POLICIES))
        return POLICIES[policy]
    return policy


class Ledger:
    """Who has which GPU of a cluster."""

    __slots__ = ("_placed", "_policy", "_used", "constraints")

    def __init__(self, constraints: PlacementConstraints, policy: str | PlacingPolicy = exclusive) -> None:
        self.constraints = constraints
        self._policy = make_policy(policy)
        self._placed: dict[str, PlacementResult] = {}
        self._used: dict[str, dict[int, list[str]]] = {}

    def place(self, demand: Demand, constraints: PlacementConstraints | None = None) -> PlacementResult:
        """Place a deployment whole, or raise a PlacementError and change nothing.

        `constraints` take the place of the ledger's own for this demand only.
        """
        if demand.deployment in self._placed:
            raise InputError("deployment", demand.deployment, "a name that is not placed yet")
        result = self._policy(self._used, demand, constraints or self.constraints)
        for assignment in result.assignments:
            gpus = self._used.setdefault(assignment.node, {})
            for gpu in assignment.gpus:
                gpus.setdefault(gpu, []).append(demand.deployment)
        self._placed[demand.deployment] = result
        return result

    def release(self, deployment: str) -> None:
        """Free a deployment's GPUs; raises UnknownPlacement."""
        result = self._placed.pop(deployment, None)
        if result is None:
            raise UnknownPlacement(deployment)
        for assignment in result.assignments:
            for gpu in assignment.gpus:
                self._used[assignment.node][gpu].remove(deployment)

    def holders(self, node: str, gpu: int) -> tuple[str, ...]:
        """The deployments on a GPU, once for each replica."""
        return tuple(self._used.get(node, {}).get(gpu, ()))

    def double_booked(self) -> dict[tuple[str, int], tuple[str, ...]]:
        """GPUs that more than one replica has, with their deployments."""
        return {
            (node, gpu): tuple(holders)
            for node, gpus in self._used.items()
            for gpu, holders in gpus.items()
            if len(holders) > 1
        }

    def check(self) -> None:
        """Raise InvariantBroken if a GPU has two holders or does not exist; under `naive` that is to be expected."""
        for (node, gpu), holders in self.double_booked().items():
            raise InvariantBroken("placement", f"GPU {gpu} of {node} has {len(holders)} holders: {', '.join(holders)}")
        for node, gpus in self._used.items():
            beyond = [
                gpu for gpu, holders in gpus.items() if holders and gpu >= self.constraints.gpu_nodes.get(node, 0)
            ]
            if beyond:
                raise InvariantBroken("placement", f"{node} has no GPUs {beyond}")
