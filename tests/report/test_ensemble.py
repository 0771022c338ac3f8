"""Several seeds as one report: means and intervals against scipy's, the same keys, bands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

import rakka_sim
from rakka_sim.errors import InputError
from rakka_sim.report.confidence import interval
from rakka_sim.report.ensemble import Ensemble
from rakka_sim.report.files import load
from rakka_sim.report.report import Report

SCENARIO: dict[str, Any] = {
    "name": "several",
    "seed": 3,
    "slo": {"ttft_ms": 200.0},
    "cluster": {"nodes": [{"name": "n", "gpu": "H200", "gpus": 1}]},
    "deployment": [{"name": "d", "model": "Llama-3.1-8B"}],
    "workload": {
        "requests": 40,
        "arrivals": {"kind": "poisson", "rate": 20.0},
        "lengths": {
            "kind": "lognormal",
            "prompt": {"median": 200, "sigma": 0.5},
            "output": {"median": 30, "sigma": 0.5},
        },
    },
}


@pytest.fixture(scope="module")
def found() -> Ensemble:
    made = rakka_sim.run(SCENARIO, seeds=4, progress=False)
    assert isinstance(made, Ensemble)
    return made


def test_each_seed_is_a_run_of_its_own(found: Ensemble) -> None:
    assert found.seeds == (3, 4, 5, 6)
    alone = rakka_sim.run(SCENARIO, seed=5, progress=False)
    assert isinstance(alone, Report)
    assert found.reports[2].digest == alone.digest
    assert len({report.digest for report in found.reports}) == 4


def test_the_summary_keeps_the_keys_of_one_run_and_says_how_sure_it_is(found: Ensemble) -> None:
    together, one = found.summary(), found.reports[0].summary()
    assert set(one) <= set(together)
    values = [report.summary()["ttft_ms"]["p99"] for report in found.reports]
    assert together["ttft_ms"]["p99"] == pytest.approx(np.mean(values))
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert together["ci95"]["ttft_ms"]["p99"] == pytest.approx((high - low) / 2)
    assert together["ci95"]["requests"] == 0.0
    json.dumps(together, allow_nan=False)


def test_one_value_has_no_interval() -> None:
    assert interval([1.0]) is None
    assert interval([2.0, 2.0, 2.0]) == 0.0


def test_it_reads_as_a_table_with_intervals(found: Ensemble) -> None:
    said = str(found)
    assert "4 seeds" in said
    assert said.count("±") > 15
    assert "4 seeds" in found._repr_html_()


def test_frames_say_which_seed_a_row_is_of(found: Ensemble) -> None:
    assert found.requests.groupby("seed").size().to_dict() == {3: 40, 4: 40, 5: 40, 6: 40}
    assert set(found.steps.seed) == {3, 4, 5, 6}


def test_it_is_saved_and_read_back_like_a_single_run(found: Ensemble, tmp_path: Path) -> None:
    where = found.save(tmp_path / "report")
    assert (where / "plots" / "latency.png").stat().st_size > 10_000
    again = load(where)
    assert again.summary["seeds"] == [3, 4, 5, 6]
    assert again.summary["digest"] == found.digest
    assert again.requests.groupby("seed").size().to_dict() == {3: 40, 4: 40, 5: 40, 6: 40}
    found.save(where, plots=False)  # a report may be written over


def test_no_seeds_at_all_are_refused() -> None:
    with pytest.raises(InputError, match="seeds"):
        rakka_sim.run(SCENARIO, seeds=0, progress=False)
