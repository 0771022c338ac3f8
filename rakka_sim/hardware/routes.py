"""The ways that bytes take in a cluster, as links: into a node's memory, from there to a GPU, from GPU to GPU.

Who moves what when is not here. Rates inside machines and between them are those that collectives reckon with.
"""

from __future__ import annotations

from dataclasses import dataclass

from rakka_sim.config.cluster import Cluster
from rakka_sim.errors import InputError
from rakka_sim.hardware import nccl, rates
from rakka_sim.hardware.between import Layout, socket_gb_s
from rakka_sim.hardware.between import Place as Spot
from rakka_sim.hardware.machine import Machine
from rakka_sim.hardware.paths import PathClass
from rakka_sim.hardware.topology import ClusterTopology, Place
from rakka_sim.hardware.transfers import Link

Way = tuple[Link, ...]


@dataclass(frozen=True, slots=True)
class Weights:
    """What a replica loads: `files` of `size` bytes, over `read` into its node's memory, from there to each GPU.

    `copies`: for each GPU the way from the host's memory and the bytes of its share. `kept`: whether the host keeps in
    memory what it has read, for whoever wants these files next.
    """

    node: str
    files: str
    size: float
    read: Way
    copies: tuple[tuple[Way, float], ...]
    kept: bool = True


class Routes:
    """The links of a cluster, made when they are asked for; one asked for twice is the same."""

    def __init__(self, topology: ClusterTopology, cluster: Cluster | None = None) -> None:
        self._topology = topology
        self._cluster = cluster
        self._layouts: dict[str, Layout] = {}

    def weights(self, node: str, gpus: tuple[int, ...], files: str, size: float) -> Weights | None:
        """What a replica on these GPUs loads, a part of equal size on each; None where reading takes no time."""
        read = self.to_host(node)
        if not read:
            return None
        copies = tuple((self.to_gpu(node, gpu), size / len(gpus)) for gpu in gpus)
        kept = self._cluster is None or self._cluster.node(node).host_memory_cache
        return Weights(node, files, size, read, copies, kept)

    def to_host(self, node: str) -> Way:
        """From where weights lie into a node's memory: the cluster's store and the node's network, the node's storage.

        Empty where the scenario describes none of it.
        """
        if self._cluster is None:
            return ()
        of = self._cluster.node(node)
        way = []
        if self._cluster.model_store_gb_s is not None:
            way.append(_link("model store", self._cluster.model_store_gb_s))
            network = of.network_gb_s or _network_gb_s(self._machine(node))
            if network:
                way.append(_link(f"{node}: network in", network))
        if of.storage_gb_s is not None:
            way.append(_link(f"{node}: storage", of.storage_gb_s))
        return tuple(way)

    def to_gpu(self, node: str, gpu: int) -> Way:
        """From a node's memory down its PCIe tree: the link of each switch on the way, then the GPU's own."""
        return self._down(node, self._spot(node, gpu).chain)

    def between(self, a: Place, b: Place) -> Way:
        """From one GPU to another: NVLinks, PCIe, or network cards; empty from a GPU to itself.

        Between nodes a GPU uses the cards that no other GPU is nearer to, all together; PCIe to them is not counted.
        """
        spots = self._spot(*a), self._spot(*b)
        if a == b:
            return ()
        path = self._topology.path(a, b)
        if path is PathClass.NV:
            return self._nvlinks(a, b)
        if path is PathClass.NET:
            return self._card(a, "out"), self._card(b, "in")
        node, machine = a[0], self._machine(a[0])
        shared = sum(x == y for x, y in zip(spots[0].chain, spots[1].chain, strict=False))
        way = [*self._up(node, spots[0].chain[shared:]), *self._down(node, spots[1].chain[shared:])]
        if spots[0].cpu != spots[1].cpu:
            cpus = [machine.cpus[spot.cpu] for spot in spots]
            socket = min(map(socket_gb_s, cpus))
            way.append(_link(f"{node}: socket {spots[0].cpu} to {spots[1].cpu}", socket))
        # What this pair reaches by itself may be less than any link on its way: no peer access, packets of 64 bytes.
        return (*way, _link(f"{node}: {a[1]} to {b[1]}", machine.bandwidth(a[1], b[1])))

    # --- details ------------------------------------------------------------------------------------------------

    def _machine(self, node: str) -> Machine:
        return self._topology.node(node).machine

    def _spot(self, node: str, gpu: int) -> Spot:
        machine = self._machine(node)
        if not 0 <= gpu < machine.count:
            raise InputError(f"GPU of node {node}", gpu, f"0 to {machine.count - 1}")
        if node not in self._layouts:
            self._layouts[node] = Layout(machine)
        return self._layouts[node].gpus[gpu]

    def _down(self, node: str, chain: tuple[int, ...]) -> Way:
        return tuple(self._pcie(node, at, "down") for at in chain)

    def _up(self, node: str, chain: tuple[int, ...]) -> Way:
        return tuple(self._pcie(node, at, "up") for at in reversed(chain))

    def _pcie(self, node: str, at: int, direction: str) -> Link:
        device = self._layouts[node].devices[at]
        return _link(f"{node}: PCIe {device.bus_id or at} {direction}", rates.pcie(device.speed, device.width))

    def _nvlinks(self, a: Place, b: Place) -> Way:
        """Through switches, each GPU has its own links into the fabric and out of it; else the links of this pair."""
        machines = self._machine(a[0]), self._machine(b[0])
        fabric = machines[0].pairs.fabric[a[1]], machines[1].pairs.fabric[b[1]]
        if not all(fabric):
            return (_link(f"{a[0]}: NVLink {a[1]} to {b[1]}", machines[0].bandwidth(a[1], b[1])),)
        ends = []
        for (node, gpu), machine, links, direction in zip((a, b), machines, fabric, ("out", "in"), strict=True):
            rate = links * rates.nvlink(machine.gpus[gpu].sm).nccl_gb_s
            ends.append(_link(f"{node}: NVLink {gpu} {direction}", rate))
        return tuple(ends)

    def _card(self, place: Place, direction: str) -> Link:
        node, gpu = place
        cards = self._machine(node).pairs.nics
        near = [at for at, (_, ways) in enumerate(cards) if ways[gpu] == min(ways)]
        if not near and cards:
            near = [max(range(len(cards)), key=lambda at: cards[at][0])]
        rate = sum(cards[at][0] for at in near) or rates.port(0)
        return _link(f"{node}: network card {' '.join(map(str, near))} {direction}", rate * nccl.NIC_SHARE)


def _link(name: str, gb_s: float) -> Link:
    return Link(name, gb_s * 1e9)


def _network_gb_s(machine: Machine) -> float:
    """What all network cards of a machine carry, as far as they say; 0 where none does."""
    return sum(rates.port(port.mbit_s) for nic in machine.nics for port in nic.ports if port.mbit_s > 0)
