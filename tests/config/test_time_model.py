"""The `[time_model]` table: what each kind needs, and what it says where that is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import rakka_sim
from rakka_sim.config.scenario import TimeModel
from rakka_sim.errors import InputError, ScenarioError

DEPLOYMENT = [{"name": "d", "model": "Llama-3.1-8B"}]


def scenario(**time_model: Any) -> dict[str, Any]:
    return {
        "cluster": {"nodes": [{"name": "n", "gpu": "H200", "gpus": 1}]},
        "deployment": DEPLOYMENT,
        "time_model": time_model,
        "workload": {
            "requests": 2,
            "arrivals": {"kind": "constant", "rate": 1.0},
            "lengths": {"kind": "fixed", "prompt": 10, "output": 3},
        },
    }


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"kind": "profile"}, "needs time_model.path"),
        ({"kind": "calibrated"}, "needs time_model.path"),
        ({"kind": "roofline", "path": "x"}, "profile and calibrated"),
        ({"kind": "profile", "path": "x", "expert_parallel": True}, "roofline and silicon"),
        ({"kind": "oracle"}, "roofline"),
        ({"kind": "silicon", "backend": "other"}, "vllm"),
    ],
)
def test_what_does_not_belong_together_is_named(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ScenarioError, match=said):
        rakka_sim.load_scenario(scenario(**given))


def test_a_path_counts_from_the_scenario_file(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text(
        '[[cluster.nodes]]\nname = "n"\ngpu = "H200"\ngpus = 1\n[[deployment]]\nname = "d"\nmodel = "Llama-3.1-8B"\n'
        '[time_model]\nkind = "calibrated"\npath = "mine.json"\n[workload]\nrequests = 1\n'
        'arrivals = { kind = "constant", rate = 1.0 }\nlengths = { kind = "fixed", prompt = 5, output = 2 }\n'
    )
    with pytest.raises((InputError, rakka_sim.errors.RunFailed), match=str(tmp_path / "mine.json")):
        rakka_sim.run(file, progress=False)


def test_another_folder_changes_paths_alone() -> None:
    assert TimeModel().beside(Path("/x")) == TimeModel()
    assert TimeModel(kind="profile", path="p").beside(Path("/x")).path == "/x/p"
    assert TimeModel(kind="profile", path="/p").beside(Path("/x")).path == "/p"


def test_roofline_is_what_a_scenario_gets_that_says_nothing() -> None:
    given = scenario(kind="roofline")
    silent = {name: value for name, value in given.items() if name != "time_model"}
    assert rakka_sim.run(given, progress=False).digest == rakka_sim.run(silent, progress=False).digest
