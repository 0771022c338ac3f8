"""A machine from NVML: what the driver says of GPUs, PCIe paths, NVLinks and peer access; nothing is ever set.

Written against the functions of `pynvml` (nvidia-ml-py), which is given, not imported: any object that has them does.
NVML knows no network cards, and the PCIe tree only as how far apart two GPUs are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rakka_sim.hardware import nvlinks
from rakka_sim.hardware.addresses import normal
from rakka_sim.hardware.machine import Machine
from rakka_sim.hardware.models import by_driver_name
from rakka_sim.hardware.parts import Gpu, NvLink, Pci, SwitchLink
from rakka_sim.hardware.paths import NVML_LEVELS, PathClass
from rakka_sim.hardware.topo_read import FABRIC
from rakka_sim.hardware.trees import Tree

_GENERATIONS = {
    1: "2.5 GT/s PCIe", 2: "5.0 GT/s PCIe", 3: "8.0 GT/s PCIe", 4: "16.0 GT/s PCIe", 5: "32.0 GT/s PCIe",
    6: "64.0 GT/s PCIe",
}  # fmt: skip
_TO_GPU, _TO_SWITCH = 0, 2  # nvmlIntNvLinkDeviceType_t
_READ, _WRITE = 0, 1  # nvmlGpuP2PCapsIndex_t; in some versions of pynvml its name for READ is a tuple


def read_nvml(nvml: Any, numa: Callable[[str], int] = lambda bus_id: -1, name: str = "") -> Machine:
    """The machine that this NVML sees, by the driver's index; `numa` knows the NUMA node of a PCI address, or -1."""
    handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    seen = _Seen(nvml, handles)
    gpus = [seen.gpu(index) for index in range(len(handles))]
    addresses = {pci.bus_id: index for index, pci in enumerate(gpus)}
    names = [f"GPU{index}" for index in range(len(gpus))]
    cells = {}
    for a, row in enumerate(names):
        for b, column in enumerate(names):
            if a != b:
                cells[row, column] = seen.level(a, b)
    nodes = {row: str(numa(pci.bus_id)) for row, pci in zip(names, gpus, strict=True)}
    if all(node == "-1" for node in nodes.values()):
        seen.notes.append("no NUMA nodes known")
    tree = Tree(names, cells, {row: "N/A" if node == "-1" else node for row, node in nodes.items()}, {}, seen.notes)
    links, ends = seen.nvlinks(addresses)
    cpus = tree.cpus(dict(zip(names, gpus, strict=True)))
    return Machine(cpus, links, ends, seen.no_peer(), name, tuple(seen.notes))


@dataclass
class _Seen:
    """What one NVML answers; a question that it does not know leaves a note."""

    nvml: Any
    handles: list[Any]
    notes: list[str] = field(default_factory=list)

    def ask(self, what: str, default: Any, function: str, *arguments: Any) -> Any:
        """The answer of an NVML function, or the default where this driver has none."""
        try:
            return getattr(self.nvml, function)(*arguments)
        except (self.nvml.NVMLError, AttributeError) as error:
            note = f"{what}: NVML says {str(error) or type(error).__name__}"
            if note not in self.notes:
                self.notes.append(note)
            return default

    def gpu(self, index: int) -> Pci:
        handle = self.handles[index]
        told = self.nvml.nvmlDeviceGetPciInfo(handle)
        major, minor = self.ask("compute capability", (0, 0), "nvmlDeviceGetCudaComputeCapability", handle)
        generation = self.ask("PCIe generation", 0, "nvmlDeviceGetMaxPcieLinkGeneration", handle)
        width = self.ask("PCIe width", 0, "nvmlDeviceGetMaxPcieLinkWidth", handle)
        model = by_driver_name(_text(self.nvml.nvmlDeviceGetName(handle)))
        gpu = Gpu(index, model, 10 * major + minor, _text(self.nvml.nvmlDeviceGetUUID(handle)))
        ids, subsystem = int(told.pciDeviceId), int(told.pciSubSystemId)
        return Pci(
            normal(_text(told.busId)),
            "0x030200",
            _GENERATIONS.get(generation, ""),
            width,
            (_hex(ids), _hex(ids >> 16), _hex(subsystem), _hex(subsystem >> 16)),
            gpu=gpu,
        )

    def level(self, a: int, b: int) -> str:
        """The path class of two GPUs by PCIe; "" where it is not known."""
        pair = self.handles[a], self.handles[b]
        level = self.ask("topology of pairs", None, "nvmlDeviceGetTopologyCommonAncestor", *pair)
        return NVML_LEVELS[level].name if level in NVML_LEVELS else PathClass.SYS.name if level is not None else ""

    def nvlinks(self, addresses: dict[str, int]) -> tuple[tuple[NvLink, ...], tuple[SwitchLink, ...]]:
        direct: Counter[tuple[int, int]] = Counter()
        switched: Counter[tuple[int, str]] = Counter()
        for index in range(len(self.handles)):
            for target, kind in self._ends(index):
                if kind == _TO_SWITCH:
                    switched[index, target or FABRIC] += 1
                elif target in addresses and addresses[target] != index:
                    direct[index, addresses[target]] += 1
                elif kind == _TO_GPU and target:
                    self.notes.append(f"an NVLink of GPU {index} ends at {target}, which is no GPU here: not counted")
        links, notes = nvlinks.agreed(direct)
        self.notes.extend(notes)
        return links, tuple(sorted(SwitchLink(gpu, switch, n) for (gpu, switch), n in switched.items()))

    def _ends(self, index: int) -> list[tuple[str, int]]:
        """The address that each active link of a GPU ends at, and what is there."""
        handle, ends = self.handles[index], []
        for link in range(getattr(self.nvml, "NVML_NVLINK_MAX_LINKS", 18)):
            try:
                active = self.nvml.nvmlDeviceGetNvLinkState(handle, link)
            except self.nvml.NVMLError:
                break  # not supported, or no such link: there are no more
            if not active:
                continue
            told = self.ask("far ends of NVLinks", None, "nvmlDeviceGetNvLinkRemotePciInfo", handle, link)
            target = "" if told is None else normal(_text(told.busId))
            kind = self.ask("kinds of NVLinks", _TO_GPU, "nvmlDeviceGetNvLinkRemoteDeviceType", handle, link)
            ends.append((target, int(kind)))
        return ends

    def no_peer(self) -> tuple[tuple[int, int], ...]:
        """Pairs of which the driver says, in either direction, that reading or writing is not possible."""
        barred = set()
        for b in range(len(self.handles)):
            for a in range(b):
                for pair in ((a, b), (b, a)):
                    handles = (self.handles[pair[0]], self.handles[pair[1]])
                    for way in (_READ, _WRITE):
                        if self.ask("peer access", 0, "nvmlDeviceGetP2PStatus", *handles, way):
                            barred.add((a, b))
        return tuple(sorted(barred))


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _hex(value: int) -> str:
    return f"0x{value & 0xFFFF:04x}"
