"""A run's report: the event log, and everything that is derived from it on demand; no arithmetic may be here.

pandas and matplotlib are imported where they are used: reading a summary needs neither.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rakka_sim.errors import UnknownName
from rakka_sim.records import EventLog
from rakka_sim.report import text
from rakka_sim.report.measures import Measures, Slo
from rakka_sim.report.summary import summarise

if TYPE_CHECKING:
    import pandas as pd

    from rakka_sim.report.plots import Plots


class Report:
    """What a run came to.

    `scenario` is the scenario as plain data, `wall_s` how long the run took, `facts` what else is known of it:
    ``facts["kv"]`` may hold lines that say where the KV block counts come from, ``facts["scale"]`` what came of each
    line of the scenario's schedule (`actors.resizer`).
    """

    def __init__(
        self,
        log: EventLog,
        *,
        scenario: Mapping[str, Any] | None = None,
        slo: Slo | None = None,
        slo_name: str = "custom",
        wall_s: float | None = None,
        seed: int = 0,
        mode: str = "simulate",
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        self.log = log
        self.scenario = dict(scenario or {})
        self.slo = slo
        self.slo_name = slo_name
        self.wall_s = wall_s
        self.seed = seed
        self.mode = mode
        self.facts = dict(facts or {})

    @property
    def name(self) -> str:
        """The scenario's."""
        return str(self.scenario.get("name", "scenario"))

    @property
    def digest(self) -> str:
        """SHA-256 of the event log: the same seed and scenario give the same one."""
        return self.log.digest()

    @cached_property
    def measures(self) -> Measures:
        return Measures(self.log, self.slo)

    @cached_property
    def requests(self) -> pd.DataFrame:
        """One row per request; times in s since the start, latencies in ms and NaN unless the request completed."""
        from rakka_sim.report.frames import requests_frame

        return requests_frame(self.measures)

    @cached_property
    def steps(self) -> pd.DataFrame:
        """One row per step of an engine; `kv_blocks` are in use, `context_tokens` sums its sequences' contexts."""
        from rakka_sim.report.frames import steps_frame

        return steps_frame(self.log)

    def summary(self) -> dict[str, Any]:
        """A nested dict of plain numbers, None where there is nothing to measure: ``["ttft_ms"]["p99"]`` and so on.

        `simulated_s` runs from the first arrival to the last event, and every rate is over it. `goodput_rps` counts
        the requests that met every objective. Failed requests are counted and enter no latency.
        """
        return {**deepcopy(self._summary), "mode": self.mode, "seed": self.seed, "wall_s": self.wall_s}

    @cached_property
    def _summary(self) -> dict[str, Any]:
        return summarise(self.measures, self.slo_name)

    def littles_law(self) -> tuple[float, float]:
        """Mean number of requests in the system: integrated over time, and as arrival rate times mean time in it."""
        return self.log.littles_law()

    @property
    def plot(self) -> Plots:
        """Figures: ``report.plot.latency()``, `timeline`, `batch`, `replicas`, and `all(folder)`."""
        from rakka_sim.report.plots import Plots

        return Plots(self)

    def to_dict(self) -> dict[str, Any]:
        """What `save` writes as summary.json: the summary with the digest and the versions that made it."""
        packages = ("rakka_sim", "numpy", "pandas", "simpy")
        versions = {"python": platform.python_version(), **{name: version(name) for name in packages}}
        return {"digest": self.digest, **self.summary(), "facts": self.facts, "versions": versions}

    def save(self, folder: str | Path, *, plots: bool = True) -> Path:
        """Write requests and steps (Parquet, or CSV without pyarrow), summary.json, scenario.json and plots/*.png.

        Raises InputError for a folder that holds other things; one that holds a report is written over.
        """
        from rakka_sim.report import files

        return files.save(self, Path(folder), plots)

    def export(self, kind: str, file: str | Path, **options: Any) -> Path:
        """Write the run as another tool's file: "vllm" (`bench serve` JSON) or "perfetto" (Chrome trace JSON).

        `options` are those of `export_vllm.vllm_bench` and `export_perfetto.chrome_trace`.
        """
        from rakka_sim.report import files
        from rakka_sim.report.export_perfetto import chrome_trace
        from rakka_sim.report.export_vllm import vllm_bench

        makers: dict[str, Callable[..., dict[str, Any]]] = {"vllm": vllm_bench, "perfetto": chrome_trace}
        if kind not in makers:
            raise UnknownName("export", kind, ", ".join(makers))
        return files.write_json(Path(file), makers[kind](self, **options))

    def __str__(self) -> str:
        return text.table(self)

    def __repr__(self) -> str:
        return f"<Report of {self.name!r}: {self.log.request_count} requests, seed {self.seed}>"

    def _repr_html_(self) -> str:
        return text.html(self)


def compare(reports: Mapping[str, Report]) -> pd.DataFrame:
    """The main numbers side by side: a row per number, a column per report."""
    import pandas as pd

    return pd.DataFrame({name: text.headline(report.summary()) for name, report in reports.items()}, dtype=float)
