"""A run's numbers computed slowly, in plain Python and from the records alone. No test is here."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

from report.schedules import Schedule

from rakka_sim.records import RequestRecord

COMPLETED = {"stop", "length", "tool_calls"}


@dataclass(frozen=True)
class Limits:
    """Objectives as a scenario gives them."""

    ttft_ms: float | None = None
    tpot_ms: float | None = None
    itl_ms: float | None = None
    e2e_ms: float | None = None


def percentile(values: list[float], p: float) -> float:
    """Linear between the two nearest ranks."""
    ordered = sorted(values)
    rank = (len(ordered) - 1) * p / 100
    low = math.floor(rank)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (rank - low)


def describe(values: list[float]) -> dict[str, float | None]:
    names = ("mean", "std", "min", "p50", "p90", "p95", "p99", "max")
    if not values:
        return dict.fromkeys(names)
    mean = math.fsum(values) / len(values)
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))
    tails = [percentile(values, p) for p in (50, 90, 95, 99)]
    return dict(zip(names, (mean, std, min(values), *tails, max(values)), strict=True))


def times_of(request: RequestRecord) -> list[float]:
    return [float(time) for chunk in request.token_times for time in chunk]


def gaps_ms(request: RequestRecord) -> list[float]:
    times = times_of(request)
    return [1e3 * (b - a) for a, b in itertools.pairwise(times)]


def latencies(request: RequestRecord) -> dict[str, float]:
    times = times_of(request)
    found = {"ttft_ms": 1e3 * (times[0] - request.arrival), "e2e_ms": 1e3 * (times[-1] - request.arrival)}
    if len(times) > 1:
        found["tpot_ms"] = 1e3 * (times[-1] - times[0]) / (len(times) - 1)
    found["queue_ms"] = 1e3 * (request.scheduled - request.arrival) if request.scheduled is not None else math.nan
    return found


def good(request: RequestRecord, slo: Limits) -> bool:
    if request.outcome not in COMPLETED:
        return False
    found = {"tpot_ms": 0.0, **latencies(request), "itl_ms": max(gaps_ms(request), default=0.0)}
    bounds = {name: getattr(slo, name) for name in ("ttft_ms", "tpot_ms", "itl_ms", "e2e_ms")}
    return all(found[name] <= limit for name, limit in bounds.items() if limit is not None)


def window(schedule: Schedule) -> float:
    if not schedule.requests:
        return 0.0
    ends = [request.ended for request in schedule.requests] + [stretch.times[-1] for stretch in schedule.stretches]
    return max(ends) - min(request.arrival for request in schedule.requests)


def numbers_of(requests: list[RequestRecord], seconds: float, slo: Limits) -> dict[str, Any]:
    """What derives from requests alone."""
    done = [request for request in requests if request.outcome in COMPLETED]
    seen = [request for request in requests if request.scheduled is not None]
    prompt, output = sum(request.prompt_tokens for request in done), sum(request.output_tokens for request in done)
    ends = [request.outcome for request in requests]

    def rate(count: float) -> float | None:
        return count / seconds if seconds > 0 else None

    asked = sum(request.prompt_tokens for request in seen)
    return {
        "requests": len(requests),
        "completed": len(done),
        "failed": len(requests) - len(done),
        "outcomes": {name: ends.count(name) for name in sorted(set(ends))},
        **{
            name: describe([latencies(request)[name] for request in done if name in latencies(request)])
            for name in ("ttft_ms", "tpot_ms", "e2e_ms", "queue_ms")
        },
        "itl_ms": describe([gap for request in done for gap in gaps_ms(request)]),
        "prompt_tokens": prompt,
        "output_tokens": output,
        "requests_per_s": rate(len(done)),
        "output_tokens_per_s": rate(output),
        "tokens_per_s": rate(prompt + output),
        "good": sum(good(request, slo) for request in requests),
        "goodput_rps": rate(sum(good(request, slo) for request in requests)),
        "preemptions": sum(request.preemptions for request in requests),
        "prefix_hit_rate": sum(request.cached_tokens for request in seen) / asked if asked else None,
    }


def kv_of(schedule: Schedule, place: int) -> tuple[float, int, float, int]:
    """Block-seconds held, most blocks held, seconds in steps and steps of one replica."""
    held, most, busy, count = 0.0, 0, 0.0, 0
    for stretch in schedule.stretches:
        if stretch.replica == place:
            for outcome in stretch.singles():
                seconds = float(outcome.times[0]) - outcome.started
                held += seconds * outcome.plan.kv_blocks
                busy += seconds
                most = max(most, outcome.plan.kv_blocks)
                count += 1
    return held, most, busy, count
