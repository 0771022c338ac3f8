"""What the replicas did and what they cost, integrated over their steps; nothing about single requests may be here."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from rakka_sim.records import EventLog, ReplicaFacts

Array = np.ndarray[Any, np.dtype[Any]]


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
                "requests": served[place],
                "output_tokens": tokens[place],
                "steps": len(took),
                "busy": float(took.sum()) / seconds if seconds > 0 else None,
                "kv_mean": held / (of.kv_blocks * seconds) if known and seconds > 0 else None,
                "kv_max": float(steps["kv_blocks"].max(initial=0) / of.kv_blocks) if known else None,
            }
        )
    return found


def _facts(of: ReplicaFacts) -> dict[str, Any]:
    names = ("deployment", "replica", "node", "gpus", "gpu", "kv_blocks", "block_size")
    found = {name: list(of.gpus) if name == "gpus" else getattr(of, name) for name in names}
    if of.others:  # it spans nodes: `node` and `gpus` are the first of its parts
        found["others"] = [{"node": part.node, "gpus": list(part.gpus)} for part in of.others]
    return found


def _startup(startups: dict[str, Any], place: int) -> dict[str, Any]:
    mine = np.flatnonzero(startups["replica"] == place)
    if not len(mine):
        return {"starts": 0, "startup_s": None, "loading_s": None}
    began, loaded, ready = (float(startups[name][mine[0]]) for name in ("began", "loaded", "ready"))
    return {"starts": len(mine), "startup_s": ready - began, "loading_s": loaded - began}


def _served(log: EventLog) -> tuple[list[int], list[int]]:
    """Requests and output tokens of each of the log's replicas.

    One that has moved is several of them, on other GPUs each. A request belongs to those that it had when the request
    was last seen there: at its last token, when it was seated, or when it ended.
    """
    requests, names, stays = log.request_columns(), log.deployments, _stays(log)
    keys = np.stack([requests["deployment"], requests["replica"]], axis=1)
    found, inverse = np.unique(keys, axis=0, return_inverse=True)
    seen = np.where(np.isnan(requests["last_token"]), requests["scheduled"], requests["last_token"])
    seen = np.where(np.isnan(seen), requests["ended"], seen)
    own = [stays.get((names[deployment], replica)) for deployment, replica in found.tolist()]
    # -1: no replica took them.
    place = np.array([-1 if stay is None else stay[1][0] for stay in own], np.int64)[inverse.ravel()]
    for number, stay in enumerate(own):
        if stay is not None and len(stay[0]) > 1:
            mine = np.flatnonzero(inverse.ravel() == number)
            place[mine] = stay[1][np.maximum(np.searchsorted(stay[0], seen[mine], side="right") - 1, 0)]
    taken, count = place >= 0, len(log.replicas)
    tokens = np.bincount(place[taken], requests["output_tokens"][taken], count)
    return np.bincount(place[taken], minlength=count).tolist(), tokens.astype(int).tolist()


def _stays(log: EventLog) -> dict[tuple[str, int], tuple[Array, Array]]:
    """When (s) each (deployment, replica) got which GPUs, as its place among the log's replicas; in order of time.

    Where nobody said, it had them from the beginning.
    """
    found: dict[tuple[str, int], list[tuple[float, int]]] = {}
    for place, of in enumerate(log.replicas):
        spans = log.holdings.of(of) or [(-math.inf, math.inf)]
        found.setdefault((of.deployment, of.replica), []).extend((begin, place) for begin, _ in spans)
    columns = {key: zip(*sorted(stays), strict=True) for key, stays in found.items()}
    return {key: (np.array(begins), np.array(places)) for key, (begins, places) in columns.items()}


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
            held = log.holdings.of(of) or [(start, end)]
            for place, price in (((part.node, gpu), part.usd_per_gpu_hour) for part in of.parts for gpu in part.gpus):
                prices[place] = price
                spans.setdefault(place, []).extend(held)
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
