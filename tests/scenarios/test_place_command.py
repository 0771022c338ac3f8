"""`rakka-sim place`: what it prints and writes, and its exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import rakka_sim

MIXED = Path(__file__).resolve().parents[2] / "scenarios" / "mixed_cluster.toml"


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rakka_sim", "place", *map(str, arguments)], capture_output=True, text=True
    )


def test_it_prints_a_table_and_writes_a_picture(tmp_path: Path) -> None:
    done = command(MIXED, "--out", tmp_path / "placed.png")
    assert (done.returncode, done.stderr) == (0, "")
    assert "llama-70b              1  h100-b           GPUs 0, 1, 2, 3" in done.stdout
    assert "nvswitch, all-reduce of 256 KiB" in done.stdout
    assert (tmp_path / "placed.png").read_bytes().startswith(b"\x89PNG")


def test_json_is_the_same_on_standard_output_and_in_a_file(tmp_path: Path) -> None:
    done = command(MIXED, "--json", "--out", tmp_path / "placed.json")
    assert json.loads(done.stdout) == json.loads((tmp_path / "placed.json").read_text()) == rakka_sim.place(MIXED).data


def test_a_folder_gets_both(tmp_path: Path) -> None:
    done = command(MIXED, "--out", tmp_path / "new" / "placed")
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(file.name for file in (tmp_path / "new" / "placed").iterdir()) == ["placement.json", "placement.png"]
    assert command(MIXED, "--out", tmp_path / "placed.bmp").returncode == 2


def test_a_deployment_without_a_place_is_told_of_and_the_others_are_placed() -> None:
    done = command(MIXED, "--set", "deployment.whisper.replicas=99")
    assert done.returncode == 1
    assert (
        "refused: deployment 'whisper' requires 1 GPUs for each of 99 replicas; free: h100-a 4, h100-b 4" in done.stdout
    )
    assert "chat-small" in done.stdout


def test_another_policy_and_one_that_is_not_there() -> None:
    done = command(MIXED, "--policy", "naive")
    assert done.returncode == 0
    assert "booked twice: GPU 0 of h100-a" in done.stdout
    done = command(MIXED, "--policy", "best")
    assert done.returncode == 2
    assert "naive, exclusive" in done.stderr


def test_a_placement_knows_what_is_booked_twice_and_what_is_a_slice() -> None:
    slices = rakka_sim.place(MIXED.with_name("mig_small_models.toml"))
    assert slices.double_booked == {}
    assert slices.marks["h200-cut", 0] != ()
    assert {row["slice"] for row in slices.rows()} >= {"1g.18gb@6", "2g.35gb@4"}
    assert rakka_sim.place(MIXED).double_booked == {}
    assert ("h100-a", 0) in rakka_sim.place(MIXED, {"placement.policy": "naive"}).double_booked
