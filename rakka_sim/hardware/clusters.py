"""From a scenario's cluster to its topology: which machine each node is; its tables are in `config.cluster`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rakka_sim.config import cluster
from rakka_sim.config.machines import machine_spec, usual_machine
from rakka_sim.errors import InputError
from rakka_sim.hardware.files import load_machine
from rakka_sim.hardware.presets import first, preset
from rakka_sim.hardware.topology import NO_MACHINE, ClusterTopology, Machine, Node


def cluster_topology(config: cluster.Cluster, base: Path) -> ClusterTopology:
    """The topology of a scenario's cluster; files are found from `base` on. Raises InputError that names the node.

    Equal nodes share one machine. A node that says nothing has the machine that its GPUs are usually in.
    """
    made: dict[tuple[object, ...], Machine] = {}
    nodes = []
    for node in config.nodes:
        kind = (node.gpu, node.gpus, node.topology, node.topology_file)
        if kind not in made:
            made[kind] = _machine(node, base)
        domain = node.failure_domain or node.rack or node.name
        nodes.append(Node(node.name, made[kind], node.rack, domain, node.region, node.egress, node.nvlink_domain, ""))
    return ClusterTopology(tuple(nodes), name=config.name)


def _machine(node: cluster.Node, base: Path) -> Machine:
    if node.gpu is None:
        return NO_MACHINE
    if node.topology_file is None:
        spec = machine_spec(node.topology) if node.topology else usual_machine(node.spec)
        if spec.name != "pcie" and node.gpus > spec.gpus:
            what = f"node {node.name}: gpus of a {spec.name}"
            raise InputError(what, node.gpus, f"at most {spec.gpus}; or another topology (pcie takes any number)")
        return preset(spec.name, node.gpu, node.gpus)
    machine = load_machine(base / node.topology_file, node.gpu)
    if machine.count < node.gpus:
        raise InputError(f"node {node.name}: gpus of {node.topology_file}", node.gpus, f"at most {machine.count}")
    machine = first(machine, node.gpus)
    if node.topology is not None and not machine.nvlinks and not machine.switch_links:
        # What clouds publish is PCIe alone; the NVLinks are laid over it by GPU index.
        wired = preset(node.topology, node.gpu, node.gpus)
        machine = machine.with_nvlinks(wired.nvlinks, wired.switch_links)
    return replace(machine, name=machine.name or node.topology_file)
