"""The matrix of `nvidia-smi topo -m` as rows of cells, and a machine as such a matrix; `topo_read` knows what it means.

Real ones differ: with or without network cards, CPU and NUMA columns, a legend; with colours of the terminal, or behind
a prompt; names of cards in the matrix (older drivers) or in a legend below it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from rakka_sim.errors import InputError
from rakka_sim.hardware.between import Layout, Place
from rakka_sim.hardware.machine import Machine
from rakka_sim.hardware.paths import PathClass

MOST_LINES, MOST_COLUMNS = 20_000, 512
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_GPU = re.compile(r"GPU(\d+)")
_LEGEND = re.compile(r"\s*(NIC\d+)\s*:\s*(\S+)\s*$")
# The words of the columns behind the devices: "CPU Affinity", "NUMA Affinity", "GPU NUMA ID".
_COLUMN_WORDS = {"CPU", "NUMA", "Affinity", "GPU", "ID", "Affinity(s)", "NIC"}


@dataclass
class Matrix:
    """Cells as printed: `cells[row, column]`; `cpu` and `numa` by GPU row, "" where there is no such column."""

    names: list[str] = field(default_factory=list)
    cells: dict[tuple[str, str], str] = field(default_factory=dict)
    cpu: dict[str, str] = field(default_factory=dict)
    numa: dict[str, str] = field(default_factory=dict)
    legend: dict[str, str] = field(default_factory=dict)

    @property
    def gpus(self) -> list[str]:
        """The rows that are GPUs, by number."""
        rows = [name for name in self.names if _GPU.fullmatch(name)]
        return sorted(rows, key=lambda name: int(name[3:]))


def split(text: str, where: str) -> Matrix:
    """The cells of a printed matrix; raises InputError where there is none, or a row is too short."""
    lines = [_ESCAPE.sub("", line) for line in text.splitlines()]
    if len(lines) > MOST_LINES:
        raise InputError(where, f"{len(lines)} lines", f"at most {MOST_LINES} lines")
    found = Matrix()
    at = next((i for i, line in enumerate(lines) if _header(line)), None)
    if at is None:
        raise InputError(where, "no line of GPU0, GPU1, ...", "the matrix that `nvidia-smi topo -m` prints")
    found.names = _header(lines[at])
    if len(found.names) > MOST_COLUMNS or len(set(found.names)) < len(found.names):
        raise InputError(
            f"{where}, line {at + 1}", lines[at].strip()[:80], f"at most {MOST_COLUMNS} columns, each once"
        )
    affinities = [word for word in ("CPU Affinity", "NUMA Affinity") if word in re.sub(r"\s+", " ", lines[at])]
    for number, line in enumerate(lines[at + 1 :], at + 2):
        _row(found, line.split(), affinities, f"{where}, line {number}")
        if match := _LEGEND.fullmatch(line):
            found.legend[match[1]] = match[2]
    missing = [name for name in found.gpus if (name, name) not in found.cells]
    if missing:
        raise InputError(where, f"no row of {missing[0]}", "a row for each GPU")
    return found


def _header(line: str) -> list[str]:
    """The devices of the line above the matrix; nothing if it is another line."""
    words = line.split()
    while words and not _GPU.fullmatch(words[0]):
        if words[0] in {"X"} or len(words[0]) > 40:
            return []
        words = words[1:]
    devices: list[str] = []
    for word in words:
        if word in _COLUMN_WORDS:
            break
        devices.append(word)
    # A row of the matrix begins with a GPU as well, but goes on with X or a path.
    return devices if devices and all(_is_name(word) for word in devices) else []


def _is_name(word: str) -> bool:
    return not re.fullmatch(r"X|NV\d+|PIX|PXB|PHB|NODE|SYS|SOC|N/A|OK|[A-Z]NS", word) and bool(re.search(r"\d", word))


def _row(found: Matrix, words: list[str], affinities: list[str], where: str) -> None:
    if not words or words[0] not in found.names or (words[0], words[0]) in found.cells or words[1:2] == ["="]:
        return
    name, cells = words[0], words[1 : len(found.names) + 1]
    if len(cells) < len(found.names):
        raise InputError(f"{where}, {name}", f"{len(cells)} cells", f"{len(found.names)}, one for each column")
    found.cells.update({(name, column): cell for column, cell in zip(found.names, cells, strict=True)})
    rest = words[len(found.names) + 1 :]
    for column, value in zip(affinities, rest, strict=False):
        (found.cpu if column == "CPU Affinity" else found.numa)[name] = value


# --- the other way ----------------------------------------------------------------------------------------------


def matrix_text(machine: Machine) -> str:
    """The matrix of a machine as `nvidia-smi topo -m` prints it, with its legend."""
    layout = Layout(machine)
    gpus = [f"GPU{i}" for i in range(machine.count)]
    ports = [(port.name, place) for pci, place in layout.nics for port in pci.ports or ()]
    ports += [("?", place) for pci, place in layout.nics if not pci.ports]
    names, places = [*gpus, *(f"NIC{i}" for i in range(len(ports)))], [*layout.gpus, *(place for _, place in ports)]
    rows = []
    for i, name in enumerate(names):
        row = [name, *(_cell(machine, layout, i, j, places) for j in range(len(names)))]
        if i < machine.count:
            cpu = layout.cpu(places[i])
            row += [_cpu_list(cpu.affinity), str(cpu.numa) if cpu.numa >= 0 else "N/A"]
        rows.append(row)
    table = [["", *names, "CPU Affinity", "NUMA Affinity"], *rows]
    widths = [max(len(row[k]) for row in table if k < len(row)) + 2 for k in range(len(table[0]))]
    lines = ["".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in table]
    return "\n".join([*lines, "", *_legend(rows), *_cards([name for name, _ in ports]), ""])


def _cell(machine: Machine, layout: Layout, i: int, j: int, places: Sequence[Place]) -> str:
    if i == j:
        return " X"
    if max(i, j) < machine.count:
        return f"NV{machine.links(i, j)}" if machine.links(i, j) else machine.path(i, j).name
    path = layout.path(places[i], places[j])
    return "PIX" if path is PathClass.X else path.name  # two ports of one card


def _legend(rows: list[list[str]]) -> Iterator[str]:
    seen = {cell.strip().rstrip("0123456789") for row in rows for cell in row[1:]}
    yield "Legend:"
    yield ""
    for path in PathClass:
        if path.name in seen:
            yield f"  {path.name + ('#' if path is PathClass.NV else ''):4} = {path.meaning}"


def _cards(names: list[str]) -> Iterator[str]:
    if names:
        yield from ("", "NIC Legend:", "", *(f"  NIC{i}: {name}" for i, name in enumerate(names)))


def _cpu_list(mask: str) -> str:
    """``000000ff,ffff0000`` as ``16-39``; N/A where there is no mask or it is none."""
    try:
        bits = int(mask.replace(",", ""), 16) if mask else 0
    except ValueError:
        bits = 0
    cores = [core for core in range(min(bits.bit_length(), 4096)) if bits >> core & 1]
    spans: list[list[int]] = []
    for core in cores:
        if spans and core == spans[-1][1] + 1:
            spans[-1][1] = core
        else:
            spans.append([core, core])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in spans) or "N/A"
