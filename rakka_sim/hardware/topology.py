"""A cluster: nodes with their machines, where each stands, and what joins them; one machine alone is in `machine`.

`Machine` and `PathClass` are named here as well, because this is where one looks for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType

from rakka_sim.errors import InputError
from rakka_sim.hardware import collectives, rates
from rakka_sim.hardware.collectives import Fabric, Group
from rakka_sim.hardware.groups import switched
from rakka_sim.hardware.machine import Machine
from rakka_sim.hardware.paths import PathClass

__all__ = ["ClusterTopology", "Machine", "Node", "PathClass", "Place", "Switch"]

Place = tuple[str, int]  # node, GPU

NO_MACHINE = Machine(())


@dataclass(frozen=True)
class Node:
    """One node. What fails together shares a `failure_domain`; nodes of one `nvlink_domain` have one NVLink fabric.

    `switch` is the network switch above it ("" unknown), `region` where it is, as providers call it.
    """

    name: str
    machine: Machine = NO_MACHINE
    rack: str = ""
    failure_domain: str = ""
    region: str = ""
    egress: bool = False
    nvlink_domain: str = ""
    switch: str = ""


@dataclass(frozen=True)
class Switch:
    """A network switch below another ("" the top), with the labels that a provider has put on it."""

    name: str
    above: str = ""
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class ClusterTopology:
    """All nodes of a cluster and the tree of its network."""

    nodes: tuple[Node, ...]
    switches: tuple[Switch, ...] = ()
    name: str = field(default="", compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        for what, names in (("nodes", self._names), ("switches", [switch.name for switch in self.switches])):
            twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
            if twice:
                raise InputError(f"cluster, {what}", ", ".join(twice), "names, each once")
        known = {switch.name for switch in self.switches}
        for below, above in [(s.name, s.above) for s in self.switches] + [(n.name, n.switch) for n in self.nodes]:
            if above and above not in known:
                raise InputError(f"cluster, switch above {below}", above, ", ".join(sorted(known)) or "no switch")
        for switch in self.switches:
            self._above(switch.name)

    @property
    def _names(self) -> list[str]:
        return [node.name for node in self.nodes]

    @cached_property
    def by_name(self) -> Mapping[str, Node]:
        """The nodes by name."""
        return MappingProxyType({node.name: node for node in self.nodes})

    def node(self, name: str) -> Node:
        """The node of that name; raises InputError."""
        if name not in self.by_name:
            raise InputError("node", name, ", ".join(self._names[:20]))
        return self.by_name[name]

    @property
    def count(self) -> int:
        """How many GPUs it has."""
        return sum(node.machine.count for node in self.nodes)

    @cached_property
    def nvlink_domains(self) -> Mapping[str, tuple[str, ...]]:
        """NVLink domains that hold several nodes: the names of these nodes."""
        members: dict[str, list[str]] = {}
        for node in self.nodes:
            if node.nvlink_domain:
                members.setdefault(node.nvlink_domain, []).append(node.name)
        return MappingProxyType({domain: tuple(names) for domain, names in members.items() if len(names) > 1})

    def path(self, a: Place, b: Place) -> PathClass:
        """The nearest way between two GPUs."""
        here, there = self.node(a[0]), self.node(b[0])
        if here is there:
            return here.machine.path(a[1], b[1])
        return PathClass.NV if self._fabric_links((a, b)) else PathClass.NET

    def hops(self, a: str, b: str) -> int:
        """How many switches a message between two nodes passes: 0 for one node, and where no tree is known, 1."""
        if a == b:
            return 0
        up, down = self._above(self.node(a).switch), self._above(self.node(b).switch)
        common = next((switch for switch in up if switch in down), None)
        return 1 if common is None else up.index(common) + down.index(common) + 1

    def islands(self, at_least: float | None = None) -> tuple[frozenset[Place], ...]:
        """Sets of GPUs as `Machine.islands` has them; the fabric of a domain that spans nodes is one of them."""
        wide: list[frozenset[Place]] = []
        for names in self.nvlink_domains.values():
            members = [(name, gpu) for name in names for gpu in range(self.node(name).machine.count)]
            members = [place for place in members if self._fast(place, at_least)]
            if len({name for name, _ in members}) > 1:
                wide.append(frozenset(members))
        found = list(wide)
        for node in self.nodes:
            for island in node.machine.islands(at_least):
                places = frozenset((node.name, gpu) for gpu in sorted(island))
                if not any(places <= wider for wider in wide):
                    found.append(places)
        return tuple(sorted(found, key=lambda island: (-len(island), sorted(island))))

    def group(self, places: Iterable[Place]) -> Group:
        """Those GPUs as a group that does collectives together."""
        chosen = tuple(sorted(set(places)))
        by_node: dict[str, list[int]] = {}
        for name, gpu in chosen:
            by_node.setdefault(name, []).append(gpu)
        inside = [self.node(name).machine.group(gpus) for name, gpus in by_node.items()]
        if len(inside) == 1:
            return inside[0]
        links = self._fabric_links(chosen)
        if links:
            sm = min(self.node(name).machine.gpus[gpu].sm for name, gpu in chosen)
            return replace(switched(sm, links, len(chosen)), hosts=len(inside))
        nics = min(self._nics_gb_s(name, gpus) for name, gpus in by_node.items())
        several = [group for group in inside if group.gpus > 1]
        if not several:
            return Group(len(chosen), Fabric.NETWORK, nodes=len(inside), nic_gb_s=nics, hosts=len(inside))
        slowest, hosts = min(several, key=lambda group: group.ring_gb_s), len(inside)
        return Group(len(chosen), slowest.fabric, slowest.ring_gb_s, nodes=hosts, nic_gb_s=nics, hosts=hosts)

    def all_reduce_s(self, places: Iterable[Place], size: float) -> float:
        """Seconds of an all-reduce of `size` bytes among those GPUs."""
        return collectives.all_reduce(self.group(places), size)

    # --- details ------------------------------------------------------------------------------------------------

    def _above(self, switch: str) -> list[str]:
        """That switch and those above it, to the top; raises InputError where they go in a circle."""
        found: list[str] = []
        while switch:
            if switch in found:
                raise InputError("cluster, switches", " above ".join([*found, switch]), "a tree")
            found.append(switch)
            switch = self._parents[switch]
        return found

    @cached_property
    def _parents(self) -> dict[str, str]:
        return {switch.name: switch.above for switch in self.switches}

    def _fabric_links(self, places: Iterable[Place]) -> int:
        """NVLinks into the fabric that all these GPUs share across nodes; 0 where they share none."""
        chosen = tuple(places)
        domains = {self.node(name).nvlink_domain for name, _ in chosen}
        if len(domains) > 1 or "" in domains:
            return 0
        return min(self.node(name).machine.pairs.fabric[gpu] for name, gpu in chosen)

    def _fast(self, place: Place, at_least: float | None) -> bool:
        machine = self.node(place[0]).machine
        links = machine.pairs.fabric[place[1]]
        return links > 0 and (at_least is None or links * rates.nvlink(machine.gpus[place[1]].sm).nccl_gb_s >= at_least)

    def _nics_gb_s(self, name: str, gpus: Iterable[int]) -> float:
        """What the network cards nearest to these GPUs carry: a card is of the GPUs that nothing is nearer to."""
        chosen = tuple(gpus)
        cards = self.node(name).machine.pairs.nics
        near = sum(gb_s for gb_s, ways in cards if any(ways[gpu] == min(ways) for gpu in chosen))
        return near or max((gb_s for gb_s, _ in cards), default=0.0) or rates.port(0)
