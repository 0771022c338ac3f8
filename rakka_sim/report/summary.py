"""The summary of a run as one nested dict of plain numbers; how it is shown is in `text`."""

from __future__ import annotations

from typing import Any

import numpy as np

from rakka_sim.report.measures import Array, Measures, limits
from rakka_sim.report.usage import cost, kv_usage, replicas, window

LATENCIES = ("ttft_ms", "tpot_ms", "itl_ms", "e2e_ms", "queue_ms")
PERCENTILES = (50, 90, 95, 99)


def describe(values: Array) -> dict[str, float | None]:
    """Mean, population standard deviation, extremes and percentiles (linear, on raw values); None where empty."""
    names = ("mean", "std", "min", *(f"p{p}" for p in PERCENTILES), "max")
    if len(values) == 0:
        return dict.fromkeys(names)
    numbers = (values.mean(), values.std(), values.min(), *np.percentile(values, PERCENTILES), values.max())
    return dict(zip(names, map(float, numbers), strict=True))


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
        parts[name]["cost"] = cost(log, end - start, parts[name]["output_tokens"], name)
    return {
        **whole,
        "simulated_s": end - start,
        "slo": objectives if measures.slo is not None else None,
        "kv_usage": kv_usage(per_replica),
        "cost": cost(log, end - start, whole["output_tokens"]),
        "steps": len(log.step_columns()["start"]),
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
    pooled = measures.pooled(which)
    return {
        "requests": int(which.sum()),
        "completed": int(done.sum()),
        "failed": int(which.sum() - done.sum()),
        "outcomes": {name: count for name, count in zip(log.outcomes, ends, strict=True) if count},
        **{name: describe(pooled[name]) for name in LATENCIES},
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
