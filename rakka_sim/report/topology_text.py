"""A topology in words and columns, as the command line prints it; nothing is drawn or computed here."""

from __future__ import annotations

from collections.abc import Iterator

from rakka_sim.config.machines import MACHINES
from rakka_sim.hardware.topo_text import matrix_text
from rakka_sim.hardware.topology import ClusterTopology, Machine
from rakka_sim.report.machine_plot import heading

MOST_ISLANDS, MOST_NODES = 24, 60


def describe(topology: Machine | ClusterTopology) -> str:
    """What it is, its matrix or its nodes, its islands, and what was wrong with the report of it."""
    lines = _machine(topology) if isinstance(topology, Machine) else _cluster(topology)
    return "\n".join([*lines, *(f"note: {note}" for note in topology.notes)])


def _machine(machine: Machine) -> Iterator[str]:
    yield heading(machine)
    source = next((spec for spec in MACHINES if spec.name == machine.name), None)
    if source is not None:
        yield f"{source.title}. Source: {source.source}."
    yield ""
    if machine.count:
        yield matrix_text(machine)
    islands = machine.islands()
    yield "Islands (each pair by NVLink, or without any NVLink by PCIe bridges alone):"
    for island in islands[:MOST_ISLANDS]:
        gpus = sorted(island)
        rates = sorted({machine.bandwidth(a, b) for a in gpus for b in gpus if a < b})
        rate = f"  {_span(rates)} GB/s per pair and direction, as NCCL counts" if rates else ""
        yield f"  {', '.join(map(str, gpus))}{rate}"
    if len(islands) > MOST_ISLANDS:
        yield f"  and {len(islands) - MOST_ISLANDS} more"
    yield f"\nkey: {machine.key}"


def _cluster(cluster: ClusterTopology) -> Iterator[str]:
    yield f"{cluster.name or 'cluster'}: {len(cluster.nodes)} nodes, {cluster.count} GPUs"
    yield ""
    table = [("node", "machine", "rack", "failure domain", "region", "NVLink domain", "egress")]
    table += [
        (n.name, n.machine.key if n.machine.count else "no GPUs", n.rack, n.failure_domain, n.region, n.nvlink_domain,
         "yes" if n.egress else "")
        for n in cluster.nodes[:MOST_NODES]
    ]  # fmt: skip
    widths = [max(len(row[k]) for row in table) + 2 for k in range(len(table[0]))]
    yield from ("".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table)
    if len(cluster.nodes) > MOST_NODES:
        yield f"and {len(cluster.nodes) - MOST_NODES} nodes more"
    yield "\nIslands that span nodes:"
    wide = [island for island in cluster.islands() if len({name for name, _ in sorted(island)}) > 1]
    for island in wide[:MOST_ISLANDS]:
        names = list(dict.fromkeys(name for name, _ in sorted(island)))
        yield f"  {len(island)} GPUs of {len(names)} nodes, {names[0]} to {names[-1]}"
    if not wide:
        yield "  none"


def _span(rates: list[float]) -> str:
    return f"{rates[0]:g}" if len(rates) == 1 else f"{rates[0]:g} to {rates[-1]:g}"
