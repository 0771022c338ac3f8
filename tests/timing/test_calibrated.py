"""Fits to steps whose law is known, the file they are kept in, and the scatter that a run draws from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rakka_sim.config.deployment import EngineConfig
from rakka_sim.config.gpus import gpu
from rakka_sim.config.models import model_spec
from rakka_sim.config.scenario import TimeModel
from rakka_sim.errors import InputError
from rakka_sim.timing.api import StepShape
from rakka_sim.timing.calibrated import Calibration, calibrated_model
from rakka_sim.timing.calibration import MeasuredStep, fit, read_steps
from rakka_sim.timing.factory import make_time_model
from rakka_sim.timing.graphs import Padding
from rakka_sim.timing.roofline import Roofline

LLAMA, DEVICE = model_spec("Llama-3.1-8B"), gpu("H200")


def measured(scatter: float = 0.0, seed: int = 0) -> list[MeasuredStep]:
    """Steps of a GPU that takes 1.3 times the roofline and 200 us more, give or take."""
    rng, truth = np.random.default_rng(seed), Roofline(LLAMA, DEVICE)
    steps = []
    for _ in range(600):
        rows, mean = int(rng.integers(0, 200)), int(rng.integers(50, 4000))
        chunk = 0 if rng.random() < 0.6 and rows else int(rng.integers(16, 2048))
        prefill = ((chunk, int(rng.integers(0, 2000))),) if chunk else ()
        shape = StepShape(prefill, rows, rows * mean, mean if rows else 0, rows + bool(chunk))
        seconds = (1.3 * truth.seconds(shape) + 200e-6) * (1 + scatter * rng.standard_normal())
        steps.append(MeasuredStep(shape, seconds))
    return steps


def test_a_fit_foretells_steps_it_has_not_seen() -> None:
    found = fit(measured(), LLAMA, DEVICE)
    assert found.holdout["median_abs_pct"] < 2.0
    assert found.holdout["p90_abs_pct"] < 8.0
    assert found.coefficients["layers"] == pytest.approx(1.3, rel=0.1)


def test_scatter_is_kept_as_quantiles_of_the_held_out_steps() -> None:
    found = fit(measured(scatter=0.05), LLAMA, DEVICE)
    spread = np.quantile(found.residuals, 0.84) - np.quantile(found.residuals, 0.16)
    assert 0.06 < spread < 0.16  # two standard deviations of 5 %, and the fit's own error
    assert list(found.residuals) == sorted(found.residuals)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("calibration") / "h200.json"
    fit(measured(0.05), LLAMA, DEVICE, provenance={"engine": "made up"}).write(where)
    return where


def test_a_file_gives_the_same_calibration_back(file: Path) -> None:
    again = Calibration.read(file)
    assert again == fit(measured(0.05), LLAMA, DEVICE, provenance={"engine": "made up"})


def test_a_run_has_the_very_floats_of_its_steps(file: Path) -> None:
    model = calibrated_model(file, LLAMA, DEVICE, 1, "bfloat16", "auto", Padding())
    shape = StepShape((), 9, 9 * 700, 1500, 9)
    single = [model.seconds(StepShape((), 9, 9 * 700 + 9 * j, 1500 + j, 9)) for j in range(100)]
    assert model.run_seconds(shape, 100).tolist() == single


def test_a_file_of_another_gpu_or_none_is_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="H100"):
        calibrated_model(file, LLAMA, gpu("H100"), 1, "bfloat16", "auto", Padding())
    with pytest.raises(InputError, match=r"nothing\.json"):
        Calibration.read(tmp_path / "nothing.json")
    damaged: dict[str, Any] = json.loads(file.read_text())
    (tmp_path / "old.json").write_text(json.dumps({**damaged, "format": "other"}))
    with pytest.raises(InputError, match="format"):
        Calibration.read(tmp_path / "old.json")


def test_too_few_steps_are_not_fitted_to() -> None:
    with pytest.raises(InputError, match="20 or more"):
        fit(measured()[:10], LLAMA, DEVICE)


def test_steps_are_read_from_lines_and_a_bad_line_is_named(tmp_path: Path) -> None:
    good = {"prefill": [[8, 0]], "decode_seqs": 1, "decode_context": 5, "decode_max": 5, "samples": 2, "seconds": 0.01}
    file = tmp_path / "steps.jsonl"
    file.write_text(json.dumps(good) + "\n")
    assert read_steps(file) == [MeasuredStep(StepShape(((8, 0),), 1, 5, 5, 2), 0.01)]
    file.write_text(json.dumps(good) + "\n" + json.dumps({**good, "seconds": 0}) + "\n")
    with pytest.raises(InputError, match=":2"):
        read_steps(file)


def test_a_scenario_can_ask_for_it(file: Path) -> None:
    model = make_time_model(TimeModel(kind="calibrated", path=str(file)), LLAMA, DEVICE, EngineConfig())
    assert model.seconds(StepShape((), 1, 10, 10, 1)) > Roofline(LLAMA, DEVICE).seconds(StepShape((), 1, 10, 10, 1))
