"""Machines that are sold as a rack: several nodes whose GPUs share one NVLink fabric; single nodes are in `presets`."""

from __future__ import annotations

from rakka_sim.errors import InputError
from rakka_sim.hardware.presets import preset
from rakka_sim.hardware.topology import ClusterTopology, Node

NVL72_TRAYS = 18


def nvl72_rack(trays: int = NVL72_TRAYS, name: str = "nvl72") -> ClusterTopology:
    """A GB200 NVL72: 18 compute trays of four GPUs (or fewer, where some are out), one NVLink domain, one rack."""
    if not 1 <= trays <= NVL72_TRAYS:
        raise InputError("trays of an NVL72", trays, f"1 to {NVL72_TRAYS}")
    tray = preset("gb200-nvl72")
    nodes = (Node(f"{name}-{i:02d}", tray, name, f"{name}-{i:02d}", nvlink_domain=name) for i in range(trays))
    return ClusterTopology(tuple(nodes), name=name)
