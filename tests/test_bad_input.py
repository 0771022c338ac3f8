"""Whoever means harm, or mistypes: every way in ends in a right result or in an error of ours that names the place."""

from __future__ import annotations

import asyncio
import json
import math
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import rakka_sim
from rakka_sim.errors import InputError, NotBuilt, PlacementError, RakkaError, ScenarioError, UnknownName
from rakka_sim.report.report import Report

BASE: dict[str, Any] = {
    "cluster": {"nodes": [{"name": "n", "gpu": "L40S", "gpus": 2}]},
    "deployment": [{"name": "m", "model": "Qwen3-0.6B"}],
    "workload": {
        "requests": 5,
        "arrivals": {"kind": "poisson", "rate": 50.0},
        "lengths": {"kind": "fixed", "prompt": 30, "output": 10},
    },
}


def run(**fields: Any) -> Report:
    return rakka_sim.run(BASE, **{"progress": False, **fields})


NO_SCENARIO = [None, 5, [], b"x", "", ".", "/nonexistent", "a\0b", {}, {"deployment": []}, {"deployment": [5]}]


@pytest.mark.parametrize("given", NO_SCENARIO, ids=repr)
def test_what_is_no_scenario_is_said_to_be_none(given: Any) -> None:
    with pytest.raises(ScenarioError):
        rakka_sim.run(given, progress=False)


ARGUMENTS: list[tuple[dict[str, Any], type[RakkaError], str]] = [
    ({"seed": -1}, InputError, "seed"),
    ({"seed": 1.5}, InputError, "seed"),
    ({"seed": "a"}, InputError, "seed"),
    ({"seed": True}, InputError, "seed"),
    ({"mode": None}, UnknownName, "simulate"),
    ({"mode": "SIMULATE"}, UnknownName, "simulate"),
    ({"seeds": 0}, InputError, "seeds"),
    ({"seeds": "x"}, InputError, "seeds"),
    ({"overrides": {5: 1}}, ScenarioError, "dotted key"),
    ({"overrides": [1]}, ScenarioError, "mapping"),
]


@pytest.mark.parametrize(("fields", "kind", "told"), ARGUMENTS, ids=[str(row[0]) for row in ARGUMENTS])
def test_a_wrong_argument_is_named(fields: dict[str, Any], kind: type[RakkaError], told: str) -> None:
    with pytest.raises(kind, match=told):
        run(**fields)


ENGINE = "deployment.m.runtime_config"
IMPOSSIBLE = {
    "workload.arrivals.rate": [0, -1, math.nan, math.inf, 1e300, 1e-300],
    "workload.timeout_s": [0, 1e300],
    "workload.duration_s": [0, 1e300],
    "workload.lengths.prompt": [0, -1, 1.5, 10**10, "five"],
    "workload.lengths.output": [0, 10**10],
    "workload.prefix": [{"groups": 10**9, "tokens": 10}, {"groups": 1, "tokens": 0}],
    "workload.arrivals": [{"kind": "closed", "concurrency": 0}, {"kind": "closed", "concurrency": 1, "ramp_s": 1e300}],
    "stop_after_s": [0, -1, 1e300, math.nan],
    "seed": [-1, 1.5],
    f"{ENGINE}.num_gpu_blocks": [0, 10**12],
    f"{ENGINE}.startup_s": [-1, 1e300],
    f"{ENGINE}.host_overhead_us": [-1, 1e300],
    f"{ENGINE}.frontend_overhead_us": [-1, 1e300],
    f"{ENGINE}.max_model_len": [0, 1],
    f"{ENGINE}.max_num_seqs": [0, 10**12],
    f"{ENGINE}.block_size": [0, 10**9],
    f"{ENGINE}.gpu_memory_utilization": [0.001, 1.1],
    "deployment.m.name": ["", "a/b"],
    "deployment.m.model": ["nope", "/etc/hostname"],
    "deployment.m.replicas": [0, 10**9],
    "deployment.m.gpus": [3],
    "deployment.m.serving.fallback": ["m", "zz"],
    "cluster.nodes.n.gpus": [0, 10**12],
    "cluster.nodes": [[]],
    "workload": [[], 5],
    "slo": ["zz", {"ttft_ms": -1}],
}


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key, values in IMPOSSIBLE.items() for value in values], ids=str
)
def test_an_impossible_value_is_an_error_that_fits_a_screen(key: str, value: Any) -> None:
    with pytest.raises((InputError, PlacementError)) as error:
        run(overrides={key: value})
    assert len(str(error.value)) < 2000


