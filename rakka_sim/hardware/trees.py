"""The PCIe tree behind a matrix of path classes; where the matrix comes from is not known here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from rakka_sim.hardware.parts import Cpu, Pci
from rakka_sim.hardware.paths import PathClass


class Tree:
    """Devices grouped by how near they are: each level joins the groups of the level below.

    `cells` name path classes, and hold something else where the PCIe path is not known. `numa` and `cpus` are NUMA
    nodes and CPU lists (``0-23,96-119``) by device, as printed. What does not fit a tree is added to `notes`.
    """

    def __init__(
        self,
        names: list[str],
        cells: Mapping[tuple[str, str], str],
        numa: Mapping[str, str],
        cpus: Mapping[str, str],
        notes: list[str],
    ) -> None:
        self._names, self._cells, self._numa, self._cpus, self._notes = names, cells, numa, cpus, notes
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
        column = self._numa or self._cpus
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
                if way is not None and self.between(a, b) is not way:
                    self._notes.append(f"{b} to {a} is {way.name}, but others put them at {self.between(a, b).name}")

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
            made.append(Cpu(self._node(members), tuple(devices), affinity=mask(self._first(self._cpus, members))))
        return tuple(made)

    def _node(self, members: list[str]) -> int:
        said = [self._numa.get(name, "") for name in members]
        number = next((text for text in said if text.isdecimal()), None)
        return -1 if number is None else int(number[:6])

    def _first(self, column: Mapping[str, str], members: list[str]) -> str:
        return next((column[name] for name in members if column.get(name)), "")


def mask(cpus: str) -> str:
    """A CPU list (``0-23,96-119``) as a mask in hexadecimal, 32 CPUs to a word; "" if it is none."""
    if not re.fullmatch(r"\d{1,4}(-\d{1,4})?(,\d{1,4}(-\d{1,4})?)*", cpus):
        return ""
    bits = 0
    for span in cpus.split(","):
        first, last = (span.split("-") * 2)[:2]
        for core in range(int(first), int(last) + 1):
            bits |= 1 << core
    digits = f"{bits:x}"
    digits = digits.zfill(-(-len(digits) // 8) * 8)
    return ",".join(digits[k : k + 8] for k in range(0, len(digits), 8))


def _switches(groups: list[list[Pci]], host_bridge: int) -> Pci:
    """One device as it is, several at one bridge, several bridges below one more."""
    if len(groups) == 1 and len(groups[0]) == 1:
        return replace(groups[0][0], host_bridge=host_bridge)
    below = [Pci("", "0x060400", children=tuple(group)) for group in groups]
    whole = below[0] if len(below) == 1 else Pci("", "0x060400", children=tuple(below))
    return replace(whole, host_bridge=host_bridge)
