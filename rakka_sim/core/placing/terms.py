"""What is asked of a cluster and what its nodes answer, as values; nothing is decided here."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, Self

from rakka_sim.core.placing.shapes import Alike, Fabric, Shape
from rakka_sim.values import MigSlice, NodeAssignment, Part, value

# What a tensor-parallel group of a 7B model sends for a decode batch of 32: 32 rows of 4,096 elements of two bytes.
USUAL_MESSAGE_BYTES = 256 << 10


class Fingerprint(str):
    """What stands for an API key: equal for equal keys, and no way back. The key itself goes no further than this."""

    __slots__ = ()


def fingerprint(api_key: str) -> Fingerprint:
    """The fingerprint of a key, or of a fingerprint itself; '' of none."""
    if isinstance(api_key, Fingerprint) or not api_key:
        return Fingerprint(api_key)
    return Fingerprint(hashlib.sha256(api_key.encode()).hexdigest()[:16])


@dataclass(frozen=True, slots=True)
class Demand:
    """What a deployment asks for. A remote one has a `provider` and needs no GPUs.

    `api_key` is kept as a fingerprint. `profile`: a MIG profile, for a replica that runs on one slice. `island`
    "require": a replica's GPUs all have the fast link to each other, else no placement. `spread`: whether replicas
    must, should or need not run in different failure domains. `anti_affinity`: deployments that no node may share with
    this one. `gil`: it holds a Python interpreter's lock, so it shares no GPU with another such deployment.
    `message_bytes`: what its GPUs all-reduce.
    """

    deployment: str
    replicas: int
    gpus: int = 1
    provider: str = ""
    api_key: str = field(default="", repr=False)
    gpu_model: str = ""
    min_gpu_memory_gib: float = 0.0
    island: Literal["prefer", "require"] = "prefer"
    profile: str = ""
    gil: bool = False
    region: str = ""
    spread: Literal["prefer", "require", "ignore"] = "prefer"
    anti_affinity: tuple[str, ...] = ()
    message_bytes: int = USUAL_MESSAGE_BYTES

    def __post_init__(self) -> None:
        object.__setattr__(self, "api_key", fingerprint(self.api_key))

    @property
    def account(self) -> tuple[str, str]:
        """Whose rate limit it draws on."""
        return self.provider, self.api_key


class Slices(Protocol):
    """What is placed on a GPU that is cut into slices; immutable (`hardware.mig.MigState`)."""

    def starts(self, name: str) -> tuple[int, ...]: ...

    def best_start(self, name: str) -> int: ...

    def add(self, name: str, start: int) -> Self: ...

    def remove(self, name: str, start: int) -> Self: ...

    def remaining(self) -> tuple[tuple[str, int], ...]: ...


@dataclass(frozen=True)
class NodeFacts:
    """A node as placing sees it. `memory_gib` is of one GPU; `domain` is what fails together (default: the node).

    `sliced` are the GPUs in MIG mode: they take slices only. `egress_slots`: remote replicas that it has room for, None
    for any number. `fabric` joins it to other nodes.
    """

    name: str
    shape: Shape = field(default=Alike(0))
    gpu_model: str = ""
    memory_gib: float = 0.0
    domain: str = ""
    region: str = ""
    egress: bool = False
    egress_slots: int | None = None
    sliced: Mapping[int, Slices] = field(default_factory=dict)
    fabric: Fabric | None = None

    @property
    def failure_domain(self) -> str:
        return self.domain or self.name


@value
class Place:
    """Where one replica could go on a node: GPUs, or a slice of one, or neither for a remote replica.

    `others`: its parts on further nodes of one fabric. `cost_s`: one all-reduce among the GPUs. `flexibility`: sets (or
    slices) that could still be placed there, `loss` of them go with this one. `waste`: how many GPUs more an average
    request could not use.
    """

    gpus: tuple[int, ...] = ()
    slice: MigSlice | None = None
    cost_s: float = 0.0
    flexibility: int = 0
    loss: int = 0
    waste: float = 0.0
    others: tuple[Part, ...] = ()


@value
class Spare:
    """What a node could give to replicas that span nodes, beyond the places it offers.

    `joined`: free GPUs that the fabric joins, those of its places included. `gpus`: those that are left, each with what
    an all-reduce takes among GPUs as well joined (s).
    """

    fabric: str
    joined: int
    gpus: tuple[tuple[float, int], ...]


@value
class Quote:
    """A node's answer: places for one replica after another, each on top of those before it, or why there is none.

    `epoch` numbers the node's states: whoever takes one of the places must do so in this state. `free` and `total` are
    GPUs (for a remote demand: replicas with room, and what there is room for), `hosted` replicas of any deployment,
    `here` those of this one, `replicas` which; `turn` says when the node was last given a replica, by a count over the
    cluster.
    """

    node: str
    epoch: int
    domain: str
    gpu_model: str
    total: int
    free: int
    hosted: int
    here: int
    turn: int
    serves_account: bool
    places: tuple[Place, ...]
    refusal: str = ""
    replicas: tuple[int, ...] = ()
    spare: Spare | None = None


@value
class Offer:
    """One node's next place, as a policy sees it. `free`, `hosted` and `here` are as they are before it is taken.

    `index` is the node's position in the cluster: a policy that has no preference takes the lowest. Of a place that
    spans nodes, `node`, `index` and `domain` are those of the first one; `total`, `free`, `hosted` and `here` are sums
    over the whole fabric: to a policy, it is one large node.
    """

    index: int
    node: str
    domain: str
    gpu_model: str
    total: int
    free: int
    hosted: int
    here: int
    turn: int
    place: Place

    @property
    def gpus(self) -> tuple[int, ...]:
        return self.place.gpus

    @property
    def nodes(self) -> tuple[str, ...]:
        """The nodes of the place: several where it spans some."""
        return self.node, *(node for node, _ in self.place.others)

    @property
    def cost_s(self) -> float:
        return self.place.cost_s

    @property
    def loss(self) -> int:
        return self.place.loss

    @property
    def waste(self) -> float:
        return self.place.waste


@value
class Claim:
    """What a reservation takes of one node."""

    demand: Demand
    assignments: tuple[NodeAssignment, ...]
    turn: int = 0
    overbook: bool = False
