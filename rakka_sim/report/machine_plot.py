"""A machine as a figure: CPUs, PCIe trees, GPUs, network cards, NVLinks, and what is placed on the GPUs.

How things are joined is asked of `hardware`; nothing is computed here but places on paper.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, PathPatch, Rectangle
from matplotlib.path import Path as Curve

from rakka_sim.hardware import rates
from rakka_sim.hardware.between import socket_gb_s
from rakka_sim.hardware.machine import Machine
from rakka_sim.hardware.parts import Pci
from rakka_sim.report.figures import GREEN, GREY, Figure, figure
from rakka_sim.report.marks import Labels, colours_for, ink, labels_of, legend, paint

PALE, LINE = "#f7fafc", "#a0aec0"
# Places on paper in units of a GPU's width.
GPU_WIDTH, NIC_WIDTH, GAP, SOCKET_GAP = 1.0, 0.74, 0.16, 0.8
NARROWEST = 1.5  # a CPU
LEVEL, GPU_HEIGHT, BOX = 0.85, 0.62, 0.34
INCHES = 0.78  # per unit
NVLINK_COLOURS = {1: "#9ae6b4", 2: GREEN}


def draw_machine(
    machine: Machine,
    marks: Mapping[int, Labels] | None = None,
    *,
    title: str = "",
    colours: Mapping[str, str] | None = None,
) -> Figure:
    """The machine; `marks` names what is on a GPU, by index, and `colours` may say in which colour that is."""
    paper = Paper(machine)
    shades = colours_for(marks or {}, colours)
    rows = -(-len(shades) // 4)
    width, height, below = max(5.0, paper.width * INCHES), paper.height * INCHES, 0.1 + 0.2 * rows
    size = (width + 0.2, height + below + 0.35)
    with figure(1, 1, size) as (made, (axes,)):
        axes.set_position((0.1 / size[0], below / size[1], width / size[0], height / size[1]))
        axes.set_anchor("NW")
        paper.draw(axes, marks or {}, shades)
        axes.set_title((title or heading(machine)).replace("$", r"\$"))
        legend(axes, shades)
        return made


def heading(machine: Machine) -> str:
    """What it is, in one line."""
    models = list(dict.fromkeys(gpu.model or "GPU of unknown model" for gpu in machine.gpus))
    what = f"{machine.count} x {' and '.join(models)}" if models else "no GPUs"
    return f"{machine.name}: {what}" if machine.name else what


@dataclass
class _Leaf:
    """A box at the foot of a tree: one GPU, or network cards (or unknown devices) that hang side by side."""

    devices: tuple[Pci, ...]
    x: float = 0.0

    @property
    def width(self) -> float:
        return GPU_WIDTH if self.devices[0].gpu is not None else NIC_WIDTH


@dataclass
class _Branch:
    """A bridge and what hangs from it; the depth counts bridges above the leaves."""

    device: Pci
    below: list[_Branch | _Leaf] = field(default_factory=list)

    @property
    def x(self) -> float:
        return (self.below[0].x + self.below[-1].x) / 2

    @property
    def depth(self) -> int:
        return 1 + max((child.depth for child in self.below if isinstance(child, _Branch)), default=0)


class Paper:
    """Where everything of one machine is drawn; sizes in units of a GPU's width."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._trees = [_tree(cpu.devices) for cpu in machine.cpus]
        self._spans: list[tuple[float, float]] = []
        x = 0.0
        for tree in self._trees:
            start = x
            leaves = list(_leaves(tree))
            wide = sum(leaf.width + GAP for leaf in leaves) - GAP
            x += max(0.0, NARROWEST - wide) / 2  # a CPU with little below it has that in its middle
            for leaf in leaves:
                leaf.x = x + leaf.width / 2
                x += leaf.width + GAP
            x = start + max(wide, NARROWEST)
            self._spans.append((start, x))
            x += SOCKET_GAP
        self.width = max(x - SOCKET_GAP, 1.0)
        depth = max((b.depth for tree in self._trees for b in tree if isinstance(b, _Branch)), default=0)
        self._cpu_y = GPU_HEIGHT + LEVEL * (depth + 1)
        self._gpu_x = {
            leaf.devices[0].gpu.index: leaf.x
            for tree in self._trees
            for leaf in _leaves(tree)
            if leaf.devices[0].gpu is not None
        }
        self._foot = -1.35 if machine.switch_links else -0.08
        reach = max((self._gpu_x[link.b] - self._gpu_x[link.a] for link in machine.nvlinks), key=abs, default=0.0)
        self._foot = min(self._foot, -0.55 - 0.2 * abs(reach) if machine.nvlinks else 0.0)
        self.height = self._cpu_y + 0.6 - self._foot

    def draw(self, axes: Axes, marks: Mapping[int, Labels], colours: Mapping[str, str]) -> None:
        """Draw it all on axes, which lose their scales."""
        axes.set(xlim=(-0.03, self.width + 0.03), ylim=(self._foot, self._cpu_y + 0.6), aspect="equal")
        axes.axis("off")
        self._sockets(axes)
        for tree, (start, end) in zip(self._trees, self._spans, strict=True):
            for child in tree:
                self._edge(axes, child, min(max(child.x, start), end), self._cpu_y)
        self._nvlinks(axes)
        self._fabric(axes)
        for tree in self._trees:
            for leaf in _leaves(tree):
                self._leaf(axes, leaf, marks, colours)

    # --- PCIe ---------------------------------------------------------------------------------------------------

    def _sockets(self, axes: Axes) -> None:
        for cpu, (start, end) in zip(self.machine.cpus, self._spans, strict=True):
            _box(axes, start, self._cpu_y, end - start, 0.42, PALE)
            name = f"NUMA node {cpu.numa}" if cpu.numa >= 0 else "CPU"
            kind = {"GenuineIntel": "Intel", "AuthenticAMD": "AMD"}.get(cpu.vendor, cpu.arch)
            text = f"{name} ({kind})" if kind and end - start > 2.2 else name
            axes.text((start + end) / 2, self._cpu_y + 0.21, text, ha="center", va="center", fontsize=8, zorder=5)
        for (_, end), (start, _), cpu in zip(self._spans, self._spans[1:], self.machine.cpus, strict=False):
            y = self._cpu_y + 0.21
            axes.plot([end, start], [y, y], color=LINE, linewidth=2.2, zorder=1)
            rate = f"{socket_gb_s(cpu):g} GB/s"
            axes.text((end + start) / 2, y + 0.26, rate, ha="center", va="center", fontsize=6.5, color=GREY)

    def _edge(self, axes: Axes, child: _Branch | _Leaf, x: float, y: float) -> None:
        """A tree, from the line that comes down to it from (x, y)."""
        top = GPU_HEIGHT + LEVEL * child.depth - (LEVEL - BOX) / 2 if isinstance(child, _Branch) else GPU_HEIGHT
        device = child.device if isinstance(child, _Branch) else child.devices[0]
        rate = rates.pcie(device.speed, device.width)
        width = 0.8 + min(rate, 100.0) / 40
        bend = [x] if isinstance(child, _Branch) else [x, x]  # a leaf is met from above, whatever it hangs from
        heights = [y] if isinstance(child, _Branch) else [y, top + 0.12]
        axes.plot([*bend, child.x], [*heights, top], color=LINE, linewidth=width, zorder=1)
        if isinstance(child, _Branch):
            _box(axes, child.x - 0.35, top - BOX, 0.7, BOX, "white")
            axes.text(child.x, top - BOX / 2, "PCIe", ha="center", va="center", fontsize=6.5, color=GREY, zorder=5)
            for below in child.below:
                at = min(max(below.x, child.x - 0.3), child.x + 0.3)
                self._edge(axes, below, at, top - BOX)

    def _leaf(self, axes: Axes, leaf: _Leaf, marks: Mapping[int, Labels], colours: Mapping[str, str]) -> None:
        first, x = leaf.devices[0], leaf.x - leaf.width / 2
        if first.gpu is None:
            axes.add_patch(Rectangle((x, 0.2), leaf.width, GPU_HEIGHT - 0.2, facecolor="white", edgecolor=GREY,
                                     linewidth=0.8, zorder=3))  # fmt: skip
            axes.text(leaf.x, 0.1 + GPU_HEIGHT / 2, _card(leaf.devices), ha="center", va="center", fontsize=6,
                      color=GREY, zorder=5)  # fmt: skip
            return
        shades = [colours[label] for label in labels_of(marks.get(first.gpu.index))]
        paint(axes, x, 0.0, leaf.width, GPU_HEIGHT, shades)
        text = f"GPU {first.gpu.index}"
        axes.text(leaf.x, GPU_HEIGHT / 2, text, ha="center", va="center", fontsize=8, color=ink(shades), zorder=6,
                  fontweight="bold")  # fmt: skip

    # --- NVLink -------------------------------------------------------------------------------------------------

    def _nvlinks(self, axes: Axes) -> None:
        for link in sorted(self.machine.nvlinks, key=lambda link: link.count):
            a, b = self._gpu_x[link.a], self._gpu_x[link.b]
            # Each end leaves its GPU on the side of the other one, so that curves do not lie on each other.
            shift = 0.3 * min(1.0, abs(b - a) / 6) * (1 if b > a else -1)
            depth = -0.35 - 0.265 * abs(b - a)
            points = [(a + shift, 0.0), (a + shift, depth), (b - shift, depth), (b - shift, 0.0)]
            curve = Curve(points, [Curve.MOVETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4])
            colour = NVLINK_COLOURS.get(link.count, GREEN)
            width = 1.0 + min(link.count, 12) ** 0.75 * 0.55
            axes.add_patch(PathPatch(curve, facecolor="none", edgecolor=colour, linewidth=width, zorder=2))
        counts = sorted({link.count for link in self.machine.nvlinks})
        if counts:
            each = ", ".join(f"{n} NVLink{'s' if n > 1 else ''}" for n in counts)
            axes.text(self.width, self._foot, f"lines below: {each} (thicker: more)", ha="right", va="bottom",
                      fontsize=6.5, color=GREY)  # fmt: skip

    def _fabric(self, axes: Axes) -> None:
        links = self.machine.switch_links
        if not links:
            return
        by_gpu: dict[int, int] = {}
        for link in links:
            by_gpu[link.gpu] = by_gpu.get(link.gpu, 0) + link.count
        xs = [self._gpu_x[gpu] for gpu in by_gpu]
        switches = len({link.switch for link in links})
        left, right = min(xs) - 0.5, max(xs) + 0.5
        axes.add_patch(FancyBboxPatch((left, -1.25), right - left, 0.42, boxstyle="round,pad=0,rounding_size=0.1",
                                      facecolor="#f0fff4", edgecolor=GREEN, linewidth=1.2, zorder=2))  # fmt: skip
        counts = sorted(set(by_gpu.values()))
        each = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        what = f"{switches} x NVSwitch" if switches > 1 else "NVSwitch"
        text = f"{what}, {each} links per GPU" if right - left > 3 else what
        axes.text((left + right) / 2, -1.04, text, ha="center", va="center", fontsize=8, color=GREEN, zorder=5)
        for gpu, count in by_gpu.items():
            x = self._gpu_x[gpu]
            axes.plot([x, x], [0, -0.83], color=GREEN, linewidth=0.8 + count / 5, zorder=1, solid_capstyle="butt")


