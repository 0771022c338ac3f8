"""The cold start that ships with the package, against arithmetic; the same with other disks, stores and caches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import rakka_sim
from rakka_sim.config.models import model_spec
from rakka_sim.report.report import Report

SCENARIO = Path(__file__).resolve().parents[2] / "scenarios/cold_start.toml"
FEW = {"workload.0.requests": 5, "workload.1.requests": 20}
LARGE = model_spec("meta-llama/Llama-3.1-70B").weight_bytes() / 1e9  # 141 GB
SMALL = model_spec("meta-llama/Llama-3.1-8B").weight_bytes() / 1e9  # 16 GB
PCIE_GB_S = 48.0  # Gen5 x16, as NCCL counts it


def run(**overrides: Any) -> Report:
    return rakka_sim.run(SCENARIO, overrides=FEW | overrides, progress=False)


def loading(report: Report) -> dict[str, set[float]]:
    """Seconds of loading by deployment, each that occurs once, to a microsecond."""
    found: dict[str, set[float]] = {}
    for of in report.summary()["replicas"]:
        found.setdefault(of["deployment"], set()).add(round(of["loading_s"], 6))
    return found


def seconds(value: float) -> set[float]:
    return {round(value, 6)}


def test_the_small_model_shares_the_disk_until_it_is_read_and_the_large_one_has_it_alone_then() -> None:
    """Each node reads 16 + 141 GB at 5 GB/s: the small model at half of that, the last byte of both after 31.4 s."""
    report = run()
    assert loading(report) == {"small": seconds(2 * SMALL / 5), "large": seconds((SMALL + LARGE) / 5)}
    assert {of["node"] for of in report.summary()["replicas"]} == {"h100-a", "h100-b"}
    for of in report.summary()["replicas"]:
        assert of["startup_s"] == pytest.approx(of["loading_s"] + 20.0)
    assert report.requests["arrival_s"].min() > (SMALL + LARGE) / 5 + 20.0
    assert f"large: {(SMALL + LARGE) / 5 + 20:.2f} s, of that {(SMALL + LARGE) / 5:.2f} s loading weights" in str(
        report
    )
    kept = json.loads(json.dumps(report.to_dict()))
    assert kept["replicas"] == report.summary()["replicas"]


def test_one_store_for_both_nodes_takes_twice_as_long_as_a_disk_of_that_rate_for_each() -> None:
    disks = {f"cluster.nodes.{name}.storage_gb_s": None for name in ("h100-a", "h100-b")}
    report = run(**disks, **{"cluster.model_store_gb_s": 5.0})
    assert loading(report) == {"small": seconds(4 * SMALL / 5), "large": seconds(2 * (SMALL + LARGE) / 5)}


def test_a_disk_faster_than_pcie_leaves_the_copies() -> None:
    """A quarter of 141 GB down the link of each of the four GPUs, 16 GB down that of each other one."""
    report = run(**{f"cluster.nodes.{name}.storage_gb_s": 1e6 for name in ("h100-a", "h100-b")})
    assert loading(report) == {"small": seconds(SMALL / PCIE_GB_S), "large": seconds(LARGE / 4 / PCIE_GB_S)}


def test_without_a_page_cache_four_replicas_of_a_node_read_four_times() -> None:
    """Five reads share 5 GB/s until the four small ones are done: 1 GB/s each."""
    report = run(**{f"cluster.nodes.{name}.host_memory_cache": False for name in ("h100-a", "h100-b")})
    assert loading(report) == {"small": seconds(SMALL), "large": seconds((4 * SMALL + LARGE) / 5)}


@pytest.mark.parametrize("ties", [None, 1, 2])
def test_it_is_the_same_whoever_is_heard_first(ties: int | None) -> None:
    assert len(rakka_sim.assert_deterministic(SCENARIO, overrides=FEW, shuffle_ties=ties)) == 64
