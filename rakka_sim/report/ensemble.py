"""Several runs of one scenario, each with a seed of its own: means and how sure they are; no single run's numbers.

A confidence interval is Student's, 95 %, of the mean over seeds: it says how far another set of seeds may move the
mean, not how far the model is from the real system.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rakka_sim.errors import InputError
from rakka_sim.report import text
from rakka_sim.report.confidence import interval
from rakka_sim.report.report import Report

if TYPE_CHECKING:
    import pandas as pd

    from rakka_sim.report.bands import Bands

_RATES = ("goodput_rps", "requests_per_s", "output_tokens_per_s", "preemptions", "prefix_hit_rate", "simulated_s")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _combine(found: Sequence[Any], of: Any) -> Any:
    """The same structure with `of` (the values of all runs that have one) in place of each number."""
    first = next((value for value in found if value is not None), None)
    if isinstance(first, dict):
        names = dict.fromkeys(name for one in found if one is not None for name in one)
        return {name: _combine([one.get(name) for one in found if one is not None], of) for name in names}
    if isinstance(first, list):
        same = len({len(one) for one in found if one is not None}) == 1
        return [_combine(row, of) for row in zip(*(f for f in found if f is not None), strict=True)] if same else first
    if _is_number(first):
        return of([float(value) for value in found if value is not None])
    return first


class Ensemble:
    """The reports of several seeds as one."""

    def __init__(self, reports: Sequence[Report]) -> None:
        if not reports:
            raise InputError("reports", "none", "at least one")
        self.reports = tuple(reports)
        self.seeds = tuple(report.seed for report in reports)

    @property
    def name(self) -> str:
        """The scenario's."""
        return self.reports[0].name

    @property
    def scenario(self) -> dict[str, Any]:
        """The scenario as plain data."""
        return self.reports[0].scenario

    @property
    def digest(self) -> str:
        """SHA-256 of the runs' digests, in order of their seeds."""
        return hashlib.sha256("".join(report.digest for report in self.reports).encode()).hexdigest()

    def summary(self) -> dict[str, Any]:
        """The keys of a single run's summary, each number the mean over seeds.

        Beside them `seeds`, and `ci95`: half the width of each mean's 95 % confidence interval, under the same keys.
        """
        found = [{k: v for k, v in report.summary().items() if k != "seed"} for report in self.reports]
        widths = _combine(found, interval)
        means = _combine(found, lambda values: float(np.mean(values)))
        return {**means, "seed": self.seeds[0], "seeds": list(self.seeds), "ci95": widths}

    @cached_property
    def requests(self) -> pd.DataFrame:
        """The requests of all runs, with a column `seed`."""
        return self._together("requests")

    @cached_property
    def steps(self) -> pd.DataFrame:
        """The steps of all runs, with a column `seed`."""
        return self._together("steps")

    def _together(self, table: str) -> pd.DataFrame:
        import pandas as pd

        frames = [getattr(report, table).assign(seed=report.seed) for report in self.reports]
        together: pd.DataFrame = pd.concat(frames, ignore_index=True)
        return together

    @property
    def plot(self) -> Bands:
        """Figures with a band for the mean's confidence interval: ``plot.latency()``, ``plot.all(folder)``."""
        from rakka_sim.report.bands import Bands

        return Bands(self.reports)

    def to_dict(self) -> dict[str, Any]:
        """What `save` writes as summary.json."""
        one = self.reports[0].to_dict()
        return {**self.summary(), "digest": self.digest, "facts": one["facts"], "versions": one["versions"]}

    def save(self, folder: str | Path, *, plots: bool = True) -> Path:
        """As of a single run; the tables have a column `seed`, summary.json has the means and their intervals."""
        from rakka_sim.report import files

        return files.save(self, Path(folder), plots)

    def __str__(self) -> str:
        return "\n".join(line.rstrip() for line in text.columns(self._rows()).splitlines())

    def __repr__(self) -> str:
        return f"<Ensemble of {self.name!r}: {len(self.reports)} seeds from {self.seeds[0]} on>"

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"

    def _rows(self) -> list[text.Row]:
        of = self.summary()
        sure = of["ci95"]

        def cell(mean: float | None, width: float | None) -> str:
            return text.number(mean) if width is None else f"{text.number(mean)} ± {text.number(width)}"

        rows: list[text.Row] = [[f"{self.name}: {len(self.seeds)} seeds, mean ± 95 %", *text.COLUMNS]]
        for label, key in text.ROWS.items():
            rows.append([f"{label} (ms)", *(cell(of[key][p], sure[key][p]) for p in text.COLUMNS)])
        empty = [""] * (len(text.COLUMNS) - 1)
        rows += [[name, cell(of[name], sure[name]), *empty] for name in _RATES]
        return rows
