"""What the accuracy benchmark says of single steps and of a host's time, on runs of which everything is known."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import rakka_sim
from rakka_sim.config.deployment import EngineConfig
from rakka_sim.config.gpus import gpu
from rakka_sim.config.models import model_spec
from rakka_sim.config.scenario import TimeModel
from rakka_sim.timing.api import StepShape
from rakka_sim.timing.factory import make_time_model
from rakka_sim.timing.graphs import capture_sizes

ROOT = Path(__file__).resolve().parents[2]
DEVICE, HOST_US, BLOCKS, BEHIND_S = "RTX PRO 6000", 2000.0, 4000, 1e-4
ENGINE: dict[str, Any] = {"max_num_seqs": 24, "max_num_batched_tokens": 2048, "max_model_len": 4096}
GRAPH = capture_sizes(24, 2048)[-1]
SCRIPTS = ("host_time", "recorded_steps", "recorded_runs")


@pytest.fixture(scope="module")
def scripts() -> Any:
    """The benchmark's modules, which import each other by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        yield SimpleNamespace(**{name: import_module(name) for name in SCRIPTS})
    for name in SCRIPTS:
        sys.modules.pop(name, None)


def scenario(host_us: float) -> dict[str, Any]:
    return {
        "seed": 3,
        "cluster": {"nodes": [{"name": "node", "gpu": DEVICE, "gpus": 1}]},
        "deployment": [
            {
                "name": "llama",
                "model": "Llama-3.1-8B",
                "runtime_config": {
                    **ENGINE,
                    "num_gpu_blocks": BLOCKS,
                    "async_scheduling": True,
                    "host_overhead_us": host_us,
                    "frontend_overhead_us": 0.0,
                },
                "serving": {"max_concurrent": 100},
            }
        ],
        "workload": {
            "requests": 60,
            "arrivals": {"kind": "poisson", "rate": 6.0},
            "lengths": {
                "kind": "lognormal",
                "prompt": {"median": 300, "sigma": 1.2, "min": 3, "max": 1900},
                "output": {"median": 30, "sigma": 0.7, "min": 3, "max": 90},
            },
        },
    }


def as_recorded(scripts: Any, report: Any) -> Any:
    """A simulation as a real run would have recorded it: a request is scheduled one step before its own begins,
    or just before it where the engine was idle."""
    steps, requests = report.steps, report.requests.sort_values("arrival_s")
    starts, ends = steps.start_s.to_numpy(), (steps.start_s + steps.seconds).to_numpy()
    own = starts.searchsorted(requests.scheduled_s.to_numpy() - 1e-9)
    busy = (own > 0) & np.isclose(ends[own - 1], starts[own], atol=1e-9)
    scheduled = np.where(busy, starts[own - 1] + BEHIND_S, starts[own] - BEHIND_S)
    return scripts.recorded_runs.Recorded(
        Path(),
        {"engine_kwargs": ENGINE},
        *(requests[name].to_numpy() for name in ("prompt_tokens", "arrival_s")),
        scheduled,
        *(requests[name].to_numpy() for name in ("first_token_s", "last_token_s", "output_tokens")),
    )


def kernels() -> Any:
    return make_time_model(TimeModel(), model_spec("Llama-3.1-8B"), gpu(DEVICE), EngineConfig(**ENGINE))


def test_steps_found_from_stamps_have_the_overhead_that_they_were_given(scripts: Any) -> None:
    run = as_recorded(scripts, rakka_sim.run(scenario(HOST_US), progress=False))
    found = scripts.recorded_steps.lone_steps(run, kernels(), BLOCKS, scripts.recorded_runs.block_ids(run, {}))
    large = [step for step in found if step[0].tokens > GRAPH]
    small = [step for step in found if step[0].tokens <= GRAPH]
    assert len(large) > 20
    assert any(shape.prefill for shape, *_ in small)
    for steps, more in ((large, HOST_US * 1e-6), (small, 0.0)):
        assert [measured - known for _, known, measured in steps] == pytest.approx([more] * len(steps), abs=1e-9)
    bands = scripts.recorded_steps.bands(found)
    assert sum(band["steps"] for band in bands) == len(found)
    assert [band["longer_ms"] for band in bands if band["tokens_up_to"] > 128] == pytest.approx(
        [HOST_US * 1e-3] * sum(band["tokens_up_to"] > 128 for band in bands), abs=1e-6
    )


