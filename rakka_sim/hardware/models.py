"""What a GPU is, by what a driver or a PCI dump calls it; no rates are here.

Names are those of the GPU catalogue, and of some GPUs that it does not have because no engine here is priced for them.
"""

from __future__ import annotations

from dataclasses import dataclass

from rakka_sim.config.gpus import gpu
from rakka_sim.errors import UnknownName

GEN3, GEN4, GEN5 = "8.0 GT/s PCIe", "16.0 GT/s PCIe", "32.0 GT/s PCIe"


@dataclass(frozen=True, slots=True)
class _Row:
    """Compute capability x 10, PCIe generation, PCI device ids of vendor 0x10de; `nvlink`: whether it can have any."""

    sm: int
    pcie: str
    nvlink: bool
    devices: tuple[str, ...] = ()


# Compute capability, PCIe: NVIDIA's lists and datasheets. Ids: the PCI ID repository.
_ROWS = {
    "P100": _Row(60, GEN3, True, ("0x15f9",)),
    "V100": _Row(70, GEN3, True, ("0x1db1", "0x1db5", "0x1db8")),
    "A100-40": _Row(80, GEN4, True, ("0x20b0", "0x20f1")),
    "A100-80": _Row(80, GEN4, True, ("0x20b2", "0x20b5")),
    "A40": _Row(86, GEN4, True, ("0x2235",)),
    "A10G": _Row(86, GEN4, False, ("0x2237",)),
    "H100": _Row(90, GEN5, True, ("0x2330",)),
    "H200": _Row(90, GEN5, True, ("0x2335",)),
    "B200": _Row(100, GEN5, True, ("0x2901",)),
    "GB200": _Row(100, GEN5, True, ("0x2941",)),
    "L40S": _Row(89, GEN4, False, ("0x26b9",)),
    "RTX 4090": _Row(89, GEN4, False, ("0x2684",)),
    "RTX PRO 6000": _Row(120, GEN5, False),
}
_DEVICES = {device: model for model, row in _ROWS.items() for device in row.devices}
NVIDIA = "0x10de"


def known_model(name: str) -> str:
    """The name of a model as it is written here, whatever the case of `name`; raises UnknownName."""
    key = by_driver_name(name)
    found = next((model for model in _ROWS if model.lower() == key.lower()), None)
    if found is None:
        raise UnknownName("GPU model", name, ", ".join(_ROWS))
    return found


def compute_capability(model: str) -> int:
    """Compute capability x 10 of a model; 0 where it is not known here."""
    return _ROWS[model].sm if model in _ROWS else 0


def pcie_speed(model: str) -> str:
    """The PCIe generation of a model as the driver spells it; "" where it is not known here."""
    return _ROWS[model].pcie if model in _ROWS else ""


def can_have_nvlink(model: str) -> bool:
    """Whether GPUs of a model may be joined by NVLink; true of one that is not known here."""
    return model not in _ROWS or _ROWS[model].nvlink


def by_pci_ids(vendor: str, device: str) -> str:
    """The model of a PCI device; "" where it is not known here."""
    return _DEVICES.get(device.lower(), "") if vendor.lower() == NVIDIA else ""


def by_driver_name(name: str) -> str:
    """The catalogue's name of what a driver calls "NVIDIA H100 80GB HBM3"; the driver's own where there is none."""
    try:
        return gpu(name).name
    except UnknownName:
        short = name.removeprefix("NVIDIA ").removeprefix("Tesla ")
        return next((model for model in _ROWS if short.startswith(model)), name)
