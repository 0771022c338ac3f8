"""What a collective among GPUs costs by the set of GPUs chosen; how a set is found or drawn is not here, nor a clock.

NCCL's time is latency + transfer. With S bytes among n GPUs, and busbw as nccl-tests define it:

* ring: busbw = what the slowest link of the ring carries; NVLS (the switch adds up): busbw = share * links * rate *
  2(n-1)/(n+1), because each GPU moves S(1 + 1/n) instead of 2S(n-1)/n. NCCL takes the faster of the two.
* Over nodes: rings inside, a ring or a tree of nodes outside, both at once; the slower one counts.
* These bandwidths hold at 8 GiB. In general, a transfer of x seconds at the full rate takes x + 2 sqrt(x p): it is cut
  into chunks, and filling and draining the pipeline (p) costs more the fewer they are. Latency alone is not enough.

Constants and sources: `nccl`.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from rakka_sim.config.gpus import GpuSpec
from rakka_sim.errors import InputError
from rakka_sim.hardware import nccl


class Fabric(enum.StrEnum):
    """What the GPUs of one node have between them, the slowest pair of neighbours counting."""

    NVSWITCH = "nvswitch"
    NVLINK = "nvlink"
    PCIE = "pcie"
    HOST = "host"
    NETWORK = "network"


class Algorithm(enum.StrEnum):
    """How NCCL does a collective; NONE: there is nothing to do."""

    NONE = "none"
    RING = "ring"
    TREE = "tree"
    NVLS = "nvls"


_HOPS = {
    Fabric.NVSWITCH: nccl.NVLINK_HOP,
    Fabric.NVLINK: nccl.NVLINK_HOP,
    Fabric.PCIE: nccl.PCIE_HOP,
    Fabric.HOST: nccl.HOST_HOP,
    Fabric.NETWORK: nccl.INFINIBAND_HOP,
}


@dataclass(frozen=True, slots=True)
class Group:
    """GPUs that do a collective together, by all that it costs. GB/s are 1e9 bytes/s per direction.

    `ring_gb_s`: what the slowest link of the best ring through the GPUs of one node carries, over all channels, as
    NCCL counts it (H200: 18 links x 20.6 = 370.8); unused for one GPU, and for one GPU per node.
    `links` x `link_gb_s`: the NVLinks of each GPU, as NCCL counts them. `nvls`: the share of them that a reduction in
    the switch reaches; None where switches cannot (or there are none).
    `all_pairs`: whether any two of them are neighbours in this fabric (false: an NVLink cube mesh of eight).
    `nodes`: machines that only a network joins (an NVLink domain of many trays is one); `nic_gb_s`: what the NICs of
    one of them carry for this group, by the datasheet; `network_hop`: the latency of a step between them.
    `hosts`: machines that they are in, whatever joins those. `pipeline_s`: see the file's docstring.
    """

    gpus: int
    fabric: Fabric
    ring_gb_s: float = 0.0
    links: int = 0
    link_gb_s: float = 0.0
    nvls: float | None = None
    all_pairs: bool = True
    nodes: int = 1
    nic_gb_s: float = 0.0
    network_hop: nccl.Hop = nccl.INFINIBAND_HOP
    pipeline_s: float = nccl.PIPELINE_S
    hosts: int = 1

    def __post_init__(self) -> None:
        _require(self.gpus >= 1, "gpus", self.gpus, "at least 1")
        _require(1 <= self.nodes <= self.gpus, "nodes", self.nodes, f"1 to {self.gpus}, the GPUs of the group")
        inside, outside = self.gpus > self.nodes, self.nodes > 1
        _require(not inside or 0 < self.ring_gb_s < math.inf, "ring_gb_s", self.ring_gb_s, "a rate above 0")
        _require(not outside or 0 < self.nic_gb_s < math.inf, "nic_gb_s", self.nic_gb_s, "a rate above 0")
        _require(not inside or self.fabric is not Fabric.NETWORK, "fabric", self.fabric, "what joins GPUs of one node")
        _require(self.nvls is None or self.links * self.link_gb_s > 0, "links", self.links, "some, where there is nvls")
        _require(1 <= self.hosts <= self.gpus, "hosts", self.hosts, f"1 to {self.gpus}, the GPUs of the group")
        _require(0 <= self.pipeline_s < math.inf, "pipeline_s", self.pipeline_s, "seconds, at least 0")

    @property
    def per_node(self) -> int:
        """GPUs of the fullest node, nodes being filled evenly."""
        return -(-self.gpus // self.nodes)


def _require(holds: bool, field: str, value: object, allowed: str) -> None:
    if not holds:
        raise InputError(f"group of GPUs, {field}", value, allowed)


def own_group(gpu: GpuSpec, gpus: int) -> Group:
    """The group that `gpus` GPUs of this kind are in the machine they are usually sold in; raises InputError for a GPU
    whose link rate is that of no known link."""
    rate = gpu.link_bandwidth / 1e9
    if gpu.interconnect == "nvlink":
        links = [row for row in nccl.NVLINK.values() if math.isclose(row.links * row.link_gb_s, rate, rel_tol=0.01)]
        _require(bool(links), f"NVLink rate of {gpu.name} in GB/s", rate, "that of a known NVLink, or give a group")
        return switched(links[0], gpus)
    counted = [row[1] for row in nccl.PCIE_X16_GB_S.values() if math.isclose(row[0], rate, rel_tol=0.03)]
    _require(bool(counted), f"PCIe rate of {gpu.name} in GB/s", rate, "that of a known PCIe x16, or give a group")
    if gpu.name in nccl.NO_PEER_ACCESS:
        return Group(gpus, Fabric.HOST, counted[0] * nccl.HOST_SHARE)
    return Group(gpus, Fabric.PCIE, counted[0])


def switched(links: nccl.NvLink, gpus: int) -> Group:
    """A group whose GPUs have all their NVLinks to switches."""
    pipeline = nccl.PIPELINE_S if links.pipeline_s is None else links.pipeline_s
    ring = links.links * links.nccl_gb_s
    return Group(gpus, Fabric.NVSWITCH, ring, links.links, links.nccl_gb_s, links.nvls, pipeline_s=pipeline)


# --- the collectives --------------------------------------------------------------------------------------------


def all_reduce(group: Group, size: float) -> float:
    """Seconds until each GPU has the sum of all buffers of `size` bytes."""
    return _all_reduce(group, size)[0]


def algorithm(group: Group, size: float) -> Algorithm:
    """How an all-reduce of `size` bytes is done: the way that takes the least time."""
    return _all_reduce(group, size)[1]


def all_gather(group: Group, size: float) -> float:
    """Seconds until each GPU has all `size` bytes, of which each held an equal part."""
    return _ring_once(group, size)


def reduce_scatter(group: Group, size: float) -> float:
    """Seconds until each GPU has its equal part of the sum of all buffers of `size` bytes."""
    return _ring_once(group, size)


def all_to_all(group: Group, size: float) -> float:
    """Seconds until each GPU has sent its buffer of `size` bytes in equal parts to all GPUs.

    Where there is no switch, half of all bytes meet in the one link between the halves of the ring.
    """
    n, k, g = group.gpus, group.nodes, group.per_node
    if _nothing(group, size):
        return 0.0
    inside = (n - 1) / n if group.fabric is Fabric.NVSWITCH else max((n - 1) / n, g / 4)
    wire = inside * size / (group.ring_gb_s * 1e9) if g > 1 else 0.0
    if k > 1:
        wire = max(wire, g * (k - 1) / k * size / (group.nic_gb_s * nccl.NIC_SHARE * 1e9))
    return nccl.RING_BASE_S + _steps_s(group, min(1, g - 1), min(1, k - 1)) + _transfer_s(group, size, wire)


def point_to_point(group: Group, size: float) -> float:
    """Seconds for `size` bytes from one GPU to its neighbour in the ring: on another node if there are several."""
    if _nothing(group, size):
        return 0.0
    away = group.nodes > 1
    rate = group.nic_gb_s * nccl.NIC_SHARE if away else group.ring_gb_s
    steps = _steps_s(group, 0 if away else 1, 1 if away else 0)
    return nccl.RING_BASE_S + steps + _transfer_s(group, size, size / (rate * 1e9))


def bus_gb_s(group: Group, size: float) -> float:
    """Bus bandwidth of an all-reduce in GB/s, as nccl-tests define it: comparable for any number of GPUs."""
    if _nothing(group, size):
        return 0.0
    return 2 * (group.gpus - 1) / group.gpus * size / all_reduce(group, size) / 1e9


# --- how they come about ----------------------------------------------------------------------------------------


def _nothing(group: Group, size: float) -> bool:
    """Whether nothing is to be moved; raises InputError for what is no size."""
    _require(0 <= size < math.inf, "bytes of a collective", size, "0 or more")
    return group.gpus == 1 or size == 0


def _all_reduce(group: Group, size: float) -> tuple[float, Algorithm]:
    n, k, g = group.gpus, group.nodes, group.per_node
    if _nothing(group, size):
        return 0.0, Algorithm.NONE
    inside = 2 * (g - 1) / g * size / (group.ring_gb_s * 1e9) if g > 1 else 0.0
    outside = 2 * (k - 1) / k * size / (group.nic_gb_s * nccl.NIC_SHARE * 1e9) if k > 1 else 0.0
    steps = _steps_s(group, 2 * (n - 1) - 2 * (k - 1), 2 * (k - 1))
    ring = nccl.RING_BASE_S + steps + _transfer_s(group, size, max(inside, outside))
    best = ring, Algorithm.RING
    if k > 1:
        climb = 2 * ((g - 1) * _HOPS[group.fabric].tree_s + math.ceil(math.log2(k)) * group.network_hop.tree_s)
        tree = nccl.TREE_BASE_S + climb + _transfer_s(group, size, max(inside, outside) / nccl.TREE_SHARE)
        best = min(best, (tree, Algorithm.TREE))
    elif group.nvls is not None:
        rate = group.nvls * group.links * group.link_gb_s * 1e9
        nvls = nccl.NVLS_S + _transfer_s(group, size, (n + 1) / n * size / rate)
        best = min(best, (nvls, Algorithm.NVLS))
    return best


def _ring_once(group: Group, size: float) -> float:
    n, k, g = group.gpus, group.nodes, group.per_node
    if _nothing(group, size):
        return 0.0
    # Every byte passes each link of the ring once, except the one part that is there already.
    inside = (n - 1) / n * size / (group.ring_gb_s * 1e9) if g > 1 else 0.0
    outside = (k - 1) / k * size / (group.nic_gb_s * nccl.NIC_SHARE * 1e9) if k > 1 else 0.0
    steps = _steps_s(group, (n - 1) - (k - 1), k - 1)
    return nccl.RING_BASE_S + steps + _transfer_s(group, size, max(inside, outside))


def _steps_s(group: Group, inside: int, outside: int) -> float:
    return inside * _HOPS[group.fabric].ring_s + outside * group.network_hop.ring_s


def _transfer_s(group: Group, size: float, at_benchmark_rate: float) -> float:
    """What `size` bytes take, of which 8 GiB move at the rate by which they would take `at_benchmark_rate` seconds.

    At 8 GiB, x + 2 sqrt(x p) is what the benchmark's rate says; from this follows x there, and x grows with the size.
    """
    p, scale = group.pipeline_s, nccl.BENCHMARK_BYTES / size
    x = (math.sqrt(p + at_benchmark_rate * scale) - math.sqrt(p)) ** 2 / scale
    return x + 2 * math.sqrt(x * p)
