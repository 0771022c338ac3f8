"""What a GPU is, by what a driver or a PCI dump calls it: the catalogue's name and the compute capability."""

from __future__ import annotations

from rakka_sim.config.gpus import gpu
from rakka_sim.errors import UnknownName

# Names of the GPU catalogue, and those of machines that it does not price: compute capability x 10 (NVIDIA's list).
_COMPUTE = {
    "P100": 60, "V100": 70, "A100-40": 80, "A100-80": 80, "A40": 86, "A10G": 86, "H100": 90, "H200": 90, "B200": 100,
    "GB200": 100, "L40S": 89, "RTX 4090": 89, "RTX PRO 6000": 120,
}  # fmt: skip

# PCI device ids of vendor 0x10de (the PCI ID repository).
_DEVICES = {
    "0x15f9": "P100", "0x1db1": "V100", "0x1db5": "V100", "0x1db8": "V100", "0x20b0": "A100-40", "0x20b2": "A100-80",
    "0x20f1": "A100-40", "0x20b5": "A100-80", "0x2235": "A40", "0x2237": "A10G", "0x2330": "H100", "0x2335": "H200",
    "0x2901": "B200", "0x2941": "GB200", "0x26b9": "L40S", "0x2684": "RTX 4090",
}  # fmt: skip
NVIDIA = "0x10de"


def compute_capability(model: str) -> int:
    """Compute capability x 10 of a model; 0 where it is not known here."""
    return _COMPUTE.get(model, 0)


def by_pci_ids(vendor: str, device: str) -> str:
    """The model of a PCI device; "" where it is not known here."""
    return _DEVICES.get(device.lower(), "") if vendor.lower() == NVIDIA else ""


def by_driver_name(name: str) -> str:
    """The catalogue's name of what a driver calls "NVIDIA H100 80GB HBM3"; the driver's own where there is none."""
    try:
        return gpu(name).name
    except UnknownName:
        return name
