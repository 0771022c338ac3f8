"""A run as the result of `vllm bench serve`, by that tool's definitions and names; nothing of our own may be added.

Source: vllm/benchmarks/serve.py, `calculate_metrics` and `benchmark`. Seconds in the lists, ms in the summaries.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rakka_sim.report.measures import Array, Measures, limits

if TYPE_CHECKING:
    from rakka_sim.report.report import Report

METRICS = ("ttft", "tpot", "itl", "e2el")
GOODPUT = {"ttft_ms", "tpot_ms", "e2e_ms"}  # the limits that vLLM's goodput knows


def vllm_bench(
    report: Report,
    *,
    detailed: bool = True,
    percentiles: Sequence[float] = (50, 90, 95, 99),
    date: str = "",
    request_rate: float = math.inf,
    burstiness: float = 1.0,
    max_concurrency: int | None = None,
) -> dict[str, Any]:
    """The result as a dict. `detailed` adds one entry per request to the lists, as `--save-detailed` does.

    `date` (%Y%m%d-%H%M%S) and the load's parameters are passed through: a log does not know them.
    """
    measures = report.measures
    model = ", ".join(measures.log.deployments)
    result = {
        "date": date,
        "endpoint_type": "openai-chat",
        "backend": "openai-chat",
        "label": "rakka_sim",
        "model_id": model,
        "tokenizer_id": model,
        "num_prompts": len(measures.completed),
        "request_rate": "inf" if math.isinf(request_rate) else request_rate,
        "burstiness": burstiness,
        "max_concurrency": max_concurrency,
        **_totals(report),
        **_peaks(measures),
        "rtfx": 0.0,
    }
    pooled = measures.pooled(measures.completed)
    for name in METRICS:
        result |= _describe(name, pooled["e2e_ms" if name == "e2el" else f"{name}_ms"], percentiles)
    return {**result, **_details(measures)} if detailed else result


def _totals(report: Report) -> dict[str, Any]:
    of = report.summary()
    seconds = of["simulated_s"]
    good = _good(report.measures)
    return {
        "duration": seconds,
        "completed": of["completed"],
        "failed": of["failed"],
        "total_input_tokens": of["prompt_tokens"],
        "total_output_tokens": of["output_tokens"],
        "request_throughput": of["requests_per_s"] or 0.0,
        "request_goodput": None if good is None else good / seconds if seconds else 0.0,
        "output_throughput": of["output_tokens_per_s"] or 0.0,
        "total_token_throughput": of["tokens_per_s"] or 0.0,
    }


def _good(measures: Measures) -> int | None:
    """Requests within the limits that vLLM's goodput knows; None without any, as there."""
    known = {name: limit for name, limit in limits(measures.slo).items() if name in GOODPUT}
    if not known:
        return None
    values = {"ttft_ms": measures.ttft_ms, "tpot_ms": np.nan_to_num(measures.tpot_ms), "e2e_ms": measures.e2e_ms}
    within = [values[name] <= limit for name, limit in known.items()]
    return int(np.logical_and.reduce([measures.completed, *within]).sum())


def _peaks(measures: Measures) -> dict[str, Any]:
    """The fullest second's output tokens, counted from the first start, and the most requests at one instant."""
    of, done = measures.of, measures.completed
    if not done.any():
        return {"max_output_tokens_per_s": 0.0, "max_concurrent_requests": 0}
    starts, ends = of["arrival"][done], of["last_token"][done]
    times, begins = measures.log.token_times()
    seconds = (times[np.repeat(done, np.diff(begins))] - starts.min()).astype(np.int64)
    moments = np.concatenate([starts, ends])
    change = np.repeat([1, -1], len(starts))
    order = np.lexsort((change, moments))  # one that ends when another starts makes room for it
    return {
        "max_output_tokens_per_s": float(np.bincount(seconds).max()) if len(seconds) else 0.0,
        "max_concurrent_requests": int(np.cumsum(change[order]).max()),
    }


def _describe(name: str, values: Array, percentiles: Sequence[float]) -> dict[str, float]:
    values = values if len(values) else np.zeros(1)  # vLLM's zeros for nothing
    numbers = {"mean": values.mean(), "median": np.median(values), "std": values.std()}
    numbers |= {f"p{p:g}": np.percentile(values, p) for p in percentiles}
    return {f"{kind}_{name}_ms": float(number) for kind, number in numbers.items()}


def _details(measures: Measures) -> dict[str, list[Any]]:
    """One entry per request in order of request_id; a failed one has zeros, no gaps and its outcome as the error."""
    of, done, log = measures.of, measures.completed, measures.log
    times, begins = log.token_times()
    gaps = np.diff(times)
    bounds = zip(done.tolist(), begins[:-1].tolist(), begins[1:].tolist(), strict=True)
    names = log.outcomes
    return {
        "input_lens": of["prompt_tokens"].tolist(),
        "output_lens": np.where(done, of["output_tokens"], 0).tolist(),
        "ttfts": _seconds(of["first_token"] - of["arrival"], done),
        "itls": [gaps[begin : max(end - 1, begin)].tolist() if ok else [] for ok, begin, end in bounds],
        "latencies": _seconds(of["last_token"] - of["arrival"], done),
        "start_times": of["arrival"].tolist(),
        "queue_times": [0.0] * len(done),
        "generated_texts": [""] * len(done),
        "errors": ["" if ok else names[code] for ok, code in zip(done.tolist(), of["outcome"].tolist(), strict=True)],
    }


def _seconds(values: Array, done: Array) -> list[float]:
    listed: list[float] = np.nan_to_num(np.where(done, values, 0.0)).tolist()
    return listed
