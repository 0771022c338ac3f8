"""Measured points and the straight lines between them; which kernel a point belongs to is not known here."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from rakka_sim.errors import InputError

Array = np.ndarray[Any, np.dtype[np.float64]]


class Curve:
    """Seconds over one size, linear between the points and, by the last two, beyond them; never in log space, where
    straight lines lie 11 to 14 % too high."""

    __slots__ = ("_slope", "_x", "_y", "sizes", "times")

    def __init__(self, x: Sequence[float] | Array, y: Sequence[float] | Array, where: str = "curve") -> None:
        if not len(x):
            raise InputError(where, "no points", "at least one measured point")
        order = np.argsort(x, kind="stable")
        self.sizes, self.times = np.asarray(x, dtype=np.float64)[order], np.asarray(y, dtype=np.float64)[order]
        if np.any(np.diff(self.sizes) <= 0):
            raise InputError(where, "the same size twice", "one point per size")
        slope = np.diff(self.times) / np.diff(self.sizes) if len(self.sizes) > 1 else np.zeros(1)
        self._slope = np.append(slope, slope[-1]) if len(self.sizes) > 1 else slope
        self._x, self._y = self.sizes.tolist(), self.times.tolist()

    def at(self, size: float) -> float:
        """Seconds at one size; before the first point, those of the first."""
        if size <= self._x[0]:
            return float(self._y[0])
        i = bisect_right(self._x, size) - 1
        return float(self._y[i] + float(self._slope[i]) * (size - self._x[i]))

    def over(self, sizes: Array) -> Array:
        """`at` of many, to the last bit."""
        i = np.maximum(self.sizes.searchsorted(sizes, side="right") - 1, 0)
        return self.times[i] + self._slope[i] * np.maximum(sizes - self.sizes[i], 0.0)


def total(parts: Iterable[tuple[Curve, float]]) -> Curve:
    """The sum of curves, each so many times, over the union of their points."""
    counted = list(parts)
    sizes = np.unique(np.concatenate([curve.sizes for curve, _ in counted]))
    times = np.zeros(len(sizes))
    for curve, count in counted:
        times += curve.over(sizes) * count
    return Curve(sizes, times)


class Grid:
    """Seconds over several sizes, multilinear between the points and, by the nearest two, beyond them.

    What is not measured along the last axis is continued by a straight line. Below the first point of an axis, the
    first counts.
    """

    __slots__ = ("_axes", "_values", "axes", "values")

    def __init__(self, axes: Sequence[Sequence[float]], points: Mapping[tuple[float, ...], float]) -> None:
        self.axes = [np.asarray(axis, dtype=np.float64) for axis in axes]
        self.values = np.full([len(axis) for axis in axes], np.nan)
        for at in np.ndindex(*self.values.shape):
            found = points.get(tuple(float(axis[i]) for axis, i in zip(self.axes, at, strict=True)))
            if found is not None:
                self.values[at] = found
        self._continue()
        self._axes = [axis.tolist() for axis in self.axes]
        self._values = self.values

    def _continue(self) -> None:
        last, values = self.axes[-1], self.values
        for k in range(2, len(last)):
            step = (last[k] - last[k - 1]) / (last[k - 1] - last[k - 2])
            beyond = values[..., k - 1] + (values[..., k - 1] - values[..., k - 2]) * step
            values[..., k] = np.where(np.isnan(values[..., k]), beyond, values[..., k])
        if np.isnan(values).any():
            raise InputError("measured grid", f"{int(np.isnan(values).sum())} points are missing", "all but far ones")

    def at(self, *sizes: float) -> float:
        """Seconds at one point."""
        block: Any = self._values
        for axis, size in zip(self._axes, sizes, strict=True):
            if len(axis) == 1:
                block = block[0]
                continue
            i = min(max(bisect_right(axis, size) - 1, 0), len(axis) - 2)
            share = max(0.0, (size - axis[i]) / (axis[i + 1] - axis[i]))
            block = block[i] * (1.0 - share) + block[i + 1] * share
        return float(block)


def doubling(values: Iterable[float]) -> list[float]:
    """Of measured sizes, the smallest one and its doubles (and zero): the grid that is measured in full."""
    found = sorted(set(values))
    start = next((value for value in found if value > 0), None)
    kept = [value for value in found if value == 0]
    while start is not None and start in found:
        kept.append(start)
        start *= 2
    return kept
