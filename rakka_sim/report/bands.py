"""The figures of several seeds: mean curves with a band for how sure they are; one run's figures are in `plots`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rakka_sim.report import files
from rakka_sim.report.confidence import interval
from rakka_sim.report.figures import Figure, empty, figure
from rakka_sim.report.plots import LATENCIES

if TYPE_CHECKING:
    from rakka_sim.report.report import Report

SHARES = np.linspace(0.5, 99.5, 199)


class Bands:
    """Figures of several runs together; each is made anew."""

    def __init__(self, reports: Sequence[Report]) -> None:
        self._reports = reports

    def latency(self) -> Figure:
        """How TTFT, TPOT, ITL and E2E are distributed: each percentile's mean over seeds, and its 95 % interval."""
        pooled = [report.measures.pooled(report.measures.completed) for report in self._reports]
        with figure(2, 2, (9, 5.4)) as (made, axes):
            for one, (name, (title, colour)) in zip(axes, LATENCIES.items(), strict=True):
                one.set(title=title, xlabel="ms", ylabel="share (%)", ylim=(0, 102))
                runs = [np.percentile(of[name], SHARES) for of in pooled if len(of[name])]
                if not runs:
                    empty(one, "nothing to measure")
                    continue
                mean = np.mean(runs, axis=0)
                width = np.array([interval(list(at)) or 0.0 for at in zip(*runs, strict=True)])
                one.fill_betweenx(SHARES, mean - width, mean + width, color=colour, alpha=0.25, linewidth=0)
                one.plot(mean, SHARES, color=colour, label=f"mean of {len(runs)} seeds")
                one.legend(loc="best")
            return made

    def all(self, folder: str | Path) -> list[Path]:
        """Every figure as a PNG in `folder`."""
        made = self.latency()
        return [files.write(Path(folder) / "latency.png", lambda partial: made.savefig(partial, dpi=130))]
