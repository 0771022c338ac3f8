"""A machine from the text of `nvidia-smi topo -m`: the tree behind a matrix, and its NVLinks; no text is split.

A cell holds the nearest way only, so an NVLink hides the PCIe path; what a network card is near to and the NUMA column
tell where those GPUs are. The matrix holds neither GPU models nor PCIe generations: give `model`, or NVLinks count as
those of an A100 and PCIe as Gen3, as NCCL takes what it does not know.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from rakka_sim.hardware import models, rates
from rakka_sim.hardware.machine import Machine
from rakka_sim.hardware.nvlinks import MOST_LINKS, agreed
from rakka_sim.hardware.parts import Cpu, Gpu, NvLink, Pci, Port, SwitchLink
from rakka_sim.hardware.paths import PathClass
from rakka_sim.hardware.topo_text import Matrix, split

FABRIC = "nvswitch"
_OLD_NAMES = {"SOC": "SYS"}


def read_topo(text: str, model: str = "", where: str = "topo -m", name: str = "") -> Machine:
    """A machine of GPUs of that model; raises InputError where the text holds no whole matrix."""
    matrix = split(text, where)
    notes: list[str] = []
    cells = {pair: _understood(cell, pair, notes) for pair, cell in matrix.cells.items()}
    gpus, cards = matrix.gpus, [other for other in matrix.names if other not in matrix.gpus]
    if gpus != [f"GPU{i}" for i in range(len(gpus))]:
        notes.append(f"{', '.join(gpus)}: numbered anew from 0 in this order")
    if not model:
        notes.append("no GPU model: NVLinks count as an A100's and PCIe as Gen3")
    elif not models.compute_capability(model):
        notes.append(f"GPU model {model!r} is not known: its NVLinks count as an A100's")
    nvlinks, switch_links = _nvlinks(gpus, cells, model, notes)
    tree = _Tree([*gpus, *cards], cells, matrix, notes)
    sm, (speed, width) = models.compute_capability(model), _link(model)
    leaves = {gpu: Pci("", "0x030200", speed, width, gpu=Gpu(i, model, sm)) for i, gpu in enumerate(gpus)}
    leaves |= {card: Pci("", "0x020700", ports=(Port(matrix.legend.get(card, card)),)) for card in cards}
    return Machine(tree.cpus(leaves), nvlinks, switch_links, name=name, notes=tuple(notes))


def load_topo(path: str | Path, model: str = "") -> Machine:
    """The same from a file."""
    from rakka_sim.hardware.files import read_text

    return read_topo(read_text(Path(path)), model, str(path), Path(path).stem)


def _link(model: str) -> tuple[str, int]:
    speed = models.pcie_speed(model)
    return speed, 16 if speed else 0


def _understood(cell: str, pair: tuple[str, str], notes: list[str]) -> str:
    """A cell in today's words; "" (and a note) for one that nobody knows."""
    cell = _OLD_NAMES.get(cell, cell)
    if re.fullmatch(r"NV\d+", cell):
        return cell
    if cell in PathClass.__members__ and PathClass[cell] <= PathClass.SYS:
        return cell
    notes.append(f"{pair[0]} to {pair[1]} is {cell[:20]!r}, which is no path: taken as the longest that is possible")
    return ""


# --- NVLinks ----------------------------------------------------------------------------------------------------


def _nvlinks(
    gpus: list[str], cells: Mapping[tuple[str, str], str], model: str, notes: list[str]
) -> tuple[tuple[NvLink, ...], tuple[SwitchLink, ...]]:
    said = {}
    for a, row in enumerate(gpus):
        for b, column in enumerate(gpus):
            if a != b and cells[row, column].startswith("NV"):
                said[a, b] = int(cells[row, column][2:])
    links, differences = agreed(said)
    notes.extend(differences)
    has = {(link.a, link.b): link.count for link in links}
    total = {gpu: sum(count for pair, count in has.items() if gpu in pair) for gpu in range(len(gpus))}
    most = rates.nvlink(models.compute_capability(model)).links if model else MOST_LINKS // 2
    if max(total.values(), default=0) <= most:
        return links, ()
    # More links than a GPU has: they are counted once for each partner, so they end in a switch.
    own = {gpu: max((n for pair, n in has.items() if gpu in pair), default=0) for gpu in total}
    linked = [gpu for gpu in own if own[gpu]]
    wrong = [(a, b) for a in linked for b in linked if a < b and has.get((a, b), 0) != min(own[a], own[b])]
    if wrong:
        notes.append(
            f"GPUs {wrong[0][0]} and {wrong[0][1]} have {has.get(wrong[0], 0)} NVLinks through switches, though "
            f"{own[wrong[0][0]]} and {own[wrong[0][1]]} each: taken as links between GPUs"
        )
        return links, ()
    return (), tuple(SwitchLink(gpu, FABRIC, own[gpu]) for gpu in linked)


# --- the tree ---------------------------------------------------------------------------------------------------


