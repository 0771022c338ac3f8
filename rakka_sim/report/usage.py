"""What the replicas did and what they cost, integrated over their steps; nothing about single requests may be here."""

from __future__ import annotations

from typing import Any

import numpy as np

from rakka_sim.records import EventLog, ReplicaFacts
from rakka_sim.report.measures import Array


def window(log: EventLog) -> tuple[float, float]:
    """The first arrival and the last event (s): the last end of a request or of a step."""
    requests, steps = log.request_columns(), log.step_columns()
    begins = requests["arrival"] if len(requests["arrival"]) else steps["start"]
    if len(begins) == 0:
        return 0.0, 0.0
    ends = [float(times.max()) for times in (requests["ended"], steps["end"]) if len(times)]
    return float(begins.min()), max(ends)


def replicas(log: EventLog, seconds: float) -> list[dict[str, Any]]:
    """One dict per replica: its facts, the requests it took and their tokens, how busy it was, and its KV use (0..1).

    `busy` is the share of `seconds` spent in steps. `kv_mean` weighs by time, an idle replica using none; both KV
    numbers are None where the number of blocks is not known.
    """
    requests, steps, facts = log.request_columns(), log.step_columns(), log.replicas
    at, took = steps["replica"], steps["end"] - steps["start"]
    in_steps = np.bincount(at, took, len(facts))
    held = np.bincount(at, took * steps["kv_blocks"], len(facts))
    step_count = np.bincount(at, minlength=len(facts))
    most = np.zeros(len(facts), np.int64)
    np.maximum.at(most, at, steps["kv_blocks"])
    found = []
    for place, of in enumerate(facts):
        known = of.kv_blocks > 0
        served = _served_by(of, log)
        found.append(
            {
                **_facts(of),
                "requests": int(served.sum()),
                "output_tokens": int(requests["output_tokens"][served].sum()),
                "steps": int(step_count[place]),
                "busy": float(in_steps[place] / seconds) if seconds > 0 else None,
                "kv_mean": float(held[place] / (of.kv_blocks * seconds)) if known and seconds > 0 else None,
                "kv_max": float(most[place] / of.kv_blocks) if known else None,
            }
        )
    return found


def _facts(of: ReplicaFacts) -> dict[str, Any]:
    names = ("deployment", "replica", "node", "gpus", "gpu", "kv_blocks", "block_size")
    return {name: list(of.gpus) if name == "gpus" else getattr(of, name) for name in names}


def _served_by(of: ReplicaFacts, log: EventLog) -> Array:
    if of.deployment not in log.deployments:
        return np.zeros(log.request_count, bool)
    requests = log.request_columns()
    mine: Array = (requests["deployment"] == log.deployments.index(of.deployment)) & (requests["replica"] == of.replica)
    return mine


def kv_usage(found: list[dict[str, Any]]) -> dict[str, float | None]:
    """Mean (weighed by blocks and time) and highest KV use over replicas; None where no number of blocks is known."""
    known = [of for of in found if of["kv_mean"] is not None]
    blocks = sum(of["kv_blocks"] for of in known)
    if not known:
        return {"mean": None, "max": None}
    mean = sum(of["kv_mean"] * of["kv_blocks"] for of in known) / blocks
    return {"mean": mean, "max": max(of["kv_max"] for of in known)}


def cost(log: EventLog, seconds: float, output_tokens: int, deployment: str | None = None) -> dict[str, float | None]:
    """GPU-hours and US dollars; a GPU is paid for once, whatever shares it. None where a price is not known."""
    prices = {
        (of.node, gpu): of.usd_per_gpu_hour
        for of in log.replicas
        if deployment is None or of.deployment == deployment
        for gpu in of.gpus
    }
    known = [price for price in prices.values() if price is not None]
    usd = sum(known) * seconds / 3600 if prices and len(known) == len(prices) else None
    return {
        "gpu_hours": len(prices) * seconds / 3600,
        "usd": usd,
        "usd_per_million_output_tokens": usd / output_tokens * 1e6 if usd is not None and output_tokens else None,
    }
