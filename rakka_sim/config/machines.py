"""The catalogue of machines: names, GPUs, and where their wiring is documented; the wiring is in `hardware.presets`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rakka_sim.config.catalogue import Catalogue
from rakka_sim.config.gpus import GpuSpec


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """One kind of machine: its GPU unless another is said, and how many; `nvlink`: whether that is what joins them."""

    name: str
    title: str
    gpu: str
    gpus: int
    source: str
    nvlink: bool = True


# fmt: off
MACHINES: tuple[MachineSpec, ...] = (
    MachineSpec("dgx1-p100", "DGX-1 with P100", "P100", 8,
                "NVLinks and PCIe: go-gpuallocator's DGX-1 Pascal, a hybrid cube mesh of single links"),
    MachineSpec("dgx1-v100", "DGX-1 with V100", "V100", 8,
                "NVLinks and PCIe: go-gpuallocator's DGX-1 Volta, a hybrid cube mesh of single and double links"),
    MachineSpec("dgx2", "DGX-2", "V100", 16,
                "hwloc's nvidiaDGX2.xml; NVIDIA Fabric Manager guide: each GPU one link to each of six switches of its "
                "board, the boards joined switch to switch"),
    MachineSpec("dgx-a100", "DGX A100, HGX A100", "A100-80", 8,
                "NVIDIA Fabric Manager guide: two links to each of six switches; PCIe: AWS p4d (aws-ofi-nccl)"),
    MachineSpec("hgx-h100", "HGX H100", "H100", 8,
                "OCI BM.GPU.H100.8 (oci-hpc): 5, 5, 4, 4 links to four switches; a GPU and a NIC per PCIe switch"),
    MachineSpec("hgx-h200", "HGX H200", "H200", 8,
                "as HGX H100: the dump in nccl-tests #256 has the same NVLinks"),
    MachineSpec("hgx-b200", "HGX B200", "B200", 8,
                "NVIDIA's HGX B200 page: two NVSwitches; 18 links, of which nine to each is inferred"),
    MachineSpec("gb200-nvl72", "GB200 NVL72, one of 18 trays", "GB200", 4,
                "NVIDIA's GB200 NVL72 page: 18 trays of two Grace and four GPUs, 18 switches, one link to each"),
    MachineSpec("pcie", "GPUs on PCIe alone", "L40S", 8,
                "the matrix in vllm #11122: pairs on one switch, halves on a tree of switches, then the sockets",
                nvlink=False),
    MachineSpec("nvlink-pairs", "PCIe GPUs joined in pairs by NVLink bridges", "A100-80", 8,
                "k8s-device-plugin #546: pairs (0,2) (1,3) (4,5) (6,7) of 12 links, nothing between pairs"),
    MachineSpec("single", "one GPU", "H100", 1, "nothing to know", nvlink=False),
)
# fmt: on

_ALIASES = {
    "hgxa100": "dgx-a100",
    "dgxh100": "hgx-h100",
    "dgxh200": "hgx-h200",
    "dgxb200": "hgx-b200",
    "dgx1p": "dgx1-p100",
    "dgx1v": "dgx1-v100",
}
# What a node of so many GPUs is, where the scenario does not say: the machine that those GPUs are usually sold in.
_USUAL = {
    "A100-40": "dgx-a100",
    "A100-80": "dgx-a100",
    "H100": "hgx-h100",
    "H200": "hgx-h200",
    "B200": "hgx-b200",
    "GB200": "gb200-nvl72",
}


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


_CATALOGUE = Catalogue("topology", MACHINES, _key, _ALIASES)


def machine_spec(name: str) -> MachineSpec:
    """The catalogue's row, whatever the case, spaces and hyphens of `name`; raises UnknownName."""
    return _CATALOGUE.find(name)


def usual_machine(gpu: GpuSpec) -> MachineSpec:
    """The machine that a GPU of the catalogue is usually in: the HGX of its kind, or a box with PCIe alone."""
    return machine_spec(_USUAL.get(gpu.name, "pcie"))
