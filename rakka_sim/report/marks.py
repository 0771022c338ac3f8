"""Labels on GPUs and their colours, the same in every panel of a figure; nothing is drawn here but a legend."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle

from rakka_sim.report.figures import BLUE, GREEN, GREY, ORANGE, PURPLE, RED

# What is on a GPU: a label, or several where more than one replica was put there.
Labels = str | Sequence[str]
K = TypeVar("K", bound=Hashable)

FREE = "#e2e8f0"
# After the house's colours come lighter and darker ones, so that neighbours in a legend stay apart.
PALETTE = (
    BLUE, ORANGE, GREEN, PURPLE, "#b7791f", "#00899b", "#d53f8c", "#5a67d8", "#97266d", "#2c7a7b", "#90cdf4", "#fbb66f",
    "#9ae6b4", "#c3a6f2", "#744210", "#1a365d",
)  # fmt: skip
MOST_IN_LEGEND = 24


def labels_of(marks: Labels | None) -> tuple[str, ...]:
    """The labels of one GPU."""
    if marks is None:
        return ()
    return (marks,) if isinstance(marks, str) else tuple(marks)


def colours_for(marks: Mapping[K, Labels], given: Mapping[str, str] | None = None) -> dict[str, str]:
    """A colour for each label, in the order in which labels first occur; those of `given` as they are."""
    names = dict.fromkeys(label for one in marks.values() for label in labels_of(one))
    chosen = dict(given or {})
    rest = (name for name in names if name not in chosen)
    chosen.update({name: PALETTE[number % len(PALETTE)] for number, name in enumerate(rest)})
    return {name: chosen[name] for name in names}


def paint(axes: Axes, x: float, y: float, width: float, height: float, colours: Sequence[str]) -> None:
    """A GPU's box: free, in its colour, or in stripes with a red edge where several share it."""
    shown = list(colours) or [FREE]
    for number, colour in enumerate(shown):
        part = width / len(shown)
        axes.add_patch(Rectangle((x + number * part, y), part, height, facecolor=colour, edgecolor="none", zorder=3))
    double = len(colours) > 1
    axes.add_patch(
        Rectangle((x, y), width, height, facecolor="none", edgecolor=RED if double else GREY,
                  linewidth=2.0 if double else 0.8, zorder=4)
    )  # fmt: skip


def ink(colours: Sequence[str]) -> str:
    """Black or white, whichever can be read on the first of these colours."""
    if not colours:
        return "#1a202c"
    red, green, blue = (int(colours[0][i : i + 2], 16) for i in (1, 3, 5))
    return "#1a202c" if 0.299 * red + 0.587 * green + 0.114 * blue > 150 else "white"


def legend(axes: Axes, colours: Mapping[str, str], *, below: float = 0.0) -> None:
    """What each colour is, in rows under the axes."""
    shown = list(colours.items())[:MOST_IN_LEGEND]
    if not shown:
        return
    patches = [Patch(color=colour, label=name.replace("$", r"\$")) for name, colour in shown]
    if len(colours) > len(shown):
        patches.append(Patch(color="none", label=f"and {len(colours) - len(shown)} more"))
    axes.legend(handles=patches, loc="upper left", bbox_to_anchor=(0, below), ncols=4, borderaxespad=0, frameon=False)