class _Tree:
    """Devices grouped by how near they are: each level joins the groups of the level below."""

    def __init__(
        self, names: list[str], cells: Mapping[tuple[str, str], str], matrix: Matrix, notes: list[str]
    ) -> None:
        self._names, self._cells, self._matrix, self._notes = names, cells, matrix, notes
        self._levels = [self._joined(PathClass(level)) for level in range(PathClass.PIX, PathClass.NODE + 1)]
        self._levels[-1] = self._by_numa(self._levels[-1])
        self._report()

    def _way(self, a: str, b: str) -> PathClass | None:
        """The PCIe path that the matrix gives, the farther one if its halves differ; None if an NVLink hides it."""
        given = [self._cells.get(pair, "") for pair in ((a, b), (b, a))]
        known = [PathClass[cell] for cell in given if cell in PathClass.__members__]
        return max(known, default=None)

    def _joined(self, level: PathClass) -> dict[str, str]:
        """The first device of the group that each device is in, groups being what is at most so far apart."""
        first = {name: name for name in self._names}

        def top(name: str) -> str:
            while first[name] != name:
                name = first[name]
            return name

        for i, a in enumerate(self._names):
            for b in self._names[:i]:
                way = self._way(a, b)
                if way is not None and way <= level:
                    x, y = top(a), top(b)
                    first[max(x, y, key=self._names.index)] = min(x, y, key=self._names.index)
        return {name: top(name) for name in self._names}

    def _by_numa(self, groups: dict[str, str]) -> dict[str, str]:
        """Groups of the same NUMA node (or, without that column, CPU list) are one, unless the matrix says SYS."""
        column = self._matrix.numa or self._matrix.cpu
        merged = dict(groups)
        for i, a in enumerate(self._names):
            for b in self._names[:i]:
                same = column.get(a) is not None and column.get(a) == column.get(b) and column[a] != "N/A"
                if same and merged[a] != merged[b]:
                    here = [name for name in self._names if merged[name] == merged[a]]
                    there = [name for name in self._names if merged[name] == merged[b]]
                    if not any(self._way(x, y) is PathClass.SYS for x in here for y in there):
                        merged.update(dict.fromkeys(here, merged[b]))
        return merged

    def _report(self) -> None:
        for i, a in enumerate(self._names):
            for b in self._names[:i]:
                way = self._way(a, b)
                if way is not None and way < PathClass.SYS and self.between(a, b) is not way:
                    self._notes.append(f"{b} to {a} is {way.name}, but others put them at {self.between(a, b).name}")
                elif way is PathClass.SYS and self.between(a, b) is not way:
                    self._notes.append(f"{b} to {a} is SYS, but others put them at {self.between(a, b).name}")

    def between(self, a: str, b: str) -> PathClass:
        """The path that the tree has between two devices."""
        near = next((i for i, groups in enumerate(self._levels) if groups[a] == groups[b]), len(self._levels))
        return PathClass(PathClass.PIX + near)

    def cpus(self, leaves: Mapping[str, Pci]) -> tuple[Cpu, ...]:
        """The CPUs with their devices."""
        pix, pxb, phb, node = self._levels
        made = []
        for cpu in dict.fromkeys(node[name] for name in self._names):
            members = [name for name in self._names if node[name] == cpu]
            devices = []
            for bridge, host in enumerate(dict.fromkeys(phb[name] for name in members)):
                for tree in dict.fromkeys(pxb[name] for name in members if phb[name] == host):
                    switches = dict.fromkeys(pix[name] for name in members if pxb[name] == tree)
                    devices.append(_switches([[leaves[n] for n in members if pix[n] == s] for s in switches], bridge))
            made.append(Cpu(self._numa(members), tuple(devices), affinity=self._mask(members)))
        return tuple(made)

    def _mask(self, members: list[str]) -> str:
        """The CPU list of a GPU among them (``0-23,96-119``) as a mask in hexadecimal; "" if it is none."""
        text = next((self._matrix.cpu[name] for name in members if self._matrix.cpu.get(name)), "")
        if not re.fullmatch(r"\d{1,4}(-\d{1,4})?(,\d{1,4}(-\d{1,4})?)*", text):
            return ""
        bits = 0
        for span in text.split(","):
            first, last = (span.split("-") * 2)[:2]
            for core in range(int(first), int(last) + 1):
                bits |= 1 << core
        digits = f"{bits:x}"
        digits = digits.zfill(-(-len(digits) // 8) * 8)
        return ",".join(digits[k : k + 8] for k in range(0, len(digits), 8))

    def _numa(self, members: list[str]) -> int:
        said = [self._matrix.numa.get(name, "") for name in members]
        number = next((text for text in said if text.isdecimal()), None)
        return -1 if number is None else int(number[:6])


def _switches(groups: list[list[Pci]], host_bridge: int) -> Pci:
    """One device as it is, several at one bridge, several bridges below one more."""
    if len(groups) == 1 and len(groups[0]) == 1:
        return replace(groups[0][0], host_bridge=host_bridge)
    below = [Pci("", "0x060400", children=tuple(group)) for group in groups]
    whole = below[0] if len(below) == 1 else Pci("", "0x060400", children=tuple(below))
    return replace(whole, host_bridge=host_bridge)