def test_one_fault_is_told_once() -> None:
    with pytest.raises(ScenarioError) as error:
        run(overrides={"deployment.m.name": "a/b"})
    assert [problem.where for problem in error.value.problems] == ["scenario: deployment.0.name"]


LIMITS: list[tuple[dict[str, Any], dict[str, int]]] = [
    ({"workload.lengths.prompt": 40959}, {"length": 5}),
    ({"workload.lengths.prompt": 40960}, {"context_length_exceeded": 5}),
    ({"workload.lengths.prompt": 2**31 - 1}, {"context_length_exceeded": 5}),
    ({f"{ENGINE}.num_gpu_blocks": 1}, {"context_length_exceeded": 5}),
    ({"workload.lengths.output": 1}, {"stop": 5}),
    ({"workload.requests": 1}, {"stop": 1}),
    ({"workload.timeout_s": 1e-9}, {"timeout": 5}),
    ({"stop_after_s": 1e-9}, {}),
    ({"workload.arrivals": {"kind": "closed", "concurrency": 2, "think_time_s": 0.5}}, {"stop": 5}),
    ({"workload.arrivals.rate": 1e9}, {"stop": 5}),
]


@pytest.mark.parametrize(("overrides", "outcomes"), LIMITS, ids=[str(row[0]) for row in LIMITS])
def test_what_is_just_possible_is_right(overrides: dict[str, Any], outcomes: dict[str, int]) -> None:
    report = run(overrides=overrides)
    assert report.summary()["outcomes"] == outcomes


EMPTY = {
    "none completed": {"workload.lengths.prompt": 10**9},
    "no request": {"stop_after_s": 1e-9},
    "one token": {"workload.requests": 1, "workload.lengths.output": 1},
    "all too late": {"workload.timeout_s": 0.005},
}


@pytest.mark.parametrize("overrides", EMPTY.values(), ids=EMPTY.keys())
def test_a_report_of_next_to_nothing_answers_everything(overrides: dict[str, Any], tmp_path: Path) -> None:
    report = run(overrides=overrides)
    summary = json.loads(json.dumps(report.summary(), allow_nan=False))
    assert summary["requests"] == summary["completed"] + summary["failed"] == len(report.requests)
    assert str(report)
    assert report._repr_html_()
    assert len(report.steps) == summary["steps"]
    inside, arriving = report.littles_law()
    assert inside == pytest.approx(arriving)
    report.save(tmp_path / "report")
    report.export("vllm", tmp_path / "vllm.json")
    report.export("perfetto", tmp_path / "trace.json")
    assert len(rakka_sim.compare({"one": report, "same": report}).columns) == 2
    again = pickle.loads(pickle.dumps(report))
    assert (again.digest, again.summary()) == (report.digest, report.summary())


@pytest.mark.parametrize("place", ["a\0b", "/dev/null", "/dev/null/x", "/proc/nothing"])
def test_a_place_that_cannot_be_written_to_is_named(place: str) -> None:
    report = run()
    saves: list[Callable[[], Path]] = [lambda: report.save(place), lambda: report.export("vllm", f"{place}/x.json")]
    for save in saves:
        with pytest.raises(InputError, match=r"folder|file"):
            save()


def test_a_run_in_another_thread_or_in_a_running_loop_is_the_same() -> None:
    digest = run().digest
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(run().digest)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    async def inside() -> str:
        return run().digest

    assert [*found, asyncio.run(inside())] == [digest] * 4


EMULATED: list[tuple[dict[str, Any], type[RakkaError] | None]] = [
    ({}, None),
    ({"stop_after_s": 0.02}, None),
    ({"workload.lengths.prompt": 10**9}, None),
    ({"deployment.m.gpus": 3}, PlacementError),
    ({f"{ENGINE}.gpu_memory_utilization": 0.001}, InputError),
    ({"deployment.m.model": "gpt-4o", "cluster.nodes.n.egress": True}, NotBuilt),
]


@pytest.mark.parametrize(("overrides", "error"), EMULATED, ids=[str(row[0]) for row in EMULATED])
def test_emulated_on_the_wall_clock_it_ends_as_well(overrides: dict[str, Any], error: type[RakkaError] | None) -> None:
    before = set(threading.enumerate())
    if error is None:
        report = run(mode="emulate", overrides=overrides)
        assert report.mode == "emulate"
        if not overrides:
            assert report.summary()["completed"] == 5
    else:
        with pytest.raises(error):
            run(mode="emulate", overrides=overrides)
    assert set(threading.enumerate()) <= before, "no thread is left"
