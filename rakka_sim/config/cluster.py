"""The machines of a scenario: nodes with GPUs, nodes that may reach the outside; what joins GPUs is in `hardware/`."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Self

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from rakka_sim.config.base import Table
from rakka_sim.config.gpus import GpuSpec, gpu
from rakka_sim.config.machines import machine_spec
from rakka_sim.errors import UnknownName

GigabytesPerSecond = Annotated[float, Field(ge=1e-6, le=1e6)]


class Node(Table):
    """One machine.

    Weights are read from the cluster's model store or the node's own storage, whichever is described; if both are, the
    storage is a mount of the store, and what is read passes both. Where neither is, loading weights takes no time.
    """

    name: str = Field(min_length=1)
    gpu: str | None = Field(None, description="a GPU of the catalogue; none for a node without GPUs")
    gpus: int = Field(0, ge=0, le=4096)
    egress: bool = Field(False, description="whether it may reach remote providers")
    usd_per_gpu_hour: PositiveFloat | None = Field(None, description="what one GPU of it costs; none: cost unknown")
    topology: str | None = Field(
        None, description="a machine of the catalogue, such as hgx-h100; none: the one that these GPUs are usually in"
    )
    topology_file: str | None = Field(
        None,
        min_length=1,
        description="an NCCL topology file or a saved `nvidia-smi topo -m`, from the scenario's folder on; with "
        "`topology` as well, that one's NVLinks are laid over a file that has none",
    )
    rack: str = ""
    failure_domain: str = Field("", description="what fails together; none: the rack, or without one the node itself")
    region: str = Field("", description="where it is, as its provider calls it")
    egress_slots: PositiveInt | None = Field(None, description="remote replicas that it has room for; none: any number")
    mig: bool = Field(False, description="whether its GPUs are in MIG mode: they take slices, and nothing else")
    nvlink_domain: str = Field("", description="nodes of the same domain have one NVLink fabric (GB200 NVL72)")
    storage_gb_s: GigabytesPerSecond | None = Field(
        None, description="what its disk, or the mount that weights are read from, gives all its replicas together"
    )
    network_gb_s: GigabytesPerSecond | None = Field(
        None,
        description="what it can take from the cluster's model store; none: what the network cards of its topology "
        "carry, and no limit where that names none",
    )
    host_memory_cache: bool = Field(
        True,
        description="whether its memory keeps the weights it has read, so that they are read once for all replicas of "
        "a model; false: each replica reads them",
    )

    @field_validator("gpu")
    @classmethod
    def _in_the_catalogue(cls, name: str | None) -> str | None:
        try:
            return None if name is None else gpu(name).name
        except UnknownName as error:
            raise ValueError(error.allowed) from None

    @field_validator("topology")
    @classmethod
    def _a_known_machine(cls, name: str | None) -> str | None:
        try:
            return None if name is None else machine_spec(name).name
        except UnknownName as error:
            raise ValueError(error.allowed) from None

    @model_validator(mode="after")
    def _kind_and_count(self) -> Self:
        if (self.gpu is None) != (self.gpus == 0):
            raise ValueError("gpu (which) and gpus (how many) go together")
        if self.gpu is None and (self.topology or self.topology_file):
            raise ValueError("a topology needs gpu (which) and gpus (how many)")
        if self.mig and self.gpu is None:
            raise ValueError("mig needs gpu (which) and gpus (how many)")
        if self.gpu is None and (self.storage_gb_s is not None or self.network_gb_s is not None):
            raise ValueError("storage_gb_s and network_gb_s are of weights: they need gpu (which) and gpus (how many)")
        if self.egress_slots is not None and not self.egress:
            raise ValueError("egress_slots needs egress = true")
        return self

    @property
    def spec(self) -> GpuSpec:
        """The catalogue's row of this node's GPUs."""
        return gpu(self.gpu or "")


class Cluster(Table):
    """All nodes. `name` and `bind` are upstream's, for its own server: kept, not used."""

    name: str = "cluster"
    bind: str | None = None
    model_store_gb_s: GigabytesPerSecond | None = Field(
        None, description="what the store that all nodes read weights from gives all of them together"
    )
    nodes: tuple[Node, ...] = (Node(name="node-0", gpu="H200", gpus=8, egress=True),)

    @field_validator("nodes")
    @classmethod
    def _names_differ(cls, nodes: tuple[Node, ...]) -> tuple[Node, ...]:
        twice = sorted(name for name, count in Counter(node.name for node in nodes).items() if count > 1)
        if twice:
            raise ValueError(f"each node needs a name of its own; twice: {', '.join(twice)}")
        return nodes

    @model_validator(mode="after")
    def _networks_lead_somewhere(self) -> Self:
        if self.model_store_gb_s is None:
            named = [node.name for node in self.nodes if node.network_gb_s is not None]
            if named:
                raise ValueError(f"network_gb_s (node {named[0]}) needs model_store_gb_s, the store it leads to")
        return self

    @property
    def has_storage(self) -> bool:
        """Whether anything says how fast weights can be read."""
        return self.model_store_gb_s is not None or any(node.storage_gb_s is not None for node in self.nodes)

    def node(self, name: str) -> Node:
        """The node of that name."""
        return next(node for node in self.nodes if node.name == name)
