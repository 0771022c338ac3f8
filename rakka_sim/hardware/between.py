"""From the parts of a machine to its pairs: what is between two devices and what it carries; nothing is chosen."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from rakka_sim.hardware import nccl, rates
from rakka_sim.hardware.pairs import Pairs
from rakka_sim.hardware.parts import Cpu, Pci
from rakka_sim.hardware.paths import PathClass

if TYPE_CHECKING:
    from rakka_sim.hardware.machine import Machine

# Between CPUs of a kind that no table lists: the slowest link between sockets that NCCL reckons with.
UNKNOWN_SOCKET_GB_S = min(nccl.SOCKETS_GB_S.values())


@dataclass(frozen=True, slots=True)
class Place:
    """Where a device is: the position of its CPU, and of itself and all above it in `machine.devices`, from the top."""

    cpu: int
    chain: tuple[int, ...]


class Layout:
    """The PCIe trees of a machine, and the ways in them."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.devices = machine.devices

    @cached_property
    def places(self) -> tuple[Place, ...]:
        """The place of each device, in the order of `machine.devices`."""
        found: list[Place] = []

        def walk(cpu: int, above: tuple[int, ...], pci: Pci) -> None:
            chain = (*above, len(found))
            found.append(Place(cpu, chain))
            for child in pci.children:
                walk(cpu, chain, child)

        for number, cpu in enumerate(self._machine.cpus):
            for top in cpu.devices:
                walk(number, (), top)
        return tuple(found)

    @cached_property
    def gpus(self) -> tuple[Place, ...]:
        """The places of the GPUs, by index."""
        where = {pci.gpu.index: self.places[at] for at, pci in enumerate(self.devices) if pci.gpu}
        return tuple(where[index] for index in sorted(where))

    @cached_property
    def nics(self) -> tuple[tuple[Pci, Place], ...]:
        """The network cards and their places."""
        return tuple((pci, self.places[at]) for at, pci in enumerate(self.devices) if pci.kind == "nic")

    def cpu(self, place: Place) -> Cpu:
        """The CPU that a device hangs from."""
        return self._machine.cpus[place.cpu]

    def path(self, a: Place, b: Place) -> PathClass:
        """The way between two devices by PCIe and sockets."""
        if a == b:
            return PathClass.X
        if a.cpu != b.cpu:
            return PathClass.SYS
        if a.chain[0] != b.chain[0]:
            tops = (self.devices[a.chain[0]], self.devices[b.chain[0]])
            return PathClass.PHB if tops[0].host_bridge == tops[1].host_bridge else PathClass.NODE
        shared = _in_common(a.chain, b.chain)
        return PathClass.PIX if max(len(a.chain), len(b.chain)) - shared <= 1 else PathClass.PXB

    def gb_s(self, a: Place, b: Place) -> float:
        """What that way carries between two GPUs, each direction: its slowest link, less what an Intel CPU takes."""
        path = self.path(a, b)
        if path is PathClass.X:
            return math.inf
        slowest = min(rates.pcie(pci.speed, pci.width) for pci in self._links(a, b))
        if path <= PathClass.PXB:
            return slowest
        cpus = self.cpu(a), self.cpu(b)
        if any(cpu.vendor == "GenuineIntel" for cpu in cpus):
            slowest *= rates.INTEL_PEER_SHARE
        return slowest if path < PathClass.SYS else min(slowest, *map(socket_gb_s, cpus))

    def _links(self, a: Place, b: Place) -> Iterator[Pci]:
        """The devices whose upward links are on the way."""
        shared = _in_common(a.chain, b.chain)
        for chain in (a.chain, b.chain):
            yield from (self.devices[at] for at in chain[shared:])


def socket_gb_s(cpu: Cpu) -> float:
    """What one NUMA node exchanges with another, each direction."""
    known = rates.socket(cpu.arch, cpu.vendor, cpu.family, cpu.model)
    return UNKNOWN_SOCKET_GB_S if known is None else known


def _in_common(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    return sum(x == y for x, y in zip(a, b, strict=False))  # a tree: what is the same is the same from the top


def pairs(machine: Machine) -> Pairs:
    """Everything between the GPUs of a machine."""
    layout, gpus, n = Layout(machine), machine.gpus, machine.count
    direct = {(link.a, link.b): link.count for link in machine.nvlinks}
    fabric: dict[int, int] = defaultdict(int)
    for link in machine.switch_links:
        fabric[link.gpu] += link.count
    barred = frozenset(machine.no_peer)
    paths = [[PathClass.X] * n for _ in range(n)]
    links, gb_s = [[0] * n for _ in range(n)], [[math.inf] * n for _ in range(n)]
    for b in range(n):
        for a in range(b):
            path, rate = layout.path(layout.gpus[a], layout.gpus[b]), layout.gb_s(layout.gpus[a], layout.gpus[b])
            count = direct.get((a, b), 0) + min(fabric[a], fabric[b])
            if (a, b) in barred:
                count, rate = 0, rate * nccl.HOST_SHARE
            if count:
                path, rate = PathClass.NV, count * rates.nvlink(min(gpus[a].sm, gpus[b].sm)).nccl_gb_s
            paths[a][b] = paths[b][a] = path
            links[a][b] = links[b][a] = count
            gb_s[a][b] = gb_s[b][a] = rate
    return Pairs(
        models=tuple(gpu.model for gpu in gpus),
        sms=tuple(gpu.sm for gpu in gpus),
        numa=tuple(layout.cpu(place).numa for place in layout.gpus),
        paths=tuple(map(tuple, paths)),
        links=tuple(map(tuple, links)),
        gb_s=tuple(map(tuple, gb_s)),
        fabric=tuple(fabric[i] for i in range(n)),
        no_peer=tuple(sorted(barred)),
        nics=tuple(
            (sum(rates.port(port.mbit_s) for port in pci.ports), tuple(layout.path(gpu, at) for gpu in layout.gpus))
            for pci, at in layout.nics
        ),
    )
