"""The machine that this runs on: NVML's answers read through a stand-in that has a machine; what is said without a GPU.

The stand-in answers as the functions of nvidia-ml-py do; tests marked `gpu` ask the real ones.
"""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hardware.machines import machines
from hypothesis import given
from hypothesis import strategies as st

from rakka_sim.config.machines import MACHINES
from rakka_sim.errors import NoDevice
from rakka_sim.hardware.live import cuda_ordinals, live_machine, numa_node, read_cuda
from rakka_sim.hardware.nvml import read_nvml
from rakka_sim.hardware.parts import Pci
from rakka_sim.hardware.paths import NVML_LEVELS
from rakka_sim.hardware.presets import preset
from rakka_sim.hardware.topology import Machine, PathClass


class NvmlError(Exception):
    """As NVMLError: what a driver answers to a question that it does not know."""


class Nvml:
    """NVML on a given machine. `missing` are functions that this driver does not have."""

    NVMLError = NvmlError
    NVML_NVLINK_MAX_LINKS = 36

    def __init__(self, machine: Machine, missing: tuple[str, ...] = (), p2p: dict[tuple[int, int], int] | None = None):
        self._machine, self._missing = machine, missing
        self._pci = {pci.gpu.index: pci for pci in machine.devices if pci.gpu is not None}
        self._bare = machine.with_nvlinks()
        self._p2p = p2p or {}

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("nvml") and name in self._missing:
            raise NvmlError("Not Supported")
        return object.__getattribute__(self, name)

    def nvmlDeviceGetCount(self) -> int:
        return self._machine.count

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetName(self, handle: int) -> str:
        return f"NVIDIA {self._machine.gpus[handle].model}"

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return self._machine.gpus[handle].uuid or f"GPU-{handle:08x}"

    def nvmlDeviceGetPciInfo(self, handle: int) -> SimpleNamespace:
        return self._info(self._pci[handle].bus_id)

    def _info(self, bus_id: str) -> SimpleNamespace:
        domain, rest = bus_id.split(":", 1)
        return SimpleNamespace(
            busId=f"{int(domain, 16):08X}:{rest.upper()}".encode(), pciDeviceId=0x233010DE, pciSubSystemId=0x16C110DE
        )

    def nvmlDeviceGetCudaComputeCapability(self, handle: int) -> tuple[int, int]:
        return divmod(self._machine.gpus[handle].sm, 10)

    def nvmlDeviceGetMaxPcieLinkGeneration(self, handle: int) -> int:
        return 5

    def nvmlDeviceGetMaxPcieLinkWidth(self, handle: int) -> int:
        return 16

    def nvmlDeviceGetTopologyCommonAncestor(self, a: int, b: int) -> int:
        return {path: level for level, path in NVML_LEVELS.items()}[self._bare.path(a, b)]

    def _ends(self, gpu: int) -> list[tuple[str, int]]:
        ends: list[tuple[str, int]] = []
        for link in self._machine.nvlinks:
            if gpu in (link.a, link.b):
                ends += [(self._pci[link.a + link.b - gpu].bus_id, 0)] * link.count
        for end in self._machine.switch_links:
            if end.gpu == gpu:
                ends += [(end.switch, 2)] * end.count
        return ends

    def nvmlDeviceGetNvLinkState(self, handle: int, link: int) -> int:
        if link >= self.NVML_NVLINK_MAX_LINKS:
            raise NvmlError("Invalid Argument")
        return int(link < len(self._ends(handle)))

    def nvmlDeviceGetNvLinkRemotePciInfo(self, handle: int, link: int) -> SimpleNamespace:
        return self._info(self._ends(handle)[link][0])

    def nvmlDeviceGetNvLinkRemoteDeviceType(self, handle: int, link: int) -> int:
        return self._ends(handle)[link][1]

    def nvmlDeviceGetP2PStatus(self, a: int, b: int, way: int) -> int:
        assert way in (0, 1)
        barred = (min(a, b), max(a, b)) in self._machine.no_peer
        return self._p2p.get((a, b), 5 if barred else 0)


