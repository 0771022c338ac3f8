"""A cluster as a figure: nodes with their GPUs by rack, NVLink islands, egress, and what is placed where.

One machine in detail is drawn by `machine_plot`; how GPUs are joined is asked of `hardware`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from rakka_sim.hardware.topology import ClusterTopology, Machine, Node, Place
from rakka_sim.report.figures import BLUE, GREEN, GREY, Figure, figure
from rakka_sim.report.machine_plot import draw_machine
from rakka_sim.report.marks import Labels, colours_for, ink, labels_of, legend, paint

MOST_NODES = 240
WIDEST = 13.0  # inches
CELL, NODE_HEIGHT = 0.34, 0.92  # inches of a GPU, and of a node with its name
GAP, RACK_HEAD = 0.16, 0.3
LETTER, EGRESS = 0.078, 0.45  # of a node's name, and of the word
PALE = "#f7fafc"


def draw(
    topology: Machine | ClusterTopology,
    marks: Mapping[Place, Labels] | Mapping[int, Labels] | None = None,
    *,
    title: str = "",
    colours: Mapping[str, str] | None = None,
) -> Figure:
    """A machine in detail, or a cluster node by node.

    `marks` names what is on a GPU: by index for a machine, by (node, GPU) for a cluster. Several labels on one GPU are
    drawn as what they are, double booking. `colours` may say in which colour a label is.
    """
    if isinstance(topology, Machine):
        by_index = {gpu: on for gpu, on in (marks or {}).items() if isinstance(gpu, int)}
        return draw_machine(topology, by_index, title=title, colours=colours)
    by_place = {place: on for place, on in (marks or {}).items() if isinstance(place, tuple)}
    return side_by_side(topology, {title or heading(topology): by_place}, colours=colours)


def side_by_side(
    topology: ClusterTopology,
    placements: Mapping[str, Mapping[Place, Labels]],
    *,
    colours: Mapping[str, str] | None = None,
) -> Figure:
    """One cluster under several placements, each below its title; a label has the same colour in all of them."""
    together = {(title, place): on for title, marks in placements.items() for place, on in marks.items()}
    shades = colours_for(together, colours)
    paper = _Paper(topology)
    legend_height = 0.1 + 0.2 * -(-len(shades) // 4)
    block = paper.height + 0.42
    size = (max(paper.width, 4.5) + 0.2, block * len(placements) + legend_height + 0.1)
    with figure(len(placements), 1, size) as (made, all_axes):
        for number, (axes, (title, marks)) in enumerate(zip(all_axes, placements.items(), strict=True)):
            bottom = legend_height + block * (len(placements) - 1 - number)
            axes.set_position((0.1 / size[0], bottom / size[1], paper.width / size[0], paper.height / size[1]))
            paper.draw(axes, marks, shades)
            axes.set_title(title.replace("$", r"\$"))
        legend(all_axes[-1], shades, below=-0.06 / paper.height)
        return made


def heading(topology: ClusterTopology) -> str:
    """What it is, in one line."""
    return f"{topology.name or 'cluster'}: {len(topology.nodes)} nodes, {topology.count} GPUs"


@dataclass
class _Spot:
    node: Node
    x: float
    y: float
    width: float


class _Paper:
    """Where each node of a cluster is drawn, in inches from the bottom left."""

    def __init__(self, topology: ClusterTopology) -> None:
        self.topology = topology
        shown = topology.nodes[:MOST_NODES]
        self.hidden = len(topology.nodes) - len(shown)
        groups: dict[str, list[Node]] = {}
        for node in shown:
            groups.setdefault(_group(node), []).append(node)
        self.spots: list[_Spot] = []
        self.heads: list[tuple[str, float, float, float]] = []
        self.width, y = 0.0, 0.0
        for name, nodes in groups.items():
            y -= RACK_HEAD if name else 0.0
            top, x = y, 0.0
            for node in nodes:
                width = max(CELL * max(node.machine.count, 3) + GAP, min(_name_width(node), 3.0))
                if x and x + width > WIDEST:
                    x, y = 0.0, y - NODE_HEIGHT - GAP
                self.spots.append(_Spot(node, x, y - NODE_HEIGHT, width - GAP / 2))
                x += width + GAP
                self.width = max(self.width, x - GAP)
            if name:
                self.heads.append((name, top, y, 0.0))
            y -= NODE_HEIGHT + GAP
        self.height = -y - GAP + (0.25 if self.hidden else 0.0)
        # Everything above was counted downwards from 0.
        self.spots = [_Spot(s.node, s.x, s.y + self.height, s.width) for s in self.spots]
        self.heads = [(name, top + self.height, 0.0, 0.0) for name, top, _, _ in self.heads]

    def draw(self, axes: Axes, marks: Mapping[Place, Labels], colours: Mapping[str, str]) -> None:
        """Draw it on axes of just this size, which lose their scales."""
        axes.set(xlim=(-0.02, self.width + 0.02), ylim=(-0.02, self.height + 0.02))
        axes.axis("off")
        for name, y, _, _ in self.heads:
            axes.text(0, y + 0.08, name, fontsize=8, color=GREY, va="bottom")
        for spot in self.spots:
            self._node(axes, spot, marks, colours)
        if self.hidden:
            axes.text(0, 0, f"and {self.hidden} nodes more", fontsize=8, color=GREY)

    def _node(self, axes: Axes, spot: _Spot, marks: Mapping[Place, Labels], colours: Mapping[str, str]) -> None:
        node = spot.node
        axes.add_patch(
            FancyBboxPatch((spot.x, spot.y), spot.width, NODE_HEIGHT - 0.08, boxstyle="round,pad=0,rounding_size=0.06",
                           facecolor=PALE, edgecolor="#cbd5e0", linewidth=0.9, zorder=1)
        )  # fmt: skip
        left, top = spot.x + GAP / 4, spot.y + NODE_HEIGHT - 0.12
        room = int((spot.width - 0.1 - EGRESS * node.egress) / LETTER)
        name = node.name if len(node.name) <= room else "…" + node.name[1 - room :]
        axes.text(left + 0.02, top, name.replace("$", r"\$"), fontsize=7.5, va="top", fontweight="bold", zorder=5)
        if node.egress:
            axes.text(spot.x + spot.width - 0.06, top, "egress", fontsize=6.5, va="top", ha="right", color=BLUE)
        y = spot.y + 0.24
        for gpu in range(node.machine.count):
            shades = [colours[label] for label in labels_of(marks.get((node.name, gpu)))]
            paint(axes, left + gpu * CELL + 0.02, y, CELL - 0.04, CELL - 0.04, shades)
            axes.text(left + (gpu + 0.5) * CELL, y + CELL / 2 - 0.02, str(gpu), fontsize=7, ha="center", va="center",
                      color=ink(shades), zorder=6)  # fmt: skip
        if not node.machine.count:
            remote = [label for label in labels_of(marks.get((node.name, -1)))]
            for number, label in enumerate(remote[:3]):
                paint(axes, left + number * CELL + 0.02, y, CELL - 0.04, CELL - 0.04, [colours[label]])
            if not remote:
                axes.text(left + 0.02, y + CELL / 2, "no GPUs", fontsize=7, color=GREY, va="center")
        self._islands(axes, node, left, spot.y + 0.17)

    def _islands(self, axes: Axes, node: Node, left: float, y: float) -> None:
        """A green line under GPUs that all have NVLinks to each other; where such sets overlap, the largest ones."""
        taken: set[int] = set()
        if not any(map(any, node.machine.pairs.links)):
            return
        for island in node.machine.islands():
            gpus = sorted(island)
            if len(gpus) < 2 or taken & island:
                continue
            taken |= island
            level = y if gpus[-1] - gpus[0] == len(gpus) - 1 else y - 0.04 * (1 + gpus[0] % 3)
            xs = [left + (gpu + 0.5) * CELL for gpu in gpus]
            axes.plot([xs[0] - 0.1, xs[-1] + 0.1], [level, level], color=GREEN, linewidth=2.0, zorder=2)
            axes.plot(xs, [level] * len(xs), "o", color=GREEN, markersize=2.6, zorder=3)


def _name_width(node: Node) -> float:
    return LETTER * len(node.name) + 0.2 + EGRESS * node.egress


def _group(node: Node) -> str:
    """What is written above the nodes that stand together."""
    parts = [f"region {node.region}" if node.region else "", f"rack {node.rack}" if node.rack else ""]
    if node.failure_domain not in ("", node.rack, node.name):
        parts.append(f"failure domain {node.failure_domain}")
    if node.nvlink_domain:
        parts.append(f"NVLink domain {node.nvlink_domain}")
    return ", ".join(filter(None, parts))
