"""Why a deployment, a replica or a slice has no place; nothing about requests may be here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rakka_sim.errors.base import RakkaError


class PlacementError(RakkaError):
    """A deployment that cannot be placed."""


class NoGpuNodes(PlacementError):
    """A local deployment, and no node has a GPU."""

    def __str__(self) -> str:
        return "no GPU nodes available"


@dataclass(eq=False)
class NoEgressNodes(PlacementError):
    """A remote deployment, and no node may reach its provider (from its region, if it names one)."""

    provider: str
    region: str = ""

    def __str__(self) -> str:
        where = f" in region {self.region!r}" if self.region else ""
        return f"no egress nodes available for provider {self.provider!r}{where}"


@dataclass(eq=False)
class NotEnoughGpus(PlacementError):
    """Too few GPUs free: `free` is what each node that might have served had when the deployment came.

    `fabrics`: the same of NVLink domains that span nodes, those GPUs that are joined.
    """

    requested: int
    deployment: str = ""
    replicas: int = 1
    free: Sequence[tuple[str, int]] = ()
    fabrics: Sequence[tuple[str, int]] = ()

    def __str__(self) -> str:
        who = f"deployment {self.deployment!r}" if self.deployment else "deployment"
        had = ", ".join(f"{node} {gpus}" for node, gpus in list(self.free)[:8])
        more = f" and {len(self.free) - 8} nodes more" if len(self.free) > 8 else ""
        found = f"; free: {had}{more}" if had else ""
        joined = ", ".join(f"{fabric} {gpus}" for fabric, gpus in list(self.fabrics)[:8])
        found += f"; free in NVLink domains: {joined}" if joined else ""
        return f"{who} requires {self.requested} GPUs for each of {self.replicas} replicas{found}"


@dataclass(eq=False)
class NoSuitableNodes(PlacementError):
    """No node may serve the deployment, whatever is free: `reasons` says why, node by node."""

    deployment: str
    reasons: Sequence[tuple[str, str]] = ()

    def __str__(self) -> str:
        why = "; ".join(f"{node}: {reason}" for node, reason in list(self.reasons)[:8])
        more = f"; and {len(self.reasons) - 8} nodes more" if len(self.reasons) > 8 else ""
        return f"no node may serve deployment {self.deployment!r} ({why}{more})"


@dataclass(eq=False)
class NotEnoughDomains(PlacementError):
    """A deployment that requires a failure domain for each replica, and there are too few with room."""

    deployment: str
    replicas: int
    domains: int

    def __str__(self) -> str:
        return (
            f"deployment {self.deployment!r} requires a failure domain for each of {self.replicas} replicas; "
            f"{self.domains} have room"
        )


@dataclass(eq=False)
class BadPolicy(PlacementError):
    """A placement policy chose what it was not offered."""

    policy: str
    what: str

    def __str__(self) -> str:
        return f"placement policy {self.policy!r}: {self.what}"


@dataclass(eq=False)
class NodeChanged(PlacementError):
    """A reservation against a state of the node that is past, or one that the node does not hold any more."""

    node: str
    epoch: int
    now: int

    def __str__(self) -> str:
        return f"node {self.node!r} has changed since it was asked (state {self.epoch}, now {self.now})"


@dataclass(eq=False)
class PlacementContested(PlacementError):
    """Nodes changed under the placement again and again; nothing was placed."""

    deployment: str
    rounds: int

    def __str__(self) -> str:
        return f"deployment {self.deployment!r} was not placed: nodes changed in each of {self.rounds} attempts"


@dataclass(eq=False)
class UnknownNode(PlacementError):
    """Word of a node that the cluster does not have."""

    node: str
    known: Sequence[str] = ()

    def __str__(self) -> str:
        return f"there is no node {self.node!r}; nodes: {', '.join(list(self.known)[:20])}"


@dataclass(eq=False)
class UnknownPlacement(PlacementError):
    """A release of something that was never placed."""

    deployment: str

    def __str__(self) -> str:
        return f"deployment {self.deployment!r} is not placed"


@dataclass(eq=False)
class NoMigStart(PlacementError):
    """A MIG slice that cannot be where it was to be: `allowed` are the starts at which it is legal (or `placed`)."""

    gpu: str
    profile: str
    start: int | None
    allowed: tuple[int, ...]
    what: str = "free"

    def __str__(self) -> str:
        where = "" if self.start is None else f" at {self.start}"
        starts = ", ".join(map(str, self.allowed)) or "none"
        return f"{self.profile} on {self.gpu} cannot be{where}; {self.what} starts: {starts}"


@dataclass(eq=False)
class MigNoPeers(PlacementError):
    """Tensor parallelism over MIG slices, which do not reach each other's memory."""

    device: str
    gpus: int

    def __str__(self) -> str:
        return (
            f"{self.gpus} x {self.device}: MIG slices have no peer access, a replica takes one (gpus = 1) or whole GPUs"
        )
