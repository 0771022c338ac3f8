"""The wiring of well-known machines, by the names of `config.machines`, which holds the sources; no loader is here.

What a source does not give (PCI addresses, mostly) is made up in the style of the real thing, and nothing hangs on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

from rakka_sim.config.machines import machine_spec
from rakka_sim.errors import InputError
from rakka_sim.hardware.machine import Machine
from rakka_sim.hardware.models import GEN3, GEN4, GEN5, can_have_nvlink, compute_capability, known_model, pcie_speed
from rakka_sim.hardware.parts import Cpu, Gpu, NvLink, Pci, Port, SwitchLink

# DGX-1 V100, links per pair; in the P100's the same pairs have one each.
CUBE_MESH: Mapping[tuple[int, int], int] = {
    (0, 1): 1, (0, 2): 1, (0, 3): 2, (0, 4): 2, (1, 2): 2, (1, 3): 1, (1, 5): 2, (2, 3): 2, (2, 6): 1, (3, 7): 1,
    (4, 5): 1, (4, 6): 1, (4, 7): 2, (5, 6): 2, (5, 7): 1, (6, 7): 2,
}  # fmt: skip
BRIDGED = ((0, 2), (1, 3), (4, 5), (6, 7))

_XEON_V4 = Cpu(0, arch="x86_64", vendor="GenuineIntel", family=6, model=0x4F)
_XEON_SP = replace(_XEON_V4, model=0x55)
_XEON_SP4 = replace(_XEON_V4, model=0x8F)
_XEON_SP5 = replace(_XEON_V4, model=0xCF)
_EPYC = Cpu(0, arch="x86_64", vendor="AuthenticAMD", family=23, model=49)
_GRACE = Cpu(0, arch="arm64")


@lru_cache(maxsize=1024)
def preset(name: str, gpu: str | None = None, count: int | None = None) -> Machine:
    """A machine of the catalogue, with another kind of GPU or fewer of them if asked; raises UnknownName, InputError.

    `pcie` may have more than its eight, in two halves; the others have as many as they have.
    """
    spec = machine_spec(name)
    model, most = known_model(gpu) if gpu else spec.gpu, spec.gpus
    if spec.name == "pcie" and count is not None:
        most = max(count, most)
    if count is not None and not 1 <= count <= most:
        raise InputError(f"GPUs in a {spec.name}", count, f"1 to {most}")
    if spec.nvlink and not can_have_nvlink(model):
        raise InputError(f"GPU of a {spec.name}", model, "one that has NVLinks")
    whole = replace(_BUILDERS[spec.name](model, most), name=spec.name)
    return whole if count is None or count == most else first(whole, count)


def first(machine: Machine, count: int) -> Machine:
    """The machine with its first GPUs only; bridges and network cards stay."""

    def cut(pci: Pci) -> Pci | None:
        if pci.gpu is not None and pci.gpu.index >= count:
            return None
        return replace(pci, children=tuple(filter(None, map(cut, pci.children))))

    return replace(
        machine,
        cpus=tuple(replace(cpu, devices=tuple(filter(None, map(cut, cpu.devices)))) for cpu in machine.cpus),
        nvlinks=tuple(link for link in machine.nvlinks if link.b < count),
        switch_links=tuple(link for link in machine.switch_links if link.gpu < count),
        no_peer=tuple(pair for pair in machine.no_peer if pair[1] < count),
    )


# --- parts ------------------------------------------------------------------------------------------------------


def _gpu(index: int, model: str, bus: int, speed: str) -> Pci:
    gpu = Gpu(index, model, compute_capability(model))
    return Pci(_address(bus), "0x030200", speed, 16, gpu=gpu)


def _nic(number: int, bus: int, gbit_s: int, speed: str, pci_class: str = "0x020700") -> Pci:
    port = Port(f"mlx5_{number}", gbit_s * 1000)
    return Pci(_address(bus), pci_class, speed, 16, ports=(port,))


def _bridge(bus: int, speed: str, children: Sequence[Pci], host_bridge: int = 0) -> Pci:
    return Pci(_address(bus), "0x060400", speed, 16, children=tuple(children), host_bridge=host_bridge)


def _sockets(cpu: Cpu, halves: Sequence[Sequence[Pci]]) -> tuple[Cpu, ...]:
    return tuple(replace(cpu, numa=numa, devices=tuple(devices)) for numa, devices in enumerate(halves))


def _switched(gpus: int, links: Sequence[int]) -> tuple[SwitchLink, ...]:
    """Each GPU to each switch by so many links."""
    return tuple(SwitchLink(gpu, _switch(number), count) for gpu in range(gpus) for number, count in enumerate(links))


def _switch(number: int) -> str:
    return _address(0xC0 + number)


def _address(bus: int) -> str:
    """The first device of a bus; above the 256th in the next PCI domain."""
    return f"{bus >> 8:04x}:{bus & 0xFF:02x}:00.0"


# --- machines ---------------------------------------------------------------------------------------------------


def _dgx1(pix: Sequence[tuple[int, int]], links: Mapping[tuple[int, int], int]) -> Callable[[str, int], Machine]:
    def build(model: str, count: int) -> Machine:
        switches = [
            _bridge(
                0x04 + 0x10 * number,
                GEN3,
                [*(_gpu(i, model, 0x06 + 0x10 * number + k, GEN3) for k, i in enumerate(pair)),
                 _nic(number, 0x05 + 0x10 * number, 100, GEN3)],
            )
            for number, pair in enumerate(pix)
        ]  # fmt: skip
        nvlinks = tuple(NvLink(a, b, n) for (a, b), n in sorted(links.items()))
        return Machine(_sockets(_XEON_V4, (switches[:2], switches[2:])), nvlinks)

    return build


def _dgx2(model: str, count: int) -> Machine:
    # Eight switches, each with two GPUs and a network card; two of them below one upper switch.
    lower = [
        _bridge(
            0x10 + 8 * number,
            GEN3,
            [_gpu(2 * number + k, model, 0x12 + 8 * number + k, GEN3) for k in (0, 1)]
            + [_nic(number, 0x11 + 8 * number, 100, GEN3)],
        )
        for number in range(8)
    ]
    upper = [_bridge(0x80 + number, GEN3, lower[2 * number : 2 * number + 2]) for number in range(4)]
    links = (SwitchLink(gpu, _switch(switch + 6 * (gpu // 8)), 1) for gpu in range(16) for switch in range(6))
    return Machine(_sockets(_XEON_SP, (upper[:2], upper[2:])), switch_links=tuple(links))


def _dgx_a100(model: str, count: int) -> Machine:
    switches = [
        _bridge(
            0x04 + 0x10 * number,
            GEN4,
            [_gpu(2 * number + k, model, 0x07 + 0x10 * number + k, GEN4) for k in (0, 1)]
            + [_nic(2 * number + k, 0x0B + 0x10 * number + k, 200, GEN4) for k in (0, 1)],
            host_bridge=number % 2,
        )
        for number in range(4)
    ]
    return Machine(_sockets(_EPYC, (switches[:2], switches[2:])), switch_links=_switched(8, (2,) * 6))


def _hgx(cpu: Cpu, links: Sequence[int]) -> Callable[[str, int], Machine]:
    def build(model: str, count: int) -> Machine:
        switches = [
            _bridge(
                0x10 + 0x10 * number,
                GEN5,
                [_gpu(number, model, 0x18 + 0x10 * number, GEN5), _nic(number, 0x14 + 0x10 * number, 400, GEN5)],
                host_bridge=number % 4,
            )
            for number in range(8)
        ]
        return Machine(_sockets(cpu, (switches[:4], switches[4:])), switch_links=_switched(8, links))

    return build


def _nvl72(model: str, count: int) -> Machine:
    halves = [
        [
            device
            for k in (0, 1)
            for device in (
                replace(_gpu(2 * numa + k, model, 0x06 + 0x20 * (2 * numa + k), GEN5), host_bridge=2 * k),
                replace(_nic(2 * numa + k, 0x10 + 0x20 * (2 * numa + k), 400, GEN5), host_bridge=2 * k + 1),
            )
        ]
        for numa in (0, 1)
    ]
    return Machine(_sockets(_GRACE, halves), switch_links=_switched(4, (1,) * 18))


def _pcie(model: str, count: int) -> Machine:
    speed = pcie_speed(model) or GEN4
    halves = []
    for numa, (start, end) in enumerate(((0, (count + 1) // 2), ((count + 1) // 2, count))):
        # Pairs share a switch, and the switches of a half hang from one above them.
        gpus = [_gpu(i, model, 0x01 + i, speed) for i in range(start, end)]
        below = [_bridge(0x1000 + start + k, speed, gpus[k : k + 2]) for k in range(0, len(gpus), 2)]
        halves.append([_bridge(0x2000 + numa, speed, below)] if below else [])
    return Machine(_sockets(_XEON_SP4, halves))


def _nvlink_pairs(model: str, count: int) -> Machine:
    gpus = [replace(_gpu(i, model, 0x10 * (i + 1), GEN4), host_bridge=i % 4) for i in range(8)]
    nvlinks = tuple(NvLink(a, b, 12) for a, b in BRIDGED)
    return Machine(_sockets(_EPYC, (gpus[:4], gpus[4:])), nvlinks)


def _single(model: str, count: int) -> Machine:
    return Machine((replace(_XEON_SP4, devices=(_gpu(0, model, 0x01, pcie_speed(model) or GEN5),)),))


_BUILDERS: Mapping[str, Callable[[str, int], Machine]] = {
    "dgx1-p100": _dgx1(((0, 2), (1, 3), (4, 6), (5, 7)), dict.fromkeys(CUBE_MESH, 1)),
    "dgx1-v100": _dgx1(((0, 1), (2, 3), (4, 5), (6, 7)), CUBE_MESH),
    "dgx2": _dgx2,
    "dgx-a100": _dgx_a100,
    "hgx-h100": _hgx(_XEON_SP4, (5, 5, 4, 4)),
    "hgx-h200": _hgx(_XEON_SP4, (5, 5, 4, 4)),
    "hgx-b200": _hgx(_XEON_SP5, (9, 9)),
    "gb200-nvl72": _nvl72,
    "pcie": _pcie,
    "nvlink-pairs": _nvlink_pairs,
    "single": _single,
}
