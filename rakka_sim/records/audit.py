"""What must hold in every event log; nothing here repairs anything."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from rakka_sim.errors import InvariantBroken
from rakka_sim.records.rows import Array

if TYPE_CHECKING:
    from rakka_sim.records.log import EventLog


def audit(log: EventLog) -> None:
    """Raise InvariantBroken at the first record that cannot be."""
    _requests(log.request_columns())
    _tokens(log)
    _steps(log)
    little, arriving = log.littles_law()
    if not math.isclose(little, arriving, rel_tol=1e-6, abs_tol=1e-12):
        raise InvariantBroken("event log", f"Little's law: {little} requests in the system, but lambda W = {arriving}")


def occupancy(log: EventLog) -> None:
    """Little's law by two tables that know nothing of each other, where the log is that of a whole run.

    The time for which the steps of engines count requests in them cannot be more than the time which these were in
    the system. Where somebody gave up, who waited may have gone before the end of a step that counts them: there only
    those count which no cancel takes out of a step.
    """
    requests, steps = log.request_columns(), log.step_columns()
    gave_up = np.array([name in ("cancelled", "timeout") for name in log.outcomes], bool)[requests["outcome"]]
    inside = steps["decode_seqs"] if gave_up.any() else steps["running"] + steps["waiting"]
    inside = inside * (steps["end"] - steps["start"])
    stayed = requests["ended"] - requests["arrival"]
    served_by = np.array([facts.deployment for facts in log.replicas], object)[steps["replica"]]
    names = np.array(log.deployments, object)[requests["deployment"]]
    for name in dict.fromkeys(facts.deployment for facts in log.replicas):
        counted, known = float(inside[served_by == name].sum()), float(stayed[names == name].sum())
        if counted > known * (1 + 1e-6) + 1e-9:
            what = f"Little's law: steps of {name} count {counted} s of requests, which were there for {known} s"
            raise InvariantBroken("event log", what)


def littles_law(requests: dict[str, Array]) -> tuple[float, float]:
    """(L, lambda W) from the first arrival to the last end; zeros where no time passed."""
    arrival, ended = requests["arrival"], requests["ended"]
    if len(arrival) == 0 or ended.max() <= arrival.min():
        return 0.0, 0.0
    window = float(ended.max() - arrival.min())
    times = np.concatenate([arrival, ended])
    order = np.argsort(times, kind="stable")
    change = np.repeat([1, -1], len(arrival))[order]
    inside = np.cumsum(change)[:-1]
    integral = float(np.sum(inside * np.diff(times[order])))
    return integral / window, len(arrival) / window * float(np.mean(ended - arrival))


def _refuse(table: str, names: Array, rules: dict[str, Array]) -> None:
    """`rules` maps what is wrong to the rows where it is."""
    for wrong, rows in rules.items():
        if rows.any():
            raise InvariantBroken("event log", f"{table} {names[int(np.argmax(rows))]}: {wrong}")


def _requests(of: dict[str, Array]) -> None:
    arrival, scheduled, ended = of["arrival"], of["scheduled"], of["ended"]
    first, last = of["first_token"], of["last_token"]
    rules = {  # a comparison with NaN (never happened) is false: it breaks no rule of order
        "a time is not finite": ~(np.isfinite(arrival) & np.isfinite(ended)),
        "ended before it arrived": ended < arrival,
        "scheduled before it arrived": scheduled < arrival,
        "scheduled after it ended": scheduled > ended,
        "first token before it was scheduled": first < scheduled,
        "first token before it arrived": first < arrival,
        "last token before the first": last < first,
        "last token after it ended": last > ended,
        "tokens without a first token's time": (of["output_tokens"] > 0) & (np.isnan(first) | np.isnan(last)),
        "a token's time without tokens": (of["output_tokens"] == 0) & ~(np.isnan(first) & np.isnan(last)),
        "more tokens cached than the prompt has": of["cached_tokens"] > of["prompt_tokens"],
    }
    for name in ("prompt_tokens", "output_tokens", "cached_tokens", "preemptions"):
        rules[f"negative {name}"] = of[name] < 0
    _refuse("request", of["request_id"], rules)


def _tokens(log: EventLog) -> None:
    of = log.request_columns()
    times, begins = log.token_times()
    counts = np.diff(begins)
    _refuse("request", of["request_id"], {"as many token times as tokens are needed": counts != of["output_tokens"]})
    some = counts > 0
    owner = np.repeat(of["request_id"], np.maximum(counts - 1, 0))
    _refuse("request", owner, {"its tokens are not in order of time": ~(log.itl() >= 0)})
    _refuse(
        "request",
        of["request_id"][some],
        {
            "its first token's time is another": times[begins[:-1][some]] != of["first_token"][some],
            "its last token's time is another": times[begins[1:][some] - 1] != of["last_token"][some],
        },
    )


def _steps(log: EventLog) -> None:
    of = log.step_columns()
    replicas = log.replicas
    names = np.array([f"{facts.deployment}/{facts.replica}" for facts in replicas], object)
    blocks = np.array([facts.kv_blocks or np.iinfo(np.int32).max for facts in replicas], np.int64)
    by_replica = np.argsort(of["replica"], kind="stable")
    replica, start, end = (of[name][by_replica] for name in ("replica", "start", "end"))
    same = replica[1:] == replica[:-1]
    _refuse(
        "replica",
        names[replica[1:]],
        {"a step begins before the one before it has ended": same & (start[1:] < end[:-1])},
    )
    rules = {
        "a step ends before it begins": ~(of["end"] >= of["start"]),
        "a step computes nothing": of["prefill_tokens"] + of["decode_seqs"] <= 0,
        "a step decodes more sequences than run": of["decode_seqs"] > of["running"],
        "more KV blocks in use than there are": of["kv_blocks"] > blocks[of["replica"]],
    }
    for name in ("prefill_tokens", "decode_seqs", "kv_blocks", "running", "waiting", "preempted", "context_tokens"):
        rules[f"negative {name}"] = of[name] < 0
    _refuse("replica", names[of["replica"]], rules)