def _numa(machine: Machine) -> Any:
    nodes = {pci.bus_id: machine.pairs.numa[pci.gpu.index] for pci in machine.devices if pci.gpu}
    return nodes.__getitem__


@pytest.mark.parametrize("name", [spec.name for spec in MACHINES])
def test_a_known_machine_through_nvml(name: str) -> None:
    machine = preset(name)
    seen = read_nvml(Nvml(machine), _numa(machine))
    assert seen.notes == ()
    assert seen.pairs.paths == machine.pairs.paths
    assert seen.pairs.links == machine.pairs.links
    assert seen.pairs.fabric == machine.pairs.fabric
    assert seen.pairs.numa == machine.pairs.numa
    assert [gpu.sm for gpu in seen.gpus] == [gpu.sm for gpu in machine.gpus]
    assert {pci.bus_id for pci in seen.devices if pci.gpu} == {pci.bus_id for pci in machine.devices if pci.gpu}
    assert seen.with_nvlinks().pairs.paths == machine.with_nvlinks().pairs.paths


def _few_links(machine: Machine) -> bool:
    """What NVML can report: no GPU with more links than there are numbers for."""
    ends = [sum(e.count for e in machine.switch_links if e.gpu == g.index) for g in machine.gpus]
    ends = [n + sum(k.count for k in machine.nvlinks if g in (k.a, k.b)) for g, n in enumerate(ends)]
    return max(ends, default=0) <= 36


@given(machine=machines(most_gpus=4).filter(_few_links))
def test_any_machine_through_nvml(machine: Machine) -> None:
    seen = read_nvml(Nvml(machine), _numa(machine))
    assert seen.pairs.links == machine.pairs.links
    assert seen.no_peer == machine.no_peer
    for a, b in combinations(range(machine.count), 2):
        assert seen.path(a, b) is machine.path(a, b)


FUNCTIONS = [name for name in dir(Nvml) if name.startswith("nvmlDevice")]
NEEDED = {"nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex", "nvmlDeviceGetName", "nvmlDeviceGetUUID"} | {
    "nvmlDeviceGetPciInfo"
}


@given(missing=st.sets(st.sampled_from(sorted(set(FUNCTIONS) - NEEDED))))
def test_a_driver_without_some_functions_still_gives_a_machine(missing: set[str]) -> None:
    machine = preset("hgx-h100", count=4)
    seen = read_nvml(Nvml(machine, tuple(missing)), _numa(machine))
    assert seen.count == 4
    assert bool(seen.notes) == bool(missing - {"nvmlDeviceGetNvLinkState"}) or "nvmlDeviceGetNvLinkState" in missing
    if not missing & {"nvmlDeviceGetNvLinkState", "nvmlDeviceGetNvLinkRemoteDeviceType"}:
        assert seen.links(0, 3) == 18


def test_p2p_not_supported_on_an_nvlink_pair_is_no_nvlink() -> None:
    machine = preset("nvlink-pairs")
    seen = read_nvml(Nvml(machine, p2p={(2, 0): 5}), _numa(machine))
    assert seen.no_peer == ((0, 2),)
    assert (seen.links(0, 2), seen.links(1, 3)) == (0, 12)
    assert seen.path(0, 2) is PathClass.NODE


def test_consumer_cards_without_peer_access() -> None:
    machine = replace(preset("pcie", "RTX 4090", 4), no_peer=tuple(combinations(range(4), 2)))
    seen = read_nvml(Nvml(machine), _numa(machine))
    assert seen.no_peer == machine.no_peer
    assert [sorted(island) for island in seen.islands()] == [[0], [1], [2], [3]]
    assert seen.group(range(4)).fabric == "host"


def test_a_link_to_a_gpu_that_is_not_there_is_told() -> None:
    machine = preset("dgx1-v100")
    first_four = Nvml(machine)
    first_four.nvmlDeviceGetCount = lambda: 4  # type: ignore[method-assign]
    seen = read_nvml(first_four, _numa(machine))
    assert seen.pairs.links == preset("dgx1-v100", count=4).pairs.links
    assert any("which is no GPU here" in note for note in seen.notes)


# --- torch ------------------------------------------------------------------------------------------------------


