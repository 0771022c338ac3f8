"""The look of figures, and the thinning of long series for them; what a figure shows is in `plots`."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as _Figure

from rakka_sim.report.measures import Array

BLUE, ORANGE, GREEN, PURPLE, RED, GREY = "#2b6cb0", "#dd6b20", "#2f855a", "#6b46c1", "#c53030", "#718096"

_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e2e8f0",
    "legend.edgecolor": "none",
    "legend.framealpha": 0.85,
    "legend.fontsize": 8,
    "lines.linewidth": 1.5,
    "lines.solid_capstyle": "round",
}


class Figure(_Figure):
    """A figure that shows itself in a notebook, whether or not pyplot is loaded."""

    def _repr_png_(self) -> bytes:
        png = io.BytesIO()
        self.savefig(png, format="png", dpi=110)
        return png.getvalue()


@contextmanager
def figure(
    rows: int, columns: int, size: tuple[float, float], *, bottom: float = 0.5, sharex: bool = False
) -> Iterator[tuple[Figure, list[Axes]]]:
    """A new figure and its axes row by row; what is drawn inside the block has the house's style. Sizes in inches."""
    # Fixed margins: an automatic layout would draw everything twice to find much the same.
    width, height = size
    margins = {"left": 0.7 / width, "right": 1 - 0.15 / width, "bottom": bottom / height, "top": 1 - 0.35 / height}
    gaps = {
        "wspace": _gap(0.75, width - 0.85, columns),
        "hspace": _gap(0.4 if sharex else 0.85, height - 0.35 - bottom, rows),
    }
    with matplotlib.rc_context(_STYLE):
        made = Figure(figsize=size)
        grid = {**margins, **gaps}
        yield made, list(made.subplots(rows, columns, squeeze=False, sharex=sharex, gridspec_kw=grid).flat)


def _gap(inches: float, length: float, cells: int) -> float:
    """The gap between cells as a share of a cell, which is how a grid wants it."""
    return inches * cells / (length - (cells - 1) * inches)


def cdf(values: Array, points: int = 500) -> tuple[Array, Array]:
    """The distribution function at so many even steps of the share: (values, shares)."""
    shares = np.linspace(0, 1, min(points, len(values)) if len(values) > 1 else 2)
    return np.quantile(values, shares), shares


def over_time(start: Array, end: Array, level: Array, edges: Array) -> Array:
    """The mean of `level` in each bin between `edges`: it holds from start to end and is 0 elsewhere.

    The intervals are in order and do not overlap.
    """
    if len(start) == 0:
        return np.zeros(len(edges) - 1)
    knots = np.stack([start, end], axis=1).ravel()
    area = np.zeros(len(knots))
    area[1::2] = (end - start) * level
    return np.diff(np.interp(edges, knots, np.cumsum(area))) / np.diff(edges)


def highest(start: Array, level: Array, edges: Array) -> Array:
    """The highest `level` among the intervals that begin in each bin, 0 where none does; `start` is in order."""
    bounds = np.searchsorted(start, edges)
    some = bounds[:-1] < bounds[1:]
    top = np.zeros(len(edges) - 1, level.dtype)
    if some.any():
        top[some] = np.maximum.reduceat(level[: bounds[-1]], bounds[:-1][some])
    return top


def grouped(counts: Array, most: int) -> tuple[Array, int]:
    """The counts of 0, 1, 2, ... as at most so many bars, and how many counts each of them sums."""
    every = -(-len(counts) // most)
    return np.add.reduceat(counts, np.arange(0, len(counts), every)), every


def legend_above(axes: Axes) -> None:
    """A legend in one line beside the title, where it hides nothing."""
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=4, borderaxespad=0)


def empty(axes: Axes, why: str) -> None:
    """Say in the axes that there is nothing to draw."""
    axes.text(0.5, 0.5, why, ha="center", va="center", transform=axes.transAxes, color=GREY)
    axes.set(xticks=[], yticks=[])
