"""A machine from the text of `nvidia-smi topo -m`: the tree behind a matrix, and its NVLinks; no text is split.

A cell holds the nearest way only, so an NVLink hides the PCIe path; what a network card is near to and the NUMA column
tell where those GPUs are. The matrix holds neither GPU models nor PCIe generations: give `model`, or NVLinks count as
those of an A100 and PCIe as Gen3, as NCCL takes what it does not know.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from rakka_sim.hardware import models, rates
from rakka_sim.hardware.machine import Machine
from rakka_sim.hardware.nvlinks import MOST_LINKS, agreed
from rakka_sim.hardware.parts import Gpu, NvLink, Pci, Port, SwitchLink
from rakka_sim.hardware.paths import PathClass
from rakka_sim.hardware.topo_text import split
from rakka_sim.hardware.trees import Tree

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
    tree = Tree([*gpus, *cards], cells, matrix.numa, matrix.cpu, notes)
    sm, (speed, width) = models.compute_capability(model), _link(model)
    leaves = {gpu: Pci("", "0x030200", speed, width, gpu=Gpu(i, model, sm)) for i, gpu in enumerate(gpus)}
    leaves |= {card: Pci("", "0x020700", ports=(Port(matrix.legend.get(card, card)),)) for card in cards}
    return Machine(tree.cpus(leaves), nvlinks, switch_links, name=name, notes=tuple(notes))


def _link(model: str) -> tuple[str, int]:
    speed = models.pcie_speed(model)
    return speed, 16 if speed else 0


def _understood(cell: str, pair: tuple[str, str], notes: list[str]) -> str:
    """A cell in today's words; "" (and a note) for one that nobody knows."""
    cell = _OLD_NAMES.get(cell, cell)
    if re.fullmatch(r"NV\d+", cell):
        if len(cell) > 4 or int(cell[2:]) > MOST_LINKS:
            notes.append(
                f"{pair[0]} to {pair[1]} is {cell[:20]!r}: counted as {MOST_LINKS} NVLinks, the most there are"
            )
            return f"NV{MOST_LINKS}"
        return cell
    known = PathClass.__members__.get(cell)
    if pair[0] == pair[1] or (known is not None and PathClass.PIX <= known <= PathClass.SYS):
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
