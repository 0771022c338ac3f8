"""A run as a Chrome trace, which ui.perfetto.dev opens; a view of the log, with nothing in it that the log lacks.

Format: the Trace Event Format (JSON object). A process per replica: its steps as complete slices ("X"), its requests
as nested async slices ("b", "e") with their phases inside, and counters ("C"). Times in microseconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from rakka_sim.records import EventLog
from rakka_sim.report.measures import Array

if TYPE_CHECKING:
    from rakka_sim.report.report import Report

Event = dict[str, Any]

PER_STEP = 3  # a slice and two counters
PER_REQUEST = 8  # at most: the whole and three phases, a begin and an end each
PER_PROCESS = 3
TID = 1  # Perfetto takes process 0 and thread 0 for the idle ones


def chrome_trace(report: Report, *, max_events: int = 200_000) -> dict[str, Any]:
    """The trace as a dict. Beyond `max_events` it ends early: `otherData` says when, and how much it leaves out."""
    log = report.log
    until, steps, requests = _cut(log, max_events)
    total_steps, total_requests = len(log.step_columns()["start"]), log.request_count
    note = "the whole run"
    if (steps, requests) != (total_steps, total_requests):
        note = (
            f"only what began before {until:.6f} s: {steps:,} of {total_steps:,} steps and {requests:,} of "
            f"{total_requests:,} requests (max_events={max_events:,})"
        )
    events = chain(_processes(log), _requests(log, until), _steps(log, steps))
    return {
        "traceEvents": list(events),
        "displayTimeUnit": "ms",
        "otherData": {"scenario": report.name, "seed": str(report.seed), "digest": report.digest, "note": note},
    }


def _cut(log: EventLog, max_events: int) -> tuple[float, int, int]:
    """Until when (s, exclusive) events fit, and how many steps and requests begin before."""
    steps, arrivals = log.step_columns()["start"], np.sort(log.request_columns()["arrival"])
    begins = np.concatenate([steps, arrivals])
    order = np.argsort(begins, kind="stable")
    weights = np.repeat([PER_STEP, PER_REQUEST], [len(steps), len(arrivals)])[order]
    over = np.flatnonzero(np.cumsum(weights) > max_events - PER_PROCESS * (len(log.replicas) + 1))
    until = float(begins[order[over[0]]]) if len(over) else np.inf
    return until, int(np.searchsorted(steps, until)), int(np.searchsorted(arrivals, until))


def _processes(log: EventLog) -> Iterator[Event]:
    where = [" + ".join(map(str, of.parts)) if of.others else of.node for of in log.replicas]
    names = [
        f"{of.deployment}/{of.replica}" + (f" on {on}" if on else "")
        for of, on in zip(log.replicas, where, strict=True)
    ]
    for pid, name in enumerate([*names, "no replica"], start=1):
        yield _meta("process_name", pid, {"name": name})
        yield _meta("process_sort_index", pid, {"sort_index": pid})
        yield _meta("thread_name", pid, {"name": "steps"})


def _meta(what: str, pid: int, args: dict[str, Any]) -> Event:
    return {"ph": "M", "name": what, "pid": pid, "tid": TID, "args": args}


def _nanoseconds(seconds: Array) -> Array:
    """Whole ones, so that a step ends at the very instant at which the next one begins."""
    whole: Array = np.rint(seconds * 1e9).astype(np.int64)
    return whole


def _steps(log: EventLog, count: int) -> Iterator[Event]:
    of = {name: column[:count] for name, column in log.step_columns().items()}
    begin, end = _nanoseconds(of["start"]), _nanoseconds(of["end"])
    names = (
        "replica",
        "prefill_tokens",
        "decode_seqs",
        "context_tokens",
        "running",
        "waiting",
        "kv_blocks",
        "preempted",
    )
    columns = (of[name].tolist() for name in names)
    for at, until, replica, prefill, decode, context, running, waiting, blocks, preempted in zip(
        begin.tolist(), end.tolist(), *columns, strict=True
    ):
        here = {"pid": replica + 1, "tid": TID, "ts": at / 1000}
        batch = {"prefill_tokens": prefill, "decode_seqs": decode, "context_tokens": context, "preempted": preempted}
        kind = "prefill + decode" if prefill and decode else "prefill" if prefill else "decode"
        yield {"ph": "X", "cat": "step", "name": kind, **here, "dur": (until - at) / 1000, "args": batch}
        yield {"ph": "C", "name": "requests", **here, "args": {"running": running, "waiting": waiting}}
        yield {"ph": "C", "name": "KV blocks", **here, "args": {"in use": blocks}}


def _requests(log: EventLog, until: float) -> Iterator[Event]:
    of = log.request_columns()
    shown = np.flatnonzero(of["arrival"] < until)
    pids = {(of.deployment, of.replica): pid for pid, of in enumerate(log.replicas, start=1)}
    moments = {name: of[name].tolist() for name in ("arrival", "scheduled", "first_token", "last_token", "ended")}
    details = ("request_id", "session", "prompt_tokens", "output_tokens", "cached_tokens", "preemptions")
    for row in shown.tolist():
        args = {name: int(of[name][row]) for name in details}
        args["outcome"] = log.outcomes[of["outcome"][row]]
        deployment = log.deployments[of["deployment"][row]]
        pid = pids.get((deployment, int(of["replica"][row])), len(log.replicas) + 1)
        yield from _request(args, pid, {name: times[row] for name, times in moments.items()})


def _request(args: dict[str, Any], pid: int, at: dict[str, float]) -> Iterator[Event]:
    """Begin and end of the whole and of each phase that it reached; a phase that never ended ends with the request."""
    name = f"request {args['request_id']}"
    phases = [("queue", "arrival", "scheduled"), ("prefill", "scheduled", "first_token")]
    phases.append(("decode", "first_token", "last_token"))
    yield _async("b", name, pid, args["request_id"], at["arrival"], args)
    for phase, begin, end in phases:
        if at[begin] == at[begin]:  # not NaN: it came so far
            until = at[end] if at[end] == at[end] else at["ended"]
            yield _async("b", phase, pid, args["request_id"], at[begin])
            yield _async("e", phase, pid, args["request_id"], until)
    yield _async("e", name, pid, args["request_id"], at["ended"])


def _async(ph: str, name: str, pid: int, request_id: int, seconds: float, args: dict[str, Any] | None = None) -> Event:
    event = {"ph": ph, "cat": "request", "name": name, "id": request_id, "pid": pid, "tid": TID}
    event["ts"] = round(seconds * 1e9) / 1000
    return event if args is None else {**event, "args": args}
