"""Workload tables: what they accept, and how they name what they do not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rakka_sim.config.base import parse
from rakka_sim.config.workload import Spread, TraceArrivals, TraceLengths, WorkloadConfig
from rakka_sim.errors import ScenarioError

POISSON = {"kind": "poisson", "rate": 2.0}
FIXED = {"kind": "fixed", "prompt": 10, "output": 5}
TRACE = {"path": "t.csv", "format": "azure"}
CHATS = {"turns": {"kind": "fixed", "turns": 3}}


def table(**changes: Any) -> dict[str, Any]:
    made = {"requests": 10, "arrivals": POISSON, "lengths": FIXED, **changes}
    return {key: value for key, value in made.items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "key", "value", "allowed"),
    [
        ({"arrivals": {"kind": "poisson", "rate": 0}}, "arrivals.poisson.rate", 0, "greater than or equal to 0.000001"),
        ({"arrivals": {"kind": "poisson", "rate": float("nan")}}, "arrivals.poisson.rate", None, "a finite number"),
        ({"arrivals": {"kind": "gamma", "rate": 1, "burstiness": 0}}, "arrivals.gamma.burstiness", 0, "greater than 0"),
        ({"arrivals": {"kind": "poison", "rate": 1}}, "arrivals", {"kind": "poison", "rate": 1}, "'poisson', 'gamma'"),
        ({"arrivals": {"kind": "closed", "concurrency": 0}}, "arrivals.closed.concurrency", 0, "greater than 0"),
        ({"arrivals": {"kind": "trace"}}, "arrivals.kind", "trace", "[workload.trace] table"),
        ({"arrivals": None}, "arrivals", "(nothing)", "required"),
        ({"lengths": {"kind": "trace"}}, "lengths.kind", "trace", "[workload.trace] table"),
        ({"lengths": {**FIXED, "output": 0}}, "lengths.fixed.output", 0, "greater than or equal to 1"),
        ({"lengths": {**FIXED, "outputs": 1}}, "lengths.fixed.outputs", 1, "keys: kind, prompt, output"),
        ({"requests": None}, "requests", None, "poisson arrivals never end by themselves"),
        ({"requests": 0}, "requests", 0, "greater than 0"),
        ({"trace": TRACE}, "trace", "t.csv", 'arrivals or lengths of kind "trace"'),
        ({"trace": {"path": "t"}, "arrivals": {"kind": "trace"}}, "trace.format", None, "where a path is given"),
        ({"trace": {"format": "azure"}, "arrivals": {"kind": "trace"}}, "trace", "neither", "one of: path, dataset"),
        ({"trace": {**TRACE, "dataset": "d"}, "arrivals": {"kind": "trace"}}, "trace", "path and dataset", "one of"),
        ({"trace": {**TRACE, "format": "csv"}}, "trace.format", "csv", "'azure', 'mooncake'"),
        (
            {"trace": {**TRACE, "hashed_tokens": 16}, "arrivals": {"kind": "trace"}},
            "trace.hashed_tokens",
            16,
            'only with format "mooncake"',
        ),
        (
            {"trace": {"path": "s.json", "format": "sharegpt"}, "arrivals": None, "lengths": None},
            "arrivals.kind",
            "trace",
            "has no times",
        ),
        (
            {"trace": {"path": "s.json", "format": "sharegpt", "offset_s": 3}, "lengths": {"kind": "trace"}},
            "trace.offset_s",
            3.0,
            "has no times",
        ),
        ({"trace": TRACE, "lengths": {"kind": "trace"}, "sessions": CHATS}, "lengths.kind", "trace", "with sessions"),
        (
            {"trace": TRACE, "lengths": {"kind": "trace"}, "prefix": {"tokens": 9}},
            "lengths.kind",
            "trace",
            "with prefix",
        ),
        ({"sessions": {"turns": {"kind": "uniform", "min": 5, "max": 2}}}, "sessions.turns.uniform.max", 2, "min (5)"),
        (
            {"prefix": {"tokens": 64}, "sessions": {**CHATS, "max_context_tokens": 64}},
            "prefix.tokens",
            64,
            "less than sessions.max_context_tokens (64)",
        ),
        ({"timeout_s": -1}, "timeout_s", -1, "greater than 0"),
    ],
)
def test_what_cannot_be_is_named(changes: dict[str, Any], key: str, value: object, allowed: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        parse(WorkloadConfig, table(**changes), "s.toml")
    first = caught.value.problems[0]
    assert first.where == f"s.toml: {key}"
    assert first.value == value or value is None
    assert allowed in first.allowed


def test_every_contradiction_is_reported_at_once() -> None:
    both = table(trace=TRACE, lengths={"kind": "trace"}, sessions=CHATS, prefix={"tokens": 9})
    with pytest.raises(ScenarioError) as caught:
        parse(WorkloadConfig, both, "s.toml")
    assert [problem.where for problem in caught.value.problems] == ["s.toml: lengths.kind"] * 2


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"median": 3, "cv": 1}, "cv and median"),
        ({"median": 3}, "median"),
        ({}, "neither"),
        ({"median": 3, "sigma": 1, "mean": 3, "cv": 1}, "cv and mean and median and sigma"),
    ],
)
def test_a_spread_is_given_in_one_way(given: dict[str, float], found: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        parse(Spread, given, "s.toml")
    assert (caught.value.value, caught.value.allowed) == (found, "median and sigma, or mean and cv")


def test_a_trace_brings_arrivals_and_lengths_unless_they_are_given() -> None:
    both = WorkloadConfig.model_validate({"trace": TRACE})
    assert (both.arrivals, both.lengths) == (TraceArrivals(), TraceLengths())
    one = WorkloadConfig.model_validate({"trace": TRACE, "lengths": FIXED})
    assert (one.arrivals.kind, one.lengths.kind) == ("trace", "fixed")


def test_infinite_burstiness_survives_a_dump() -> None:
    config = WorkloadConfig.model_validate(table(arrivals={"kind": "gamma", "rate": 1, "burstiness": float("inf")}))
    again = WorkloadConfig.model_validate(config.model_dump(mode="json", exclude_unset=True))
    assert again == config


def test_there_is_a_schema() -> None:
    assert "burstiness" in json.dumps(WorkloadConfig.model_json_schema())
