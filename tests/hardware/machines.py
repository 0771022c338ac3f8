"""Machines as Hypothesis makes them: any tree, any NVLinks, any faults that a machine may have. No test is here."""

from __future__ import annotations

from itertools import combinations

from hypothesis import strategies as st

from rakka_sim.hardware.machine import Machine
from rakka_sim.hardware.parts import Cpu, Gpu, NvLink, Pci, Port, SwitchLink

SPEEDS = st.sampled_from(["", "8 GT/s", "16.0 GT/s PCIe", "32.0 GT/s PCIe", "32 GT/s PCIe/s", "Unknown"])
MODELS = st.sampled_from(
    [("H100", 90), ("A100-80", 80), ("V100", 70), ("", 0), ("", 75), ("A card <&\"'> of ours", 86)]
)
CPUS = st.sampled_from(
    [
        ("x86_64", "GenuineIntel", 6, 143),
        ("x86_64", "AuthenticAMD", 23, 49),
        ("arm64", "", 0, 0),
        ("x86_64", "CentaurHauls", 7, 1),
    ]
)
NAMES = st.text("abcdefghij_0123456789<&\"'é ", max_size=12).map(str.strip)


@st.composite
def machines(draw: st.DrawFn, most_gpus: int = 6) -> Machine:
    """A machine of up to so many GPUs."""
    count = draw(st.integers(0, most_gpus))
    model, sm = draw(MODELS)
    order = draw(st.permutations(range(count)))
    leaves = [
        Pci(_address(i), "0x030200", draw(SPEEDS), draw(st.sampled_from([0, 8, 16])),
            gpu=Gpu(order[i], model, sm, f"GPU-{i}" if draw(st.booleans()) else ""))
        for i in range(count)
    ]  # fmt: skip
    for i in range(draw(st.integers(0, 3))):
        ports = draw(st.lists(st.builds(Port, NAMES, st.sampled_from([0, 100_000, 400_000])), max_size=2))
        leaves.append(Pci(_address(0x20 + i), "0x020700", draw(SPEEDS), 16, ports=tuple(ports)))
    if draw(st.booleans()):
        leaves.append(Pci(_address(0x30), "", ""))  # a device that nobody knows
    groups: list[list[Pci]] = [[] for _ in range(draw(st.integers(1, 4)))]
    for leaf in leaves:
        groups[draw(st.integers(0, len(groups) - 1))].append(leaf)
    cpus = []
    for number, group in enumerate(groups):
        arch, vendor, family, cpu_model = draw(CPUS)
        family, cpu_model = (family, cpu_model) if vendor else (0, 0)
        devices = tuple(_nested(draw, group, 0x40 + 0x10 * number))
        cpus.append(Cpu(draw(st.integers(-1, 7)), devices, arch, vendor, family, cpu_model, "ff,ffff0000"))
    pairs = list(combinations(range(count), 2))
    direct = draw(st.dictionaries(st.sampled_from(pairs), st.integers(1, 18))) if pairs else {}
    ends = [(gpu, _address(0x90 + s)) for gpu in range(count) for s in range(2)]
    switched = draw(st.dictionaries(st.sampled_from(ends), st.integers(1, 9))) if ends else {}
    barred = draw(st.sets(st.sampled_from(pairs), max_size=2)) if pairs else set()
    return Machine(
        tuple(cpus),
        tuple(NvLink(a, b, n) for (a, b), n in sorted(direct.items())),
        tuple(sorted(SwitchLink(gpu, switch, n) for (gpu, switch), n in switched.items())),
        tuple(sorted(barred)),
        draw(NAMES),
    )


def _address(bus: int) -> str:
    return f"0000:{bus:02x}:00.0"


def _nested(draw: st.DrawFn, leaves: list[Pci], bus: int) -> list[Pci]:
    """The leaves, some of them behind one bridge, or two."""
    if not leaves or draw(st.booleans()):
        return [Pci(p.bus_id, p.pci_class, p.speed, p.width, p.ids, p.gpu, p.ports, (), draw(st.integers(0, 2)))
                for p in leaves]  # fmt: skip
    inner = leaves[: draw(st.integers(1, len(leaves)))]
    bridge = Pci(_address(bus), "0x060400", draw(SPEEDS), 16, children=tuple(inner))
    if draw(st.booleans()):
        bridge = Pci(_address(bus + 1), "0x060400", draw(SPEEDS), 8, children=(bridge, *leaves[len(inner) :]))
        return [bridge]
    return [bridge, *leaves[len(inner) :]]