def test_stamps_never_allow_less_time_than_there_was(scripts: Any) -> None:
    run = as_recorded(scripts, rakka_sim.run(scenario(HOST_US), progress=False))
    limits = scripts.host_time.limits(run, kernels(), preempts=False)
    decode_ms = kernels().seconds(StepShape((), 1, 30, 30, 1)) * 1e3
    assert limits["step"]["ms"] > decode_ms
    assert limits["preparing"]["ms"] >= HOST_US * 1e-3
    assert limits["first token"]["ms"] > limits["preparing"]["ms"]
    assert scripts.host_time.limits(run, kernels(), preempts=True)["step"] is None


def test_the_form_in_use_is_the_packages_own(scripts: Any) -> None:
    own = rakka_sim.run(scenario(HOST_US), progress=False).requests
    form = next(form for form in scripts.host_time.FORMS if form.name == scripts.host_time.IN_USE)
    with scripts.host_time.formed(form, HOST_US):
        tried = rakka_sim.run(scenario(0.0), progress=False).requests
    without = rakka_sim.run(scenario(0.0), progress=False).requests
    assert tried.last_token_s.to_numpy() == pytest.approx(own.last_token_s.to_numpy(), rel=1e-12)
    assert own.last_token_s.sum() > without.last_token_s.sum()


@pytest.mark.parametrize(
    ("at", "lasts"),
    [
        (0, [22.0, 16.0]),
        (1, [22.0, 4.0]),
        (2, [34.0, 4.0]),
        (3, [46.0, 28.0]),
        (4, [22.0, 4.0]),
        (5, [12.0, 12.0]),
        (6, [12.0, 4.0]),
        (7, [21.0, 4.0]),
    ],
)
def test_each_form_by_hand(scripts: Any, at: int, lasts: list[float]) -> None:
    """A step of two prompts after one of 1 s, and one of two decode rows; 10 s and 4 s of kernels, 12 s of the host."""
    mixed, alone = StepShape(((600, 0), (40, 8)), 1, 8, 8, 3), StepShape((), 2, 16, 8, 2)
    found = []
    for shape, kernel_s in ((mixed, 10.0), (alone, 4.0)):
        step = scripts.host_time.Step(shape, 512, 1.0)
        found += scripts.host_time.FORMS[at].apply(np.array([kernel_s]), 12.0, step).tolist()
    assert found == lasts


def test_the_best_of_one_run_is_held_against_the_other(scripts: Any) -> None:
    form = scripts.host_time.Form("any", lambda kernels, host_s, step: kernels, (0.0, 1.0, 2.0, 3.0))
    errors = {"a": iter([[3.0], [1.0], [2.0], [9.0]]), "b": iter([[5.0], [4.0], [1.0], [7.0]])}
    found = scripts.host_time.searched(form, ("a", "b"), lambda run: next(errors[run]))
    assert found["best"]["a"] == {"host_us": 1.0, "mean_pct": 1.0}
    assert found["left_out_pct"] == {"a": {"b": 4.0}, "b": {"a": 2.0}}
    assert found["left_out_mean_pct"] == 3.0
    assert found["best"]["all"] == {"host_us": 2.0, "mean_pct": 1.5, "largest_pct": 2.0}
    assert found["as_good_us"] == [2.0, 2.0]


def test_the_page_shows_the_search_that_the_package_was_fitted_by() -> None:
    found = json.loads((ROOT / "benchmarks" / "results" / "accuracy.json").read_text("utf-8"))
    form = next(row for row in found["host_time"]["forms"] if row["form"] == found["host_time"]["in_use"])
    fit = {row["host_us"]: row["mean"] for row in found["fit"]}
    assert dict(zip(form["host_us"], form["mean_pct"]["all"], strict=True)) == pytest.approx(
        {us: fit[us] for us in form["host_us"]}
    )
    assert form["best"]["all"]["host_us"] == found["overheads_us"]["host_overhead_us"]
