"""Whole runs on each time model: runs of steps leave the records of single steps; calibrated times vary by seed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import rakka_sim
from rakka_sim.config.gpus import gpu
from rakka_sim.config.models import model_spec
from rakka_sim.timing.api import StepShape
from rakka_sim.timing.calibration import MeasuredStep, fit
from rakka_sim.timing.roofline import Roofline

GPU = "H200"


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Steps of the roofline with a scatter of 5 %."""
    rng, truth = np.random.default_rng(0), Roofline(model_spec("Llama-3.1-8B"), gpu(GPU))
    steps = []
    for _ in range(300):
        rows, context = int(rng.integers(1, 100)), int(rng.integers(50, 2000))
        prefill = ((int(rng.integers(16, 1024)), 0),) if rng.random() < 0.4 else ()
        shape = StepShape(prefill, rows, rows * context, context, rows + len(prefill))
        steps.append(MeasuredStep(shape, truth.seconds(shape) * (1 + 0.05 * rng.standard_normal())))
    file = tmp_path_factory.mktemp("calibration") / "file.json"
    fit(steps, model_spec("Llama-3.1-8B"), gpu(GPU)).write(file)
    return str(file)


def scenario(time_model: dict[str, Any], runs: bool, seed: int = 1) -> dict[str, Any]:
    return {
        "seed": seed,
        "cluster": {"nodes": [{"name": "n", "gpu": GPU, "gpus": 1}]},
        "time_model": time_model,
        "deployment": [
            {
                "name": "d",
                "model": "Llama-3.1-8B",
                "runtime_config": {"num_gpu_blocks": 220, "max_num_seqs": 12, "runs_of_steps": runs},
            }
        ],
        "workload": {
            "requests": 60,
            "arrivals": {"kind": "poisson", "rate": 30.0},
            "lengths": {
                "kind": "lognormal",
                "prompt": {"median": 150, "sigma": 0.8, "max": 1500},
                "output": {"median": 80, "sigma": 0.8, "max": 900},
            },
        },
    }


@pytest.mark.parametrize("kind", ["roofline", "silicon", "calibrated"])
def test_runs_of_steps_leave_the_records_of_single_steps(kind: str, calibration: str) -> None:
    if kind == "silicon":
        pytest.importorskip("aiconfigurator_core", reason="the extra silicon is not installed")
    asked = {"kind": kind, **({"path": calibration} if kind == "calibrated" else {})}
    together, single = (rakka_sim.run(scenario(asked, runs), progress=False) for runs in (True, False))
    assert together.digest == single.digest
    assert together.summary()["preemptions"] > 0  # or blocks were never short


def test_a_calibrated_model_makes_step_times_draws(calibration: str) -> None:
    """The same arrivals at every seed: what differs is the draws alone."""
    asked = {"kind": "calibrated", "path": calibration}
    given = scenario(asked, True)
    given["workload"]["arrivals"] = {"kind": "constant", "rate": 30.0}
    given["workload"]["lengths"] = {"kind": "fixed", "prompt": 100, "output": 50}
    found = rakka_sim.run(given, seeds=3, progress=False)
    means = {report.summary()["tpot_ms"]["mean"] for report in found.reports}  # type: ignore[union-attr]
    assert len(means) == 3
    assert 0 < found.summary()["ci95"]["tpot_ms"]["mean"] < 0.1 * found.summary()["tpot_ms"]["mean"]
    exact = rakka_sim.run({**given, "time_model": {"kind": "roofline"}}, seeds=3, progress=False)
    assert exact.summary()["ci95"]["tpot_ms"]["mean"] == 0.0
