"""How two devices of one machine reach each other, as a class; how fast that is stands in `rates`."""

from __future__ import annotations

import enum


class PathClass(enum.IntEnum):
    """The nearest way from one device to another: the smaller, the nearer; named as in `nvidia-smi topo -m`.

    NET (between machines) and NONE (no way at all) are NCCL's, for whole clusters.
    """

    X = 0
    NV = 1
    PIX = 2
    PXB = 3
    PHB = 4
    NODE = 5
    SYS = 6
    NET = 7
    NONE = 8

    @property
    def meaning(self) -> str:
        """The legend of it, in words."""
        return _MEANINGS[self]

    @property
    def peer(self) -> bool:
        """Whether NCCL lets GPUs copy to each other over such a path by default: up to PXB (paths.cc, NCCL 2.30)."""
        return self <= PathClass.PXB


_MEANINGS = {
    PathClass.X: "itself",
    PathClass.NV: "NVLinks, as many as the number says",
    PathClass.PIX: "one PCIe bridge",
    PathClass.PXB: "several PCIe bridges, no host bridge",
    PathClass.PHB: "a PCIe host bridge (the CPU)",
    PathClass.NODE: "the interconnect between host bridges of one NUMA node",
    PathClass.SYS: "the interconnect between NUMA nodes (QPI, UPI, xGMI)",
    PathClass.NET: "the network",
    PathClass.NONE: "no way",
}

# nvmlGpuTopologyLevel_t -> class (NVML API 13). INTERNAL, two GPUs on one board, has no letter of its own in topo -m.
NVML_LEVELS = {
    0: PathClass.PIX,
    10: PathClass.PIX,
    20: PathClass.PXB,
    30: PathClass.PHB,
    40: PathClass.NODE,
    50: PathClass.SYS,
}
