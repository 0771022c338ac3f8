"""The machine that this runs on, asked of NVML or else of torch, and the order in which torch numbers its GPUs.

NVML numbers GPUs by PCI address, CUDA as it likes and as `CUDA_VISIBLE_DEVICES` says: they are joined by UUID alone.
Nothing is set, no context is made by NVML; torch is imported only where it is asked.
"""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

from rakka_sim.errors import NoDevice
from rakka_sim.hardware.addresses import normal
from rakka_sim.hardware.machine import Machine
from rakka_sim.hardware.models import by_driver_name, pcie_speed
from rakka_sim.hardware.nvml import read_nvml
from rakka_sim.hardware.parts import Gpu, Pci
from rakka_sim.hardware.trees import Tree

_PCI_DEVICES = Path("/sys/bus/pci/devices")


def live_machine() -> Machine:
    """This machine; raises NoDevice, with what was asked and what it answered, if no GPU is to be seen."""
    asked: list[tuple[str, str]] = []
    for library, ask in (("NVML", _by_nvml), ("torch", _by_torch)):
        found = ask()
        if isinstance(found, Machine):
            return found
        asked.append((library, found))
    raise NoDevice(tuple(asked))


def cuda_ordinals(machine: Machine) -> tuple[int | None, ...]:
    """For each GPU of a live machine, what torch calls it: its CUDA ordinal, None if this process does not see it.

    Raises NoDevice if torch sees none at all.
    """
    cuda = _cuda()
    if isinstance(cuda, str):
        raise NoDevice((("torch", cuda),))
    seen = {_plain(str(cuda.get_device_properties(i).uuid)): i for i in range(cuda.device_count())}
    return tuple(seen.get(_plain(gpu.uuid)) for gpu in machine.gpus)


def numa_node(bus_id: str, devices: Path = _PCI_DEVICES) -> int:
    """The NUMA node of a PCI address, as the kernel says; -1 where it does not."""
    try:
        return int((devices / normal(bus_id) / "numa_node").read_text("ascii"))
    except (OSError, ValueError):
        return -1


def _by_nvml() -> Machine | str:
    try:
        import pynvml
    except ImportError:
        return "nvidia-ml-py is not installed"
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return str(error)
    try:
        if pynvml.nvmlDeviceGetCount() == 0:
            return "no GPU"
        return read_nvml(pynvml, numa_node, "this machine")
    finally:
        pynvml.nvmlShutdown()


def _cuda() -> Any:
    """`torch.cuda` if it sees a GPU, else why not."""
    try:
        import torch
    except ImportError:
        return "not installed"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    return torch.cuda if torch.cuda.is_available() else "no CUDA device"


def _by_torch() -> Machine | str:
    cuda = _cuda()
    return cuda if isinstance(cuda, str) else read_cuda(cuda, "this machine")


def read_cuda(cuda: Any, name: str = "") -> Machine:
    """The machine that `torch.cuda` sees: GPUs and who may copy to whom, neither NVLinks nor PCIe bridges."""
    notes = ["asked of torch, not of NVML: no NVLinks and no PCIe bridges are known (pip install nvidia-ml-py)"]
    properties = [cuda.get_device_properties(index) for index in range(cuda.device_count())]
    gpus = []
    for index, told in enumerate(properties):
        bus_id = f"{told.pci_domain_id:04x}:{told.pci_bus_id:02x}:{told.pci_device_id:02x}.0"
        model = by_driver_name(told.name)
        gpu = Gpu(index, model, 10 * told.major + told.minor, f"GPU-{_plain(str(told.uuid))}")
        speed = pcie_speed(model)
        gpus.append(Pci(bus_id, "0x030200", speed, 16 if speed else 0, gpu=gpu))
    names = [f"GPU{index}" for index in range(len(gpus))]
    nodes = {row: numa_node(pci.bus_id) for row, pci in zip(names, gpus, strict=True)}
    known = {row: "N/A" if node < 0 else str(node) for row, node in nodes.items()}
    cpus = Tree(names, {}, known, {}, notes).cpus(dict(zip(names, gpus, strict=True)))
    both = combinations(range(len(gpus)), 2)
    barred = [(a, b) for a, b in both if not (cuda.can_device_access_peer(a, b) and cuda.can_device_access_peer(b, a))]
    return Machine(cpus, no_peer=tuple(barred), name=name, notes=tuple(notes))


def _plain(uuid: str) -> str:
    return uuid.strip().lower().removeprefix("gpu-")
