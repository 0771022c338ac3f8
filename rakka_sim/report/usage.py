"""What the replicas did and what they cost, integrated over their steps; nothing about single requests may be here."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from rakka_sim.records import EventLog, ReplicaFacts


def window(log: EventLog) -> tuple[float, float]:
    """The first arrival and the last event (s): the last end of a request or of a step."""
    requests = log.request_columns()
    first, last = log.step_window()
    if len(requests["arrival"]):
        return float(requests["arrival"].min()), max(float(requests["ended"].max()), last)
    return (first, last) if first <= last else (0.0, 0.0)


def replicas(log: EventLog, seconds: float) -> list[dict[str, Any]]:
    """One dict per replica: its facts, the requests it took and their tokens, how busy it was, and its KV use (0..1).

    `startup_s` is how long it took to come up the first time, `loading_s` what of that it waited for its weights (None
    both where it never came up), `starts` how often it did. `busy` is the share of `seconds` spent in steps. `kv_mean`
    weighs by time, an idle replica using none; both KV numbers are None where the number of blocks is not known.
    """
    facts, served, tokens = log.replicas, *_served(log)
    found, startups = [], log.startup_columns()
    for place, steps in log.each_replica():
        of, took = facts[place], steps["end"] - steps["start"]
        known = of.kv_blocks > 0
        held = float((took * steps["kv_blocks"]).sum())
        found.append(
            {
                **_facts(of),
                **_startup(startups, place),
                "requests": served[of.deployment, of.replica],
                "output_tokens": tokens[of.deployment, of.replica],
                "steps": len(took),
                "busy": float(took.sum()) / seconds if seconds > 0 else None,
                "kv_mean": held / (of.kv_blocks * seconds) if known and seconds > 0 else None,
                "kv_max": float(steps["kv_blocks"].max(initial=0) / of.kv_blocks) if known else None,
            }
        )
    return found


def _facts(of: ReplicaFacts) -> dict[str, Any]:
    names = ("deployment", "replica", "node", "gpus", "gpu", "kv_blocks", "block_size")
    return {name: list(of.gpus) if name == "gpus" else getattr(of, name) for name in names}


def _startup(startups: dict[str, Any], place: int) -> dict[str, Any]:
    mine = np.flatnonzero(startups["replica"] == place)
    if not len(mine):
        return {"starts": 0, "startup_s": None, "loading_s": None}
    began, loaded, ready = (float(startups[name][mine[0]]) for name in ("began", "loaded", "ready"))
    return {"starts": len(mine), "startup_s": ready - began, "loading_s": loaded - began}


def _served(log: EventLog) -> tuple[Counter[tuple[str, int]], Counter[tuple[str, int]]]:
    """Requests and output tokens of each (deployment, replica)."""
    requests, names = log.request_columns(), log.deployments
    keys = np.stack([requests["deployment"], requests["replica"]], axis=1)
    places, inverse, count = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    tokens = np.bincount(inverse.ravel(), requests["output_tokens"], len(places))
    keyed = [(names[deployment], replica) for deployment, replica in places.tolist()]
    numbers = (dict(zip(keyed, map(int, column), strict=True)) for column in (count, tokens))
    return Counter(next(numbers)), Counter(next(numbers))


def kv_usage(found: list[dict[str, Any]]) -> dict[str, float | None]:
    """Mean (weighed by blocks and time) and highest KV use over replicas; None where no number of blocks is known."""
    known = [of for of in found if of["kv_mean"] is not None]
    blocks = sum(of["kv_blocks"] for of in known)
    if not known:
        return {"mean": None, "max": None}
    mean = sum(of["kv_mean"] * of["kv_blocks"] for of in known) / blocks
    return {"mean": mean, "max": max(of["kv_max"] for of in known)}


def cost(
    log: EventLog, start: float, end: float, output_tokens: int, deployment: str | None = None
) -> dict[str, float | None]:
    """GPU-hours and US dollars from `start` to `end` (s): a GPU is paid for while some replica has it, and once.

    Where nobody said from when to when a replica had its GPUs, it had them all the time. None where a price is not
    known.
    """
    prices: dict[tuple[str, int], float | None] = {}
    spans: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for of in log.replicas:
        if deployment is None or of.deployment == deployment:
            for gpu in of.gpus:
                prices[of.node, gpu] = of.usd_per_gpu_hour
                spans.setdefault((of.node, gpu), []).extend(log.holdings.of(of) or [(start, end)])
    hours = {gpu: _covered(held, start, end) / 3600 for gpu, held in spans.items()}
    known = [price * hours[gpu] for gpu, price in prices.items() if price is not None]
    usd = sum(known) if prices and len(known) == len(prices) else None
    return {
        "gpu_hours": sum(hours.values()),
        "usd": usd,
        "usd_per_million_output_tokens": usd / output_tokens * 1e6 if usd is not None and output_tokens else None,
    }


def _covered(spans: list[tuple[float, float]], start: float, end: float) -> float:
    """How much of the time from `start` to `end` lies in any of the spans."""
    total, upto = 0.0, start
    for begin, finish in sorted(spans):
        total += max(0.0, min(finish, end) - max(begin, upto))
        upto = max(upto, min(finish, end))
    return total
