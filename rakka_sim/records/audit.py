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
    _startups(log)
    little, arriving = log.littles_law()
    if not math.isclose(little, arriving, rel_tol=1e-6, abs_tol=1e-12):
        raise InvariantBroken("event log", f"Little's law: {little} requests in the system, but lambda W = {arriving}")


def occupancy(log: EventLog) -> None:
    """Little's law by two tables that know nothing of each other, where the log is that of a whole run.

    The time for which the steps of engines count requests in them cannot be more than the time which these were in
    the system. Where somebody gave up, who waited may have gone before the end of a step that counts them: there only
    those count which no cancel takes out of a step.
    """
    requests = log.request_columns()
    gave_up = np.array([name in ("cancelled", "timeout") for name in log.outcomes], bool)[requests["outcome"]].any()
    stayed = requests["ended"] - requests["arrival"]
    names = np.array(log.deployments, object)[requests["deployment"]]
    counted: dict[str, float] = {}
    for facts, (decoding, present) in log.occupied():
        counted[facts.deployment] = counted.get(facts.deployment, 0.0) + (decoding if gave_up else present)
    for name, seconds in counted.items():
        known = float(stayed[names == name].sum())
        if seconds > known * (1 + 1e-6) + 1e-9:
            what = f"Little's law: steps of {name} count {seconds} s of requests, which were there for {known} s"
            raise InvariantBroken("event log", what)


def holdings(log: EventLog) -> None:
    """Where GPUs were given back: every step of a replica lies in a time in which it had them."""
    if not log.holdings.ended():
        return
    for place, runs, _ in log.each_replicas_runs():
        facts = log.replicas[place]
        spans = np.array(log.holdings.of(facts))
        if not len(spans) or not len(runs["start"]):
            continue
        span = np.searchsorted(spans[:, 0], runs["start"], side="right") - 1
        outside = (span < 0) | (runs["last_end"] > spans[np.maximum(span, 0), 1])
        if outside.any():
            at = float(runs["start"][outside][0])
            what = f"{facts.deployment}/{facts.replica} stepped at {at} s on GPUs of {facts.node} that it did not have"
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
    of, tokens = log.request_columns(), log.tokens
    names, counts = of["request_id"], tokens.counts()
    _refuse("request", names, {"as many token times as tokens are needed": counts != of["output_tokens"]})
    _refuse("request", names, {"its tokens are not in order of time": tokens.disorder()})
    first, last = np.full((2, len(names)), math.nan)
    last[tokens.owner] = tokens.at(tokens.count - 1)  # of several stretches the last one is written last
    first[tokens.owner[::-1]] = tokens.at(np.zeros_like(tokens.count))[::-1]
    some = counts > 0
    rules = {
        "its first token's time is another": (first != of["first_token"])[some],
        "its last token's time is another": (last != of["last_token"])[some],
    }
    _refuse("request", names[some], rules)


def _startups(log: EventLog) -> None:
    of, replicas = log.startup_columns(), log.replicas
    names = np.array([f"{replicas[at].deployment}/{replicas[at].replica}" for at in of["replica"].tolist()], object)
    rules = {
        "a time is not finite": ~np.isfinite(of["began"] + of["loaded"] + of["ready"]),
        "it had its weights before it began": of["loaded"] < of["began"],
        "it was ready before it had its weights": of["ready"] < of["loaded"],
    }
    _refuse("start-up of", names, rules)


def _steps(log: EventLog) -> None:
    replicas, counts = log.replicas, ("prefill_tokens", "decode_seqs", "kv_blocks", "running", "preempted")
    for place, of, ends in log.each_replicas_runs():
        facts = replicas[place]
        blocks = facts.kv_blocks or np.iinfo(np.int32).max
        rules = {
            "a step begins before the one before it has ended": of["start"][1:] < of["last_end"][:-1],
            "a step ends before it begins": ~(of["end"] >= of["start"]),
            "a step of a run ends before the one before it": ~(np.diff(ends) >= 0),
            "a step computes nothing": of["prefill_tokens"] + of["decode_seqs"] <= 0,
            "a step decodes more sequences than run": of["decode_seqs"] > of["running"],
            "more KV blocks in use than there are": of["most_blocks"] > blocks,
            **{f"negative {count}": of[count] < 0 for count in (*counts, "context_tokens", "waiting")},
        }
        for wrong, where in rules.items():
            if where.any():
                raise InvariantBroken("event log", f"replica {facts.deployment}/{facts.replica}: {wrong}")
