"""The summary of a run as one nested dict of plain numbers; how it is shown is in `text`."""

from __future__ import annotations

from typing import Any

import numpy as np

from rakka_sim.report.measures import Array, Measures, limits
from rakka_sim.report.usage import cost, kv_usage, replicas, window

LATENCIES = ("ttft_ms", "tpot_ms", "itl_ms", "e2e_ms", "queue_ms")
PERCENTILES = (50, 90, 95, 99)


def describe(values: Array, times: Array | None = None) -> dict[str, float | None]:
    """Mean, population standard deviation, extremes and percentiles (linear, on raw values); None where empty.

    `times`: how often each value occurs, which saves writing them out.
    """
    names = ("mean", "std", "min", *(f"p{p}" for p in PERCENTILES), "max")
    if len(values) == 0:
        return dict.fromkeys(names)
    if times is None:
        mean, std, tails = values.mean(), values.std(), np.percentile(values, PERCENTILES)
    else:
        mean = np.average(values, weights=times)
        squares = values - mean  # in place from here on: there may be very many
        squares *= squares
        squares *= times
        std = np.sqrt(squares.sum() / times.sum())
        del squares
        tails = _percentiles(values, times)
    return dict(zip(names, map(float, (mean, std, values.min(), *tails, values.max())), strict=True))


def _percentiles(values: Array, times: Array) -> Array:
    """As `numpy.percentile` of the values written out: linear between the two nearest ranks."""
    order = np.argsort(values)
    upto = np.cumsum(times[order])
    rank = (int(upto[-1]) - 1) * np.array(PERCENTILES) / 100
    low = np.floor(rank)
    below, above = (
        values[order[np.searchsorted(upto, np.minimum(at, upto[-1] - 1), side="right")]] for at in (low, low + 1)
    )
    tails: Array = below + (above - below) * (rank - low)
    return tails


def ratio(part: float, whole: float) -> float | None:
    """None where there is no whole."""
    return float(part) / float(whole) if whole > 0 else None


def summarise(measures: Measures, slo_name: str | None) -> dict[str, Any]:
    """Everything of a run that a table or a comparison shows.

    `simulated_s` is the time from the first arrival to the last event; every rate is over it. Tokens, rates and
    latencies are of completed requests; `failed` are all others, whose reasons `outcomes` counts.
    """
    log = measures.log
    start, end = window(log)
    everyone = np.ones(len(measures.of["arrival"]), bool)
    whole = _requests(measures, everyone, end - start)
    per_replica = replicas(log, end - start)
    objectives = {"name": slo_name, **limits(measures.slo), "attainment": ratio(whole["good"], whole["requests"])}
    parts = {}
    for code, name in enumerate(log.deployments):
        only = len(log.deployments) == 1
        parts[name] = dict(whole) if only else _requests(measures, measures.of["deployment"] == code, end - start)
        parts[name]["kv_usage"] = kv_usage([of for of in per_replica if of["deployment"] == name])
        parts[name]["cost"] = cost(log, start, end, parts[name]["output_tokens"], name)
    return {
        **whole,
        "simulated_s": end - start,
        "slo": objectives if measures.slo is not None else None,
        "kv_usage": kv_usage(per_replica),
        "cost": cost(log, start, end, whole["output_tokens"]),
        "steps": log.total_steps,
        "replicas": per_replica,
        "deployments": parts,
    }


def _requests(measures: Measures, which: Array, seconds: float) -> dict[str, Any]:
    """The numbers that derive from requests, of those that the mask `which` names."""
    of, log = measures.of, measures.log
    done = which & measures.completed
    seen = which & ~np.isnan(of["scheduled"])
    prompt, output = int(of["prompt_tokens"][done].sum()), int(of["output_tokens"][done].sum())
    good = int((measures.slo_ok & which).sum())
    ends = np.bincount(of["outcome"][which], minlength=len(log.outcomes)).tolist()
    pooled, gaps = measures.latencies(which), measures.gaps_ms(which)
    return {
        "requests": int(which.sum()),
        "completed": int(done.sum()),
        "failed": int(which.sum() - done.sum()),
        "outcomes": {name: count for name, count in zip(log.outcomes, ends, strict=True) if count},
        **{name: describe(*gaps) if name == "itl_ms" else describe(pooled[name]) for name in LATENCIES},
        "prompt_tokens": prompt,
        "output_tokens": output,
        "requests_per_s": ratio(int(done.sum()), seconds),
        "output_tokens_per_s": ratio(output, seconds),
        "tokens_per_s": ratio(prompt + output, seconds),
        "good": good,
        "goodput_rps": None if measures.slo is None else ratio(good, seconds),
        "preemptions": int(of["preemptions"][which].sum()),
        "prefix_hit_rate": ratio(of["cached_tokens"][seen].sum(), of["prompt_tokens"][seen].sum()),
    }
