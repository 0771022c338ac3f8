"""Fits the generator of scenarios/quickstart.toml to the Azure 2023 conversation trace; prints it and how well it fits.

    python benchmarks/fit_quickstart.py [FOLDER_WITH_THE_TRACE]

Lengths: log-normal, clipped to the trace's least and its p99 (the service cut prompts off near 4,100 tokens and outputs
near 600, so both pile up there); sigma by least squares on the logarithms of eight quantiles, the median such that the
mean is the trace's own. Arrivals: Gamma with the rate and coefficient of variation of the trace's gaps. What it cannot
have: the two peaks of both lengths (hence p50), and that the trace's load swells and ebbs over minutes (dispersion).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from scipy import optimize, stats

from rakka_sim.config.workload import Trace, WorkloadConfig
from rakka_sim.workload.readers.trace import TraceFile
from rakka_sim.workload.source import make_source

QUANTILES = (5, 10, 25, 50, 75, 90, 95, 99)
Array = np.ndarray[tuple[int], np.dtype[np.float64]]


def read(folder: str) -> tuple[Array, Array, Array]:
    """Arrivals in s, prompt tokens and output tokens of the trace."""
    trace = Trace(dataset="azure-2023-conv", data_dirs=(folder,))
    rows = list(TraceFile(trace, Path.cwd()).rows(timed=True))
    return (
        np.array([row.at for row in rows]),
        np.array([row.prompt for row in rows], dtype=np.float64),
        np.array([row.output for row in rows], dtype=np.float64),
    )


def clipped_mean(mu: float, sigma: float, low: float, high: float) -> float:
    """The mean of a log-normal variable clipped to [low, high]."""
    a, b = (np.log(low) - mu) / sigma, (np.log(high) - mu) / sigma
    inside = stats.norm.cdf(b - sigma) - stats.norm.cdf(a - sigma)
    return float(low * stats.norm.cdf(a) + high * stats.norm.sf(b) + np.exp(mu + sigma**2 / 2) * inside)


def fit_lengths(tokens: Array) -> dict[str, float]:
    """Median, sigma, min and max of a clipped log-normal."""
    low, high, mean = tokens.min(), np.percentile(tokens, 99), tokens.mean()
    wanted, normal = np.percentile(tokens, QUANTILES), stats.norm.ppf(np.array(QUANTILES) / 100)

    def mu(sigma: float) -> float:
        return float(optimize.brentq(lambda m: clipped_mean(m, sigma, low, high) - mean, np.log(low), np.log(high)))

    def error(sigma: float) -> float:
        fitted = np.clip(np.exp(mu(sigma) + sigma * normal), low, high)
        return float(np.sum((np.log(fitted) - np.log(wanted)) ** 2))

    sigma = optimize.minimize_scalar(error, bounds=(0.2, 2.0), method="bounded").x
    return {"median": round(np.exp(mu(sigma))), "sigma": round(sigma, 3), "min": int(low), "max": round(high)}


def fit(times: Array, prompts: Array, outputs: Array) -> dict[str, dict[str, object]]:
    """The `arrivals` and `lengths` tables."""
    gaps = np.diff(times)
    # Normal variables of this correlation have the trace's rank correlation.
    correlation = 2 * np.sin(np.pi / 6 * stats.spearmanr(prompts, outputs).statistic)
    return {
        "arrivals": {
            "kind": "gamma",
            "rate": round(1 / gaps.mean(), 2),
            "burstiness": round((gaps.mean() / gaps.std()) ** 2, 3),
        },
        "lengths": {
            "kind": "lognormal",
            "prompt": fit_lengths(prompts),
            "output": fit_lengths(outputs),
            "correlation": round(float(correlation), 3),
        },
    }


def draw(tables: dict[str, dict[str, object]], requests: int) -> tuple[Array, Array, Array]:
    """As `read`, from the generator itself."""
    config = WorkloadConfig.model_validate({**tables, "requests": requests})
    source = make_source(config, model="any", rng=np.random.default_rng(0), base_dir=Path.cwd())
    rows = []
    while (at := source.peek()) is not None:
        request = source.pop()
        rows.append((at, request.prompt_tokens, request.output_tokens))
    times, prompts, outputs = np.array(rows).T
    return times, prompts, outputs


def describe(name: str, trace: Array, drawn: Array) -> None:
    """One table: mean, cv and quantiles of both."""
    print(f"{name:>22} {'mean':>8} {'cv':>6} " + " ".join(f"{f'p{q}':>8}" for q in QUANTILES) + f" {'max':>8}")
    for label, values in (("trace", trace), ("generator", drawn)):
        numbers = [*np.percentile(values, QUANTILES), values.max()]
        cells = " ".join(f"{number:8.4g}" for number in numbers)
        print(f"{label:>22} {values.mean():8.4g} {values.std() / values.mean():6.3f} {cells}")


def dispersion(times: Array, window_s: float) -> float:
    """Variance over mean of the arrivals per window: 1 for Poisson."""
    counts, _ = np.histogram(times, np.arange(0.0, times[-1], window_s))
    return float(counts.var() / counts.mean())


def toml(tables: dict[str, dict[str, object]]) -> str:
    """The tables as they stand in a scenario."""
    lines = []
    for name, table in tables.items():
        lines.append(f"[workload.{name}]")
        for key, value in table.items():
            shown = f'"{value}"' if isinstance(value, str) else value
            if isinstance(value, dict):
                shown = "{ " + ", ".join(f"{k} = {v}" for k, v in value.items()) + " }"
            lines.append(f"{key} = {shown}")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Fit, compare, print."""
    times, prompts, outputs = read(sys.argv[1] if len(sys.argv) > 1 else ".")
    tables = fit(times, prompts, outputs)
    drawn_times, drawn_prompts, drawn_outputs = draw(tables, 200_000)
    describe("prompt tokens", prompts, drawn_prompts)
    describe("output tokens", outputs, drawn_outputs)
    describe("gaps (s)", np.diff(times), np.diff(drawn_times))
    for window in (1.0, 10.0, 60.0):
        print(f"arrivals per {window:g} s, variance / mean: trace {dispersion(times, window):.2f}, ", end="")
        print(f"generator {dispersion(drawn_times, window):.2f}")
    print()
    print(toml(tables))


if __name__ == "__main__":
    main()
