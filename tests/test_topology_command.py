"""`rakka-sim topology`: what is printed, what is written, and the exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from rakka_sim.cli import BAD_INPUT, FAILED, app
from rakka_sim.config.machines import MACHINES
from rakka_sim.errors import NoDevice
from rakka_sim.hardware import find
from rakka_sim.hardware.nccl_write import write_nccl_xml
from rakka_sim.hardware.presets import preset
from rakka_sim.hardware.topo_text import matrix_text


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["topology", *arguments])


def test_all_machines_are_listed_and_each_can_be_shown() -> None:
    listed = _run("list").stdout
    assert "nvl72 " in listed
    assert "72 GPUs of 18 nodes" in _run("show", "NVL72").stdout
    for spec in MACHINES:
        assert spec.name in listed
        assert preset(spec.name).key in _run("show", spec.name).stdout


def test_another_gpu_in_a_known_machine() -> None:
    assert "8 x A100-40" in _run("show", "dgx-a100", "--model", "a100-40").stdout
    wrong = _run("show", "dgx-a100", "--model", "H999")
    assert (wrong.exit_code, "H100" in wrong.stderr) == (BAD_INPUT, True)


@pytest.mark.parametrize("text", [write_nccl_xml(preset("dgx1-v100")), matrix_text(preset("dgx1-v100"))])
def test_a_file_of_either_kind(tmp_path: Path, text: str) -> None:
    file, picture = tmp_path / "box.txt", tmp_path / "out" / "box.png"
    file.write_text(text)
    result = _run("show", str(file), "--model", "V100", "--out", str(picture))
    assert result.exit_code == 0, result.stderr
    assert "box: 8 x V100" in result.stdout or "dgx1-v100: 8 x V100" in result.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_scenario_and_a_cluster_tree(tmp_path: Path, shared_data: Path) -> None:
    node = '[[cluster.nodes]]\nname = "a"\ngpu = "H100"\ngpus = 8\nrack = "r7"\n'
    (tmp_path / "s.toml").write_text(node + '[[deployment]]\nname = "m"\nmodel = "meta-llama/Llama-3.1-8B"\n')
    shown = _run("show", str(tmp_path / "s.toml"))
    assert shown.exit_code == 0, shown.stderr
    assert "r7" in shown.stdout
    tree = _run("show", str(shared_data / "topologies" / "topograph-nvl72.yaml"), "--model", "gb200-nvl72")
    assert "72 GPUs of 18 nodes, node1101 to node1118" in tree.stdout


@pytest.mark.parametrize(
    ("what", "finding"),
    [
        ("hgx-h10", "hgx-h100"),
        ("missing.xml", "an existing file"),
        ("missing.yaml", "an existing file"),
        ("missing.toml", "an existing file"),
        ("some/folder", "an existing file"),
    ],
)
def test_what_is_not_there(what: str, finding: str) -> None:
    result = _run("show", what)
    assert result.exit_code == BAD_INPUT
    assert finding in result.stderr
    assert result.stdout == ""


def test_a_machine_without_a_gpu_is_no_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> None:
        raise NoDevice((("NVML", "driver not loaded"),))

    monkeypatch.setattr(find, "live_machine", none)
    result = _run("show", "live")
    assert result.exit_code == FAILED
    assert "driver not loaded" in result.stderr


def test_a_picture_of_an_unknown_kind(tmp_path: Path) -> None:
    result = _run("show", "single", "--out", str(tmp_path / "x.xyz"))
    assert (result.exit_code, result.stdout) == (BAD_INPUT, "")
    assert ".png" in result.stderr
