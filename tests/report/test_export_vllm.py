"""The vLLM export: its numbers follow from its own lists, by that tool's formulas."""

from __future__ import annotations

import json
import math
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from report.plainly import Limits, percentile
from report.schedules import Schedule, build, schedules

from rakka_sim.errors import UnknownName
from rakka_sim.records import EventLog
from rakka_sim.report.export_vllm import vllm_bench
from rakka_sim.report.report import Report

SLO = Limits(ttft_ms=45.0, tpot_ms=11.0, itl_ms=12.0, e2e_ms=400.0)


def recomputed(result: dict[str, Any], goodput: dict[str, float]) -> dict[str, Any]:
    """What `calculate_metrics` of vllm/benchmarks/serve.py makes of the detailed lists; `goodput` in ms."""
    ok = [error == "" for error in result["errors"]]
    e2els, ttfts, outputs = ([v for v, good in zip(result[name], ok, strict=True) if good] for name in LISTS)
    itls = [gap for gaps, good in zip(result["itls"], ok, strict=True) if good for gap in gaps]
    pairs = list(zip(e2els, ttfts, outputs, strict=True))
    all_tpots = [(e2el - ttft) / (n - 1) if n > 1 else 0.0 for e2el, ttft, n in pairs]
    tpots = [tpot for tpot, n in zip(all_tpots, outputs, strict=True) if n > 1]
    values = {"ttft": ttfts, "tpot": all_tpots, "e2el": e2els}
    good = [all(values[name][k] <= limit / 1000 for name, limit in goodput.items()) for k in range(len(pairs))]
    seconds = result["duration"]
    inputs = sum(n for n, fine in zip(result["input_lens"], ok, strict=True) if fine)
    found = {
        "completed": sum(ok),
        "failed": len(ok) - sum(ok),
        "total_input_tokens": inputs,
        "total_output_tokens": sum(outputs),
        "request_throughput": sum(ok) / seconds,
        "request_goodput": sum(good) / seconds,
        "output_throughput": sum(outputs) / seconds,
        "total_token_throughput": (inputs + sum(outputs)) / seconds,
    }
    for name, of in (("ttft", ttfts), ("tpot", tpots), ("itl", itls), ("e2el", e2els)):
        ms = [1000 * value for value in of] or [0.0]
        mean = math.fsum(ms) / len(ms)
        found[f"mean_{name}_ms"] = mean
        found[f"median_{name}_ms"] = percentile(ms, 50)
        found[f"std_{name}_ms"] = math.sqrt(math.fsum((value - mean) ** 2 for value in ms) / len(ms))
        found |= {f"p{p}_{name}_ms": percentile(ms, p) for p in (50, 90, 95, 99)}
    return found


LISTS = ("latencies", "ttfts", "output_lens")


@settings(max_examples=30)
@given(schedules)
def test_its_numbers_follow_from_its_lists(schedule: Schedule) -> None:
    result = vllm_bench(Report(schedule.log(), slo=SLO))
    if result["duration"] == 0:
        return
    expected = recomputed(result, {"ttft": 45.0, "tpot": 11.0, "e2el": 400.0})
    for name, value in expected.items():
        assert result[name] == pytest.approx(value, rel=1e-9, abs=1e-9), name
    assert result["num_prompts"] == len(schedule.requests)


@settings(max_examples=20)
@given(schedules)
def test_its_peaks_by_sweeping_over_its_lists(schedule: Schedule) -> None:
    result = vllm_bench(Report(schedule.log()))
    spans, times = [], []
    rows = zip(
        result["start_times"], result["ttfts"], result["latencies"], result["itls"], result["errors"], strict=True
    )
    for start, ttft, latency, gaps, error in rows:
        if not error:
            spans.append((start, start + latency))
            times += list(accumulate(gaps, initial=start + ttft))
    if not spans:
        assert result["max_concurrent_requests"] == result["max_output_tokens_per_s"] == 0
        return
    at_once = max(sum(begin <= moment < end for begin, end in spans) for moment, _ in spans)
    assert result["max_concurrent_requests"] == at_once
    zero = min(start for start, _ in spans)
    seconds = [int(time - zero) for time in times]
    assert result["max_output_tokens_per_s"] == max(seconds.count(second) for second in seconds)


def test_the_lists_say_what_happened_in_seconds() -> None:
    schedule = build(51)
    result = vllm_bench(Report(schedule.log()))
    for place, request in enumerate(sorted(schedule.requests, key=lambda request: request.request_id)):
        assert result["start_times"][place] == request.arrival
        assert result["input_lens"][place] == request.prompt_tokens
        if request.outcome in ("stop", "length", "tool_calls"):
            assert result["ttfts"][place] == pytest.approx(request.first_token - request.arrival)
            assert result["itls"][place] == np.diff(np.concatenate(request.token_times)).tolist()
            assert result["errors"][place] == ""
        else:
            assert result["itls"][place] == []
            assert (result["output_lens"][place], result["latencies"][place]) == (0, 0.0)
            assert result["errors"][place] == request.outcome


def test_what_the_log_does_not_know_is_passed_through() -> None:
    report = Report(build(52).log())
    given = vllm_bench(
        report, date="20261124-101500", request_rate=4.0, burstiness=0.5, max_concurrency=8, percentiles=(99.9,)
    )
    assert (given["date"], given["request_rate"], given["burstiness"], given["max_concurrency"]) == (
        "20261124-101500",
        4.0,
        0.5,
        8,
    )
    assert "p99.9_ttft_ms" in given
    assert vllm_bench(report)["request_rate"] == "inf"
    assert vllm_bench(report)["request_goodput"] is None
    short = vllm_bench(report, detailed=False)
    assert not [name for name, value in short.items() if isinstance(value, list)]


def test_an_empty_run_has_vllms_zeros() -> None:
    result = vllm_bench(Report(EventLog(), slo=SLO))
    assert (result["completed"], result["mean_ttft_ms"], result["request_goodput"], result["ttfts"]) == (
        0,
        0.0,
        0.0,
        [],
    )


def test_it_is_written_as_json(tmp_path: Path) -> None:
    report = Report(build(53).log(), slo=SLO)
    file = report.export("vllm", tmp_path / "results" / "run.json", detailed=False)
    assert json.loads(file.read_text()) == vllm_bench(report, detailed=False)
    with pytest.raises(UnknownName, match="vllm, perfetto"):
        report.export("excel", tmp_path / "run.xls")
