"""From files, dicts and overrides to a scenario: what loads, and where a fault is said to be."""

from __future__ import annotations

from pathlib import Path

import pytest

from rakka_sim.config.loading import load_scenario, parse_assignment
from rakka_sim.errors import ScenarioError

MINIMAL = """
[[deployment]]
name = "a"
model = "Llama-3.1-8B"
[[deployment]]
name = "b"
model = "Qwen3-8B"
[workload]
requests = 3
arrivals = {kind = "poisson", rate = 1.0}
lengths = {kind = "fixed", prompt = 10, output = 2}
"""

# The sample project file of upstream's repository, with its comments left out.
UPSTREAM = """
[cluster]
name = "demo"
bind = "127.0.0.1:8080"
[[deployment]]
name = "gpt-4o-mini"
model = "gpt-4o-mini"
runtime = "open_ai"
replicas = 1
[deployment.serving]
max_concurrent = 16
on_capacity_exhausted = "queue"
[[deployment]]
name = "tinyllama-local"
model = "TinyLlama-1.1B-Chat-Q4_0"
runtime = "candle"
gpus = 1
replicas = 1
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "s.toml"
    path.write_text(MINIMAL)
    return path


def test_a_file_and_its_folder(file: Path) -> None:
    scenario, base = load_scenario(file)
    assert [d.name for d in scenario.deployment] == ["a", "b"]
    assert base == file.parent.resolve()
    assert scenario.target(scenario.workload[0]).name == "a"


def test_an_upstream_project_file_loads(tmp_path: Path) -> None:
    path = tmp_path / "project.toml"
    path.write_text(UPSTREAM)
    scenario, _ = load_scenario(path)
    assert [d.runtime_kind.value for d in scenario.deployment] == ["openai", "candle"]
    assert scenario.deployment[0].serving.max_concurrent == 16


def test_overrides_by_index_by_name_and_into_tables_left_out(file: Path) -> None:
    overrides = {
        "deployment.0.replicas": 4,
        "deployment.b.runtime_config.max_num_seqs": 8,
        "workload.arrivals.rate": 2.5,
        "seed": 7,
    }
    scenario, _ = load_scenario(file, overrides)
    assert scenario.deployment[0].replicas == 4
    assert scenario.deployment[1].engine.max_num_seqs == 8
    assert scenario.workload[0].arrivals.rate == 2.5
    assert scenario.seed == 7
    assert load_scenario(file)[0].deployment[0].replicas == 1


def test_a_scenario_and_a_dict_take_overrides_and_stay_as_they_were(file: Path) -> None:
    scenario, _ = load_scenario(file)
    given = {"deployment": [{"name": "a", "model": "Llama-3.1-8B"}]}
    assert load_scenario(scenario, {"seed": 3})[0].seed == 3
    assert scenario.seed == 0
    load_scenario(given, {"deployment.a.replicas": 2})
    assert given == {"deployment": [{"name": "a", "model": "Llama-3.1-8B"}]}


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("deployment.7.replicas", 1, "an index below 2"),
        ("deployment.zzz.replicas", 1, "one of: a, b"),
        ("deployment.a.name.x", 1, "a key of a table"),
        ("seed.x", 1, "a valid integer"),
        ("deployment.a.replica", 1, "replicas"),
        ("seed", -1, "greater than or equal to 0"),
        ("workload.deployment", "c", "none of: a, b"),
    ],
)
def test_an_override_that_leads_nowhere(file: Path, key: str, value: object, words: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        load_scenario(file, {key: value})
    assert words in str(caught.value)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"name = ", "TOML"),
        (b"name = '\xff'", "UTF-8"),
        (b"", "required"),
        (b"deployment = 3", "tuple"),
        (b"[[deployment]]\nname='a'\nmodel='m'\n[[deployment]]\nname='a'\nmodel='m'", "name of its own"),
        (b"nmae = 'x'\n[[deployment]]\nname='a'\nmodel='m'", "keys: name, description"),
        (b"[[deployment]]\nname='a'\nmodel='m'\n[[cluster.nodes]]\nname='n'\ngpu='H900'\ngpus=8", "H100"),
        (b"[[deployment]]\nname='a'\nmodel='m'\n[[cluster.nodes]]\nname='n'\ngpus=8", "go together"),
    ],
)
def test_a_faulty_file_is_named_with_its_fault(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    with pytest.raises(ScenarioError) as caught:
        load_scenario(path)
    assert words in str(caught.value)
    assert "bad.toml" in str(caught.value)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="existing file"):
        load_scenario(tmp_path / "none.toml")
    with pytest.raises(ScenarioError, match="readable"):
        load_scenario(tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.b=3", ("a.b", 3)),
        ("a=1.5", ("a", 1.5)),
        ("a=true", ("a", True)),
        ("a=[1, 2]", ("a", [1, 2])),
        ("a=round_robin", ("a", "round_robin")),
        ("a='3'", ("a", "3")),
        ("a=b=c", ("a", "b=c")),
    ],
)
def test_assignments(text: str, expected: tuple[str, object]) -> None:
    assert parse_assignment(text) == expected


def test_an_assignment_without_a_value() -> None:
    with pytest.raises(ScenarioError, match="key=value"):
        parse_assignment("replicas")
