"""The figures of a report; how they look is in `figures`, and no number may be made here that is not drawn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes

from rakka_sim.report import files
from rakka_sim.report.figures import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    Figure,
    cdf,
    empty,
    figure,
    grouped,
    highest,
    legend_above,
    over_time,
)
from rakka_sim.report.measures import Array, limits
from rakka_sim.report.usage import window

if TYPE_CHECKING:
    from rakka_sim.report.report import Report

LATENCIES = {
    "ttft_ms": ("Time to first token (TTFT)", BLUE),
    "tpot_ms": ("Time per output token (TPOT)", ORANGE),
    "itl_ms": ("Gap between tokens (ITL)", GREEN),
    "e2e_ms": ("End to end (E2E)", PURPLE),
}
MOST_BINS = 300
MOST_BARS = 60
LONGEST_NAME = 16


class Plots:
    """Figures of one report; each is made anew, with matplotlib's object interface and without pyplot."""

    def __init__(self, report: Report) -> None:
        self._report = report

    def latency(self) -> Figure:
        """How TTFT, TPOT, ITL and E2E of the completed requests are distributed, with the objectives."""
        pooled = self._report.measures.pooled(self._report.measures.completed)
        bounds = limits(self._report.slo)
        with figure(2, 2, (9, 5.4)) as (made, axes):
            for one, (name, (title, colour)) in zip(axes, LATENCIES.items(), strict=True):
                _distribution(one, title, pooled[name], colour, bounds.get(name))
            return made

    def timeline(self) -> Figure:
        """Requests running and waiting, KV use and output tokens over time, all replicas together."""
        edges = self._edges()
        with figure(3, 1, (9, 6.6), sharex=True) as (made, axes):
            if edges is None:
                _all_empty(axes, "no steps")
                return made
            at, steps = edges[:-1], self._report.log.step_columns()
            axes[0].plot(at, self._total(steps["running"], edges), color=BLUE, label="running")
            axes[0].plot(at, self._total(steps["waiting"], edges), color=ORANGE, label="waiting")
            axes[0].set(title="Requests in the engines", ylabel="requests", ylim=(0, None))
            legend_above(axes[0])
            self._kv(axes[1], edges)
            times, _ = self._report.log.token_times()
            rate = np.histogram(times, len(at), (edges[0], edges[-1]))[0] / np.diff(edges)
            axes[2].plot(at, rate, color=GREEN)
            axes[2].set(
                title="Output", ylabel="tokens per s", xlabel="time (s)", ylim=(0, None), xlim=(edges[0], edges[-1])
            )
            return made

    def batch(self) -> Figure:
        """How many sequences a step decodes: how the time divides among batch sizes, and the size over time."""
        edges = self._edges()
        with figure(1, 2, (9, 3.4)) as (made, axes):
            if edges is None:
                _all_empty(axes, "no steps")
                return made
            steps = self._report.log.step_columns()
            seconds, size = steps["end"] - steps["start"], steps["decode_seqs"]
            shares, every = grouped(np.bincount(size, 100 * seconds / max(seconds.sum(), 1e-300)), MOST_BARS)
            begins = np.arange(len(shares)) * every - 0.5
            axes[0].bar(begins, shares, width=every, align="edge", color=BLUE, edgecolor="white", linewidth=0.4)
            axes[0].set(title="Batch size", xlabel="sequences decoded in a step", ylabel="share of busy time (%)")
            mean = self._mean_batch(edges)
            top = np.maximum(
                highest(steps["start"], size, edges), mean
            )  # no step may begin in a bin that a long one fills
            axes[1].fill_between(edges[:-1], top, color=BLUE, alpha=0.2, linewidth=0, label="largest")
            axes[1].plot(edges[:-1], mean, color=BLUE, label="mean while busy")
            axes[1].set(
                title="Over time", xlabel="time (s)", ylabel="sequences", ylim=(0, None), xlim=(edges[0], edges[-1])
            )
            legend_above(axes[1])
            return made

    def replicas(self) -> Figure:
        """What each replica carried: requests, busy time, KV use."""
        found = self._report.summary()["replicas"]
        several = len({of["deployment"] for of in found}) > 1
        names = [f"{of['deployment']}/{of['replica']}" if several else str(of["replica"]) for of in found]
        with figure(1, 3, (9, 3.8 if several else 3.2), bottom=1.35 if several else 0.5) as (made, axes):
            if not found:
                _all_empty(axes, "no replicas")
                return made
            _bars(axes[0], names, [of["requests"] for of in found], "Requests taken", "requests", BLUE)
            _bars(axes[1], names, [100 * (of["busy"] or 0) for of in found], "Busy", "share of time (%)", GREEN)
            _bars(axes[2], names, [100 * (of["kv_mean"] or 0) for of in found], "KV use", "blocks in use (%)", ORANGE)
            highest_use = [100 * (of["kv_max"] or 0) for of in found]
            axes[2].plot(range(len(found)), highest_use, "_", color=RED, markersize=9, label="highest")
            legend_above(axes[2])
            return made

    def all(self, folder: str | Path) -> list[Path]:
        """Every figure as a PNG in `folder`."""
        made = {"latency": self.latency, "timeline": self.timeline, "batch": self.batch, "replicas": self.replicas}
        return [_write(Path(folder) / f"{name}.png", plot()) for name, plot in made.items()]

    def _edges(self) -> Array | None:
        """Even bins over the run; None where there is no time to bin."""
        start, end = window(self._report.log)
        steps = len(self._report.log.step_columns()["start"])
        return None if not steps or end <= start else np.linspace(start, end, min(MOST_BINS, max(steps // 4, 20)) + 1)

    def _each(self, level: Array, edges: Array) -> list[Array]:
        """The mean in each bin, for each replica, of what has a `level` at each step and is 0 between steps."""
        steps = self._report.log.step_columns()
        masks = (steps["replica"] == place for place in range(len(self._report.log.replicas)))
        return [over_time(steps["start"][mine], steps["end"][mine], level[mine], edges) for mine in masks]

    def _total(self, level: Array, edges: Array) -> Array:
        total: Array = np.sum(self._each(level, edges), axis=0)
        return total

    def _mean_batch(self, edges: Array) -> Array:
        size = self._report.log.step_columns()["decode_seqs"]
        busy = self._total(np.ones(len(size)), edges)
        total = self._total(size, edges)
        return np.divide(total, busy, out=np.zeros_like(total), where=busy > 0)

    def _kv(self, axes: Axes, edges: Array) -> None:
        facts = self._report.log.replicas
        used = self._each(self._report.log.step_columns()["kv_blocks"], edges)
        shares = [100 * blocks / of.kv_blocks for blocks, of in zip(used, facts, strict=True) if of.kv_blocks]
        if not shares:
            axes.plot(edges[:-1], np.sum(used, axis=0), color=GREY)
            axes.set(title="KV cache", ylabel="blocks in use", ylim=(0, None))
            return
        axes.fill_between(
            edges[:-1], np.min(shares, axis=0), np.max(shares, axis=0), color=BLUE, alpha=0.2, linewidth=0
        )
        axes.plot(edges[:-1], np.mean(shares, axis=0), color=BLUE)
        axes.set(title="KV cache: mean of the replicas, and their range", ylabel="blocks in use (%)", ylim=(0, None))


def _distribution(axes: Axes, title: str, values: Array, colour: str, limit: float | None) -> None:
    axes.set(title=title, xlabel="ms", ylabel="share (%)", ylim=(0, 102))
    if len(values) == 0:
        empty(axes, "nothing to measure")
        return
    at, share = cdf(values)
    axes.plot(at, 100 * share, color=colour)
    if at[0] > 0 and at[-1] > 30 * at[0]:
        axes.set_xscale("log")
    for p, mark in ((50, "o"), (99, "D")):
        spot = float(np.percentile(values, p))
        axes.plot(spot, p, mark, color=colour, markersize=4, label=f"p{p}  {spot:,.4g} ms")
    if limit is not None:
        axes.axvline(limit, color=RED, linestyle="--", linewidth=1.1, label=f"objective  {limit:,.4g} ms")
    axes.legend(loc="best")


def _bars(axes: Axes, names: list[str], heights: list[float], title: str, unit: str, colour: str) -> None:
    axes.bar(range(len(names)), heights, color=colour)
    every = max(1, len(names) // 16)
    names = [name if len(name) <= LONGEST_NAME else "…" + name[1 - LONGEST_NAME :] for name in names]
    names = [name.replace("$", r"\$") for name in names]  # no mathematics in a name
    long = max(map(len, names)) > 3
    axes.set_xticks(
        range(0, len(names), every), names[::every], rotation=60 if long else 0, ha="right" if long else "center"
    )
    axes.grid(visible=False, axis="x")
    axes.set(title=title, ylabel=unit, xlabel="replica", ylim=(0, None))


def _write(file: Path, made: Figure) -> Path:
    return files.write(file, lambda partial: made.savefig(partial, dpi=130))


def _all_empty(axes: list[Axes], why: str) -> None:
    for one in axes:
        empty(one, why)