def _tree(devices: tuple[Pci, ...]) -> list[_Branch | _Leaf]:
    """What is drawn below one device or CPU: trees, GPUs, and cards that hang side by side as one box."""
    made: list[_Branch | _Leaf] = []
    for device in devices:
        if device.children or device.kind == "bridge":
            branch = _Branch(device, _tree(device.children))
            if branch.below:
                made.append(branch)
            continue
        last = made[-1] if made else None
        if device.gpu is None and isinstance(last, _Leaf) and last.devices[0].kind == device.kind:
            last.devices = (*last.devices, device)
        else:
            made.append(_Leaf((device,)))
    return made


def _leaves(tree: list[_Branch | _Leaf]) -> Iterator[_Leaf]:
    for child in tree:
        if isinstance(child, _Leaf):
            yield child
        else:
            yield from _leaves(child.below)


def _card(devices: tuple[Pci, ...]) -> str:
    """What is written on a box of cards: how many there are, and the rate of their ports in Gb/s."""
    many = f"{len(devices)} x " if len(devices) > 1 else ""
    if devices[0].kind != "nic":
        return f"{many}?"
    speeds: list[int] = [port.mbit_s for port in devices[0].ports]
    fastest = max(speeds, default=0)
    rate = f"\n{'2x' if len(speeds) == 2 else ''}{fastest // 1000}G" if fastest else ""
    return f"{many}NIC{rate}"


def _box(axes: Axes, x: float, y: float, width: float, height: float, colour: str) -> None:
    axes.add_patch(
        FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0,rounding_size=0.06", facecolor=colour,
                       edgecolor=LINE, linewidth=0.9, zorder=2)
    )  # fmt: skip
