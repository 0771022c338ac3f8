"""What a machine is made of: CPUs, PCIe devices, GPUs, network ports, NVLinks; how they make one is in `machine`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Kind = Literal["gpu", "nic", "nvswitch", "bridge", "unknown"]

GPU_CLASSES = ("0x0302", "0x0300")
SWITCH_CLASS, BRIDGE_CLASS, NIC_CLASS = "0x0680", "0x0604", "0x02"


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU: `index` is the driver's, `model` the catalogue's name ("" unknown), `sm` its compute capability x 10.

    `uuid` is the only thing that joins what two libraries say of it: they do not number GPUs alike.
    """

    index: int
    model: str = ""
    sm: int = 0
    uuid: str = ""


@dataclass(frozen=True, slots=True)
class Port:
    """One port of a network card; `mbit_s` 0 where nobody says."""

    name: str
    mbit_s: int = 0


@dataclass(frozen=True, slots=True)
class Pci:
    """A PCIe device and what hangs below it.

    `speed` (as the driver spells it) and `width` (lanes, 0 unknown) are of the link upwards. `ids` is vendor, device,
    subsystem vendor and subsystem device. `host_bridge` numbers those of one CPU; it says something at the top only.
    """

    bus_id: str
    pci_class: str = ""
    speed: str = ""
    width: int = 0
    ids: tuple[str, str, str, str] = ("", "", "", "")
    gpu: Gpu | None = None
    ports: tuple[Port, ...] = ()
    children: tuple[Pci, ...] = ()
    host_bridge: int = 0

    @property
    def kind(self) -> Kind:
        """By what it holds, else by its class; unknown where a file gives neither."""
        if self.gpu is not None:
            return "gpu"
        if self.ports or self.pci_class.startswith(NIC_CLASS):
            return "nic"
        if self.pci_class.startswith(SWITCH_CLASS):
            return "nvswitch"
        return "bridge" if self.children or self.pci_class.startswith(BRIDGE_CLASS) else "unknown"

    def walk(self) -> Iterator[Pci]:
        """This device and all below it, from the top, in order."""
        yield self
        for child in self.children:
            yield from child.walk()


@dataclass(frozen=True, slots=True)
class Cpu:
    """A NUMA node and the devices at its host bridges; `numa` is -1 where the system does not say."""

    numa: int
    devices: tuple[Pci, ...] = ()
    arch: str = ""
    vendor: str = ""
    family: int = 0
    model: int = 0
    affinity: str = ""


@dataclass(frozen=True, slots=True, order=True)
class NvLink:
    """Bonded NVLinks between two GPUs, by index: a < b."""

    a: int
    b: int
    count: int


@dataclass(frozen=True, slots=True, order=True)
class SwitchLink:
    """Bonded NVLinks from a GPU to one NVSwitch."""

    gpu: int
    switch: str
    count: int
