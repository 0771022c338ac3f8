"""The Chrome trace: well formed as Perfetto reads it, and true to the log."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report.schedules import Schedule, build, schedules

from rakka_sim.records import EventLog
from rakka_sim.report.export_perfetto import chrome_trace
from rakka_sim.report.report import Report

Event = dict[str, Any]


def well_formed(trace: dict[str, Any]) -> dict[str, list[Event]]:
    """Check what a reader relies on; the events by phase."""
    by_phase: dict[str, list[Event]] = defaultdict(list)
    for event in trace["traceEvents"]:
        by_phase[event["ph"]].append(event)
        assert {"ph", "name", "pid", "tid"} <= event.keys()
        assert event["pid"] > 0
        assert event["tid"] > 0
        if event["ph"] != "M":
            assert isinstance(event["ts"], float)
    assert by_phase.keys() <= {"M", "X", "C", "b", "e"}
    named = {event["pid"] for event in by_phase["M"] if event["name"] == "process_name"}
    assert {event["pid"] for event in trace["traceEvents"]} == named
    _slices_follow_each_other(by_phase["X"])
    _async_slices_nest(trace["traceEvents"])
    json.dumps(trace, allow_nan=False)
    return by_phase


def _slices_follow_each_other(slices: list[Event]) -> None:
    free: dict[tuple[int, int], int] = defaultdict(int)
    for event in slices:
        begin, length = round(event["ts"] * 1000), round(event["dur"] * 1000)  # in ns
        assert length >= 0
        assert begin >= free[event["pid"], event["tid"]]
        free[event["pid"], event["tid"]] = begin + length


def _async_slices_nest(events: list[Event]) -> None:
    """Every end closes the innermost open slice of its id, no earlier than that began, and none stays open."""
    stacks: dict[tuple[str, int, int], list[Event]] = defaultdict(list)
    for event in events:
        if event["ph"] in "be":
            stack = stacks[event["cat"], event["pid"], event["id"]]
            if event["ph"] == "b":
                assert not stack or event["ts"] >= stack[-1]["ts"]
                stack.append(event)
            else:
                opened = stack.pop()
                assert (opened["name"], opened["ts"] <= event["ts"]) == (event["name"], True)
    assert not any(stacks.values())


@settings(max_examples=30)
@given(schedules)
def test_a_trace_is_well_formed_and_complete(schedule: Schedule) -> None:
    trace = chrome_trace(Report(schedule.log()))
    events = well_formed(trace)
    assert len(events["X"]) == sum(len(stretch.times) for stretch in schedule.stretches)
    wholes = [event for event in events["b"] if event["name"].startswith("request ")]
    assert sorted(event["args"]["request_id"] for event in wholes) == [
        request.request_id for request in schedule.requests
    ]
    assert trace["otherData"]["note"] == "the whole run"


def test_slices_are_the_steps_and_requests_of_the_log() -> None:
    schedule = build(61, replicas=2)
    report = Report(schedule.log(), scenario={"name": "traced"}, seed=5)
    events = well_formed(chrome_trace(report))
    names = {event["pid"]: event["args"]["name"] for event in events["M"] if event["name"] == "process_name"}
    steps = report.steps
    for event, row in zip(events["X"], steps.itertuples(), strict=True):
        assert event["ts"] == pytest.approx(row.start_s * 1e6, abs=1e-3)
        assert event["dur"] == pytest.approx(row.seconds * 1e6, abs=2e-3)
        assert names[event["pid"]].startswith(f"{row.deployment}/{row.replica} on node-")
        assert event["args"]["decode_seqs"] == row.decode_seqs
        assert event["name"] == ("prefill" if row.prefill_tokens else "decode")
    counters = [event["args"] for event in events["C"]]
    assert sum(args.get("running", 0) for args in counters) == steps.running.sum()
    assert sum(args.get("waiting", 0) for args in counters) == steps.waiting.sum()
    assert sum(args.get("in use", 0) for args in counters) == steps.kv_blocks.sum()
    phases: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for event in events["b"] + events["e"]:
        phases[event["id"]][event["name"]].append(event["ts"] / 1e6)
    for request in schedule.requests:
        found = phases[request.request_id]
        whole = [request.arrival, request.ended]
        expected = {f"request {request.request_id}": whole, "queue": whole}
        if request.scheduled is not None:
            expected["queue"] = [request.arrival, request.scheduled]
            expected["prefill"] = [request.scheduled, request.first_token]
            expected["decode"] = [request.first_token, request.last_token]
        assert found.keys() == expected.keys()
        for name, times in expected.items():
            assert found[name] == pytest.approx(times, abs=1e-9)


@settings(max_examples=20)
@given(schedules, st.integers(0, 400))
def test_the_size_is_bounded_and_the_note_says_what_is_left_out(schedule: Schedule, most: int) -> None:
    trace = chrome_trace(Report(schedule.log()), max_events=most)
    events = well_formed(trace)
    assert len(trace["traceEvents"]) <= max(most, len(events["M"]))
    steps, requests = sum(len(stretch.times) for stretch in schedule.stretches), len(schedule.requests)
    shown = sum(event["name"].startswith("request ") for event in events["b"])
    if (len(events["X"]), shown) == (steps, requests):
        assert trace["otherData"]["note"] == "the whole run"
    else:
        left = f"{len(events['X']):,} of {steps:,} steps and {shown:,} of {requests:,} requests (max_events={most:,})"
        assert left in trace["otherData"]["note"]


def test_a_request_that_no_replica_took_has_a_process_of_its_own() -> None:
    schedule = build(0)
    lost = [request for seed in range(20) for request in build(seed).requests if request.replica < 0][:1]
    events = well_formed(chrome_trace(Report(Schedule(schedule.replicas, schedule.stretches, lost).log())))
    names = {event["pid"]: event["args"]["name"] for event in events["M"] if event["name"] == "process_name"}
    assert {names[event["pid"]] for event in events["b"]} == {"no replica"}


def test_an_empty_run_and_a_file(tmp_path: Path) -> None:
    well_formed(chrome_trace(Report(EventLog())))
    report = Report(build(62).log())
    file = report.export("perfetto", tmp_path / "run.trace.json", max_events=50)
    assert json.loads(file.read_text()) == chrome_trace(report, max_events=50)
