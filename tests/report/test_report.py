"""The report's numbers, each against a slow computation in plain Python."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report import plainly
from report.plainly import Limits
from report.schedules import Schedule, build, schedules

from rakka_sim.config.slo import PRESETS
from rakka_sim.records import EventLog, ReplicaFacts, RequestRecord
from rakka_sim.report.report import Report, compare

SLO = Limits(ttft_ms=45.0, tpot_ms=11.0, itl_ms=19.0, e2e_ms=400.0)
ISSUE_COLUMNS = [
    "request_id",
    "deployment",
    "replica",
    "arrival_s",
    "scheduled_s",
    "first_token_s",
    "last_token_s",
    "prompt_tokens",
    "output_tokens",
    "cached_tokens",
    "ttft_ms",
    "tpot_ms",
    "e2e_ms",
    "preemptions",
    "outcome",
]


def report_of(schedule: Schedule, slo: Limits | None = SLO, **options: Any) -> Report:
    return Report(schedule.log(), slo=slo, slo_name="test", **options)


def close(found: Any, expected: Any, where: str = "summary") -> None:
    """Equal to rounding, through nested dicts; the expected keys must be there."""
    if isinstance(expected, dict):
        for key, value in expected.items():
            close(found[key], value, f"{where}[{key!r}]")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-9), where
    else:
        assert found == expected, where


@settings(max_examples=30)
@given(schedules, st.builds(Limits, *[st.none() | st.sampled_from([5.0, 12.0, 20.0, 60.0, 300.0])] * 4))
def test_every_number_of_the_summary(schedule: Schedule, slo: Limits) -> None:
    found = report_of(schedule, slo).summary()
    seconds = plainly.window(schedule)
    whole = plainly.numbers_of(schedule.requests, seconds, slo)
    close(found, {**whole, "simulated_s": seconds})
    assert found["outcomes"] == whole["outcomes"]
    assert found["steps"] == sum(len(stretch.times) for stretch in schedule.stretches)
    if whole["requests"]:
        assert found["slo"]["attainment"] == pytest.approx(whole["good"] / whole["requests"])
    names = sorted({request.deployment for request in schedule.requests})
    assert list(found["deployments"]) == names
    for name in names:
        part = [request for request in schedule.requests if request.deployment == name]
        close(found["deployments"][name], plainly.numbers_of(part, seconds, slo), name)


@settings(max_examples=30)
@given(schedules)
def test_what_each_replica_did(schedule: Schedule) -> None:
    report = report_of(schedule)
    found, seconds = report.summary(), plainly.window(schedule)
    held_by_all = 0.0
    for place, facts in enumerate(schedule.replicas):
        of = found["replicas"][report.log.replicas.index(facts)]
        held, most, busy, count = plainly.kv_of(schedule, place)
        held_by_all += held
        starts = sorted(times for at, *times in schedule.startups if at == place)
        began, loaded, ready = starts[0] if starts else (None, None, None)
        mine = [r for r in schedule.requests if (r.deployment, r.replica) == (facts.deployment, facts.replica)]
        expected = {
            "deployment": facts.deployment,
            "replica": facts.replica,
            "node": facts.node,
            "gpus": list(facts.gpus),
            "gpu": "H200",
            "kv_blocks": facts.kv_blocks,
            "block_size": facts.block_size,
            "starts": len(starts),
            "startup_s": ready - began if starts else None,
            "loading_s": loaded - began if starts else None,
            "requests": len(mine),
            "output_tokens": sum(request.output_tokens for request in mine),
            "steps": count,
            "busy": busy / seconds if seconds else None,
            "kv_mean": held / facts.kv_blocks / seconds if seconds else None,
            "kv_max": most / facts.kv_blocks,
        }
        close(of, expected, f"replica {place}")
        assert of.keys() == expected.keys()
    if seconds:
        blocks = sum(facts.kv_blocks for facts in schedule.replicas)
        assert found["kv_usage"]["mean"] == pytest.approx(held_by_all / blocks / seconds)
        assert found["kv_usage"]["max"] == max(of["kv_max"] for of in found["replicas"])


def test_cost_counts_each_gpu_once_and_is_unknown_without_every_price() -> None:
    schedule = build(4, replicas=2, deployments=2)
    hours = plainly.window(schedule) / 3600
    found = report_of(schedule).summary()
    first, second = schedule.replicas
    gpus = {(facts.node, gpu) for facts in (first, second) for gpu in facts.gpus}
    usd = hours * sum((2.5 if node == first.node else 3.5) for node, _ in gpus)
    assert found["cost"]["gpu_hours"] == pytest.approx(len(gpus) * hours)
    assert found["cost"]["usd"] == pytest.approx(usd)
    assert found["cost"]["usd_per_million_output_tokens"] == pytest.approx(usd / found["output_tokens"] * 1e6)
    parts = [part["cost"]["usd"] for part in found["deployments"].values()]
    assert sum(parts) == pytest.approx(usd)
    unknown = Schedule([first, replace(second, usd_per_gpu_hour=None)], schedule.stretches, schedule.requests)
    cost = report_of(unknown).summary()["cost"]
    assert cost["gpu_hours"] > 0
    assert cost["usd"] is cost["usd_per_million_output_tokens"] is None


@settings(max_examples=20)
@given(schedules)
def test_the_requests_table(schedule: Schedule) -> None:
    report = report_of(schedule)
    table = report.requests
    assert list(table.columns[: len(ISSUE_COLUMNS)]) == ISSUE_COLUMNS
    assert len(table) == len(schedule.requests)
    by_id = {request.request_id: request for request in schedule.requests}
    for row in table.itertuples():
        request = by_id[row.request_id]
        assert (row.deployment, row.outcome, row.replica) == (request.deployment, request.outcome, request.replica)
        assert (row.arrival_s, row.ended_s, row.session) == (request.arrival, request.ended, request.session)
        assert row.slo_ok == plainly.good(request, SLO)
        if request.outcome in plainly.COMPLETED:
            found = {"tpot_ms": math.nan, **plainly.latencies(request)}
            for name, value in found.items():
                assert getattr(row, name) == pytest.approx(value, nan_ok=True)
            assert (row.first_token_s, row.last_token_s) == (request.first_token, request.last_token)
        else:
            assert all(math.isnan(getattr(row, name)) for name in ("ttft_ms", "tpot_ms", "e2e_ms", "queue_ms"))
    for name in ("ttft_ms", "tpot_ms", "e2e_ms"):  # what a user sees in the table is what the summary says
        if table[name].notna().any():
            assert table[name].mean() == pytest.approx(report.summary()[name]["mean"])
            assert table[name].quantile(0.9) == pytest.approx(report.summary()[name]["p90"])


def test_the_steps_table() -> None:
    schedule = build(6, replicas=3, deployments=2)
    table = report_of(schedule).steps
    first = ["start_s", "seconds", "replica", "prefill_tokens", "decode_seqs", "kv_blocks"]
    assert list(table.columns[:6]) == first
    assert {"context_tokens", "running", "waiting", "preempted", "deployment"} <= set(table.columns)
    assert table.start_s.is_monotonic_increasing
    for place, facts in enumerate(schedule.replicas):
        mine = table[(table.deployment == facts.deployment) & (table.replica == facts.replica)]
        stretches = [stretch for stretch in schedule.stretches if stretch.replica == place]
        assert mine.seconds.sum() == pytest.approx(plainly.kv_of(schedule, place)[2])
        assert mine.prefill_tokens.sum() == sum(sum(stretch.prompts) for stretch in stretches)


# --- the edges


def test_an_empty_run_has_a_report_in_every_form(tmp_path: Any) -> None:
    report = Report(EventLog(), slo=SLO)
    of = report.summary()
    assert (of["requests"], of["simulated_s"], of["goodput_rps"], of["ttft_ms"]["p99"]) == (0, 0.0, None, None)
    assert len(report.requests) == len(report.steps) == 0
    assert "requests" in str(report)
    assert "<table>" in report._repr_html_()
    assert report.littles_law() == (0.0, 0.0)
    report.save(tmp_path / "report")


def test_a_run_in_which_nothing_completed(tmp_path: Any) -> None:
    log = EventLog()
    log.replica(ReplicaFacts("a", 0))  # nothing is known of it, and it took nothing
    for number in range(3):
        log.request(
            RequestRecord(number, "a", -1, 0, float(number), None, None, None, number + 1.0, 9, 0, 0, 0, "timeout")
        )
    report = Report(log, slo=SLO, slo_name="test")
    of = report.summary()
    assert (of["requests"], of["completed"], of["failed"]) == (3, 0, 3)
    assert (of["goodput_rps"], of["output_tokens_per_s"], of["simulated_s"]) == (0.0, 0.0, 3.0)
    assert of["prefix_hit_rate"] is of["kv_usage"]["mean"] is of["cost"]["usd"] is None
    assert of["slo"]["attainment"] == 0.0
    assert report.littles_law() == (1.0, 1.0)
    assert "timeout 3" in str(report)
    report.save(tmp_path / "report")


def test_without_objectives_there_is_no_goodput() -> None:
    report = report_of(build(2), slo=None)
    assert report.summary()["goodput_rps"] is report.summary()["slo"] is None
    assert report.requests.slo_ok.tolist() == report.requests.outcome.isin(plainly.COMPLETED).tolist()
    assert "no objectives" in str(report)


def test_a_value_equal_to_its_limit_keeps_it() -> None:
    log = EventLog()
    log.request(RequestRecord(0, "a", 0, 0, 0.0, 0.0, 0.5, 1.0, 1.0, 1, 2, 0, 0, "stop", (np.array([0.5, 1.0]),)))
    exact = Limits(ttft_ms=500.0, tpot_ms=500.0, itl_ms=500.0, e2e_ms=1000.0)
    assert Report(log, slo=exact).summary()["good"] == 1
    for name in ("ttft_ms", "tpot_ms", "itl_ms", "e2e_ms"):
        assert Report(log, slo=replace(exact, **{name: 499.0})).summary()["good"] == 0


def test_the_summary_is_json_without_nan_and_a_copy() -> None:
    report = report_of(build(8), wall_s=1.5, seed=3, mode="emulate")
    text = json.dumps(report.summary(), allow_nan=False)
    assert json.loads(text) == report.summary()
    report.summary()["ttft_ms"]["mean"] = -1.0
    assert json.loads(text) == report.summary()
    assert (report.summary()["wall_s"], report.summary()["seed"], report.summary()["mode"]) == (1.5, 3, "emulate")


def test_the_scenarios_own_objectives_fit() -> None:
    slo = PRESETS["mlperf-llama3.1-8b-interactive"]
    of = Report(build(8).log(), slo=slo, slo_name="mlperf").summary()["slo"]
    assert (of["name"], of["ttft_ms"], of["tpot_ms"]) == ("mlperf", 500.0, 30.0)


# --- for people


def test_the_text_shows_the_numbers_of_the_summary() -> None:
    report = report_of(build(21, replicas=2), scenario={"name": "azure"}, facts={"kv": ["model-0: 500 blocks (given)"]})
    of, lines = report.summary(), str(report).splitlines()
    ttft = next(line for line in lines if line.startswith("TTFT"))
    assert ttft.split()[2:] == [f"{of['ttft_ms'][name]:.2f}" for name in ("mean", "p50", "p90", "p99")]
    assert lines[0].startswith("azure: simulate, seed 0, ")
    text = "\n".join(lines)
    for part in (
        f"{of['goodput_rps']:.2f} req/s under test (TTFT <= 45 ms, TPOT <= 11 ms, ITL <= 19 ms, E2E <= 400 ms)",
        "model-0: 2 x 500 blocks of 16 tokens on H200",
        "model-0: 500 blocks (given)",
        f"preemptions  {of['preemptions']}",
        report.digest,
    ):
        assert part in text
    table = lines[2:7]
    assert len({len(line) for line in table}) == 1  # aligned


def test_several_deployments_have_a_line_each() -> None:
    text = str(report_of(build(22, replicas=3, deployments=2)))
    assert [line.split()[0] for line in text.splitlines()[-2:]] == ["model-0", "model-1"]


def test_html_escapes_what_users_name() -> None:
    schedule = build(23, replicas=2)
    evil = "<script>alert('x')</script>"
    requests = [replace(request, deployment=evil) for request in schedule.requests]
    requests[0] = replace(requests[0], deployment=f"{evil}2")
    replicas = [replace(facts, deployment=evil, gpu="<b>") for facts in schedule.replicas]
    report = Report(
        Schedule(replicas, schedule.stretches, requests).log(),
        scenario={"name": evil},
        slo=SLO,
        slo_name="<i>",
        facts={"kv": [evil]},
    )
    html = report._repr_html_()
    assert "&lt;script&gt;" in html
    assert not any(tag in html for tag in ("<script", "<b>", "<i>"))
    assert html.count("data:image/png;base64,") == 1


def test_compare_sets_reports_side_by_side() -> None:
    one, other = report_of(build(1)), report_of(build(2))
    table = compare({"one": one, "other": other})
    assert list(table.columns) == ["one", "other"]
    assert table.loc["TTFT_ms p99", "other"] == other.summary()["ttft_ms"]["p99"]
    assert table.loc["completed", "one"] == one.summary()["completed"]
    assert all(pd.api.types.is_numeric_dtype(kind) for kind in table.dtypes)


def test_the_text_says_how_long_replicas_started_up() -> None:
    facts = [ReplicaFacts("a", 0), ReplicaFacts("a", 1), ReplicaFacts("b", 0), ReplicaFacts("c", 0)]
    startups = [(0, 0.0, 4.0, 6.0), (1, 1.0, 9.0, 11.0), (1, 50.0, 50.5, 51.0), (2, 0.0, 0.0, 3.0), (3, 0.0, 0.0, 0.0)]
    text = str(Report(Schedule(facts, [], [], startups).log())).splitlines()
    at = next(place for place, line in enumerate(text) if line.startswith("start-up"))
    assert [line[9:].strip() for line in text[at : at + 2]] == [
        "a: 6.00 to 10.00 s, of that 4.00 to 8.00 s loading weights; 1 more in the run",
        "b: 3.00 s, of that 0.00 s loading weights",
    ]
    assert text[at + 2].startswith("digest")  # nothing of c, which took no time, and of KV blocks nothing is known