class Cuda:
    """`torch.cuda` on a machine, with its own numbering: the given order of the machine's GPUs."""

    def __init__(self, machine: Machine, order: list[int]) -> None:
        self._machine, self._order = machine, order
        self._pci: dict[int, Pci] = {pci.gpu.index: pci for pci in machine.devices if pci.gpu is not None}

    def device_count(self) -> int:
        return len(self._order)

    def get_device_properties(self, ordinal: int) -> SimpleNamespace:
        gpu = self._machine.gpus[self._order[ordinal]]
        domain, bus, rest = self._pci[gpu.index].bus_id.split(":")
        major, minor = divmod(gpu.sm, 10)
        return SimpleNamespace(
            name=f"NVIDIA {gpu.model}", major=major, minor=minor, uuid=gpu.uuid.removeprefix("GPU-"),
            pci_domain_id=int(domain, 16), pci_bus_id=int(bus, 16), pci_device_id=int(rest.split(".")[0], 16),
        )  # fmt: skip

    def can_device_access_peer(self, a: int, b: int) -> bool:
        pair = sorted((self._order[a], self._order[b]))
        return tuple(pair) not in self._machine.no_peer


def _with_uuids(machine: Machine) -> Machine:
    def named(pci: Pci) -> Pci:
        gpu = pci.gpu and replace(pci.gpu, uuid=f"GPU-0000-{pci.gpu.index}")
        return replace(pci, gpu=gpu, children=tuple(map(named, pci.children)))

    return replace(machine, cpus=tuple(replace(cpu, devices=tuple(map(named, cpu.devices))) for cpu in machine.cpus))


@given(order=st.permutations(range(8)), visible=st.integers(1, 8))
def test_ordinals_are_joined_by_uuid(order: list[int], visible: int) -> None:
    machine = _with_uuids(preset("hgx-h100"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rakka_sim.hardware.live._cuda", lambda: Cuda(machine, order[:visible]))
        ordinals = cuda_ordinals(machine)
    for index, ordinal in enumerate(ordinals):
        assert ordinal is None if index not in order[:visible] else order[ordinal] == index


def test_torch_alone_says_what_it_cannot_see() -> None:
    machine = replace(_with_uuids(preset("pcie", count=4)), no_peer=((0, 1),))
    seen = read_cuda(Cuda(machine, [3, 1, 0, 2]))
    assert [gpu.uuid for gpu in seen.gpus] == ["GPU-0000-3", "GPU-0000-1", "GPU-0000-0", "GPU-0000-2"]
    assert seen.no_peer == ((1, 2),)
    assert {gpu.model for gpu in seen.gpus} == {"L40S"}
    assert "no NVLinks" in seen.notes[0]


# --- this machine -----------------------------------------------------------------------------------------------


def test_the_numa_node_is_the_kernels(tmp_path: Path) -> None:
    (tmp_path / "0000:0f:00.0").mkdir()
    (tmp_path / "0000:0f:00.0" / "numa_node").write_text("1\n")
    assert numa_node("00000000:0F:00.0", tmp_path) == 1
    assert numa_node("0000:10:00.0", tmp_path) == -1


def test_without_a_gpu_it_says_who_was_asked() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(NoDevice, match=r"no GPU found on this machine \(NVML: .+; torch: .+\)") as caught:
        live_machine()
    assert [library for library, _ in caught.value.asked] == ["NVML", "torch"]
    with pytest.raises(NoDevice, match="torch"):
        cuda_ordinals(preset("single"))


@pytest.mark.gpu
def test_the_gpus_of_this_machine() -> None:
    import torch

    machine = live_machine()
    assert machine.count >= torch.cuda.device_count() > 0
    ordinals = [ordinal for ordinal in cuda_ordinals(machine) if ordinal is not None]
    if importlib.util.find_spec("pynvml"):
        assert all(gpu.uuid.startswith("GPU-") for gpu in machine.gpus)
    assert sorted(ordinals) == list(range(torch.cuda.device_count()))
    for gpu, ordinal in zip(machine.gpus, cuda_ordinals(machine), strict=True):
        if ordinal is not None:
            told = torch.cuda.get_device_properties(ordinal)
            assert gpu.sm == 10 * told.major + told.minor
