"""Machines and clusters as networkx graphs, for drawing and for whoever wants to ask their own questions of them.

A node has `kind` (gpu, nic, bridge, unknown, nvswitch, cpu, switch); an edge `kind` (pcie, nvlink, socket, network),
`gb_s` (GB/s per direction, as NCCL counts it), `latency_s` (a hop of a small message, NCCL's figures) and, for NVLinks,
`links`. No policy reads these graphs: a policy reads `Machine.pairs`.
"""

from __future__ import annotations

from typing import Any

import networkx as nx

from rakka_sim.hardware import nccl, rates
from rakka_sim.hardware.between import socket_gb_s
from rakka_sim.hardware.machine import Machine
from rakka_sim.hardware.parts import Pci
from rakka_sim.hardware.topology import ClusterTopology


def machine_graph(machine: Machine, prefix: str = "") -> nx.Graph[str]:
    """One machine: nodes gpu0, nic0, cpu0, bridge0, ... each numbered in the order of the machine's parts."""
    graph: nx.Graph[str] = nx.Graph()
    count: dict[str, int] = {}
    sm = {gpu.index: gpu.sm for gpu in machine.gpus}

    def add(pci: Pci, above: str) -> None:
        number = pci.gpu.index if pci.gpu else count.setdefault(pci.kind, 0)
        if pci.gpu is None:
            count[pci.kind] = number + 1
        name = f"{prefix}{pci.kind}{number}"
        graph.add_node(name, kind=pci.kind, bus_id=pci.bus_id, model=pci.gpu.model if pci.gpu else "")
        rate = rates.pcie(pci.speed, pci.width)
        graph.add_edge(above, name, kind="pcie", gb_s=rate, latency_s=nccl.PCIE_HOP.ring_s)
        for child in pci.children:
            add(child, name)

    for number, cpu in enumerate(machine.cpus):
        graph.add_node(f"{prefix}cpu{number}", kind="cpu", numa=cpu.numa)
        for top in cpu.devices:
            add(top, f"{prefix}cpu{number}")
    for a, one in enumerate(machine.cpus):
        for b in range(a):
            rate = min(socket_gb_s(one), socket_gb_s(machine.cpus[b]))
            cpus = f"{prefix}cpu{a}", f"{prefix}cpu{b}"
            graph.add_edge(*cpus, kind="socket", gb_s=rate, latency_s=nccl.PCIE_HOP.ring_s)
    for link in machine.nvlinks:
        _nvlink(graph, f"{prefix}gpu{link.a}", f"{prefix}gpu{link.b}", link.count, min(sm[link.a], sm[link.b]))
    for end in machine.switch_links:
        graph.add_node(f"{prefix}{end.switch}", kind="nvswitch")
        _nvlink(graph, f"{prefix}gpu{end.gpu}", f"{prefix}{end.switch}", end.count, sm[end.gpu])
    return graph


def cluster_graph(cluster: ClusterTopology) -> nx.Graph[str]:
    """All machines, their parts named ``node/gpu0``, and the network between their cards.

    NVSwitches of one NVLink domain are the same for all its nodes. Cards of a node without a switch of its own meet in
    one called ``network``.
    """
    graph: nx.Graph[str] = nx.Graph()
    spanning = cluster.nvlink_domains
    for node in cluster.nodes:
        own = machine_graph(node.machine, f"{node.name}/")
        if node.nvlink_domain in spanning:
            ends = {end.switch for end in node.machine.switch_links}
            own = nx.relabel_nodes(own, {f"{node.name}/{end}": f"{node.nvlink_domain}/{end}" for end in sorted(ends)})
        graph.update(own)
        above = node.switch or "network"
        for number, card in enumerate(node.machine.nics):
            rate = sum(rates.port(port.mbit_s) for port in card.ports) or rates.port(0)
            graph.add_node(above, kind="switch")
            _network(graph, f"{node.name}/nic{number}", above, gb_s=rate)
    for switch in cluster.switches:
        graph.add_node(switch.name, kind="switch", labels=dict(switch.labels))
        if switch.above:
            _network(graph, switch.name, switch.above)
    return graph


def _nvlink(graph: nx.Graph[str], a: str, b: str, count: int, sm: int) -> None:
    rate = count * rates.nvlink(sm).nccl_gb_s
    graph.add_edge(a, b, kind="nvlink", gb_s=rate, latency_s=nccl.NVLINK_HOP.ring_s, links=count)


def _network(graph: nx.Graph[str], a: str, b: str, **said: Any) -> None:
    """A network link; between switches nobody says how fast it is, so there `gb_s` is missing."""
    graph.add_edge(a, b, kind="network", latency_s=nccl.INFINIBAND_HOP.ring_s, **said)
