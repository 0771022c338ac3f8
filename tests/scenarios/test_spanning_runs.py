"""Runs of replicas larger than a node: where they go, what a step then takes, what they cost, what loses them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from actors.serving import Serving

import rakka_sim
from rakka_sim.config.gpus import gpu
from rakka_sim.config.models import model_spec
from rakka_sim.errors import InputError, NotBuilt, NotEnoughGpus
from rakka_sim.hardware.collectives import Fabric
from rakka_sim.hardware.racks import nvl72_rack
from rakka_sim.hardware.topology import ClusterTopology
from rakka_sim.messages import GetDeployment, GetPlacements, NodeLost, NodeReturned
from rakka_sim.records import EventLog, ReplicaFacts, ReplicaPart
from rakka_sim.report.report import Report
from rakka_sim.report.usage import cost
from rakka_sim.timing.api import StepShape
from rakka_sim.timing.roofline import Roofline

NVL72 = Path(__file__).resolve().parents[2] / "scenarios" / "nvl72.toml"
FEW = {"workload.0.requests": 40, "workload.1.requests": 20}
ALL = (0, 1, 2, 3)


def tray(name: str, domain: str = "d", **more: Any) -> dict[str, Any]:
    return {"name": name, "gpu": "GB200", "gpus": 4, "nvlink_domain": domain, **more}


def parts_of(report: Report, deployment: str) -> list[list[tuple[str, tuple[int, ...]]]]:
    facts = [each for each in report.log.replicas if each.deployment == deployment]
    return [[(part.node, part.gpus) for part in each.parts] for each in facts]


def tpot_ms(report: Report) -> float:
    return float(report.summary()["tpot_ms"]["p50"])


# --- the scenario -----------------------------------------------------------------------------------------------


def test_the_scenario_runs_to_its_end_with_a_replica_in_each_rack(tmp_path: Path) -> None:
    report = rakka_sim.run(NVL72, overrides=FEW, progress=False)
    assert report.summary()["completed"] == 60
    assert parts_of(report, "llama-70b") == [[("a-01", ALL), ("a-02", ALL)], [("b-01", ALL), ("b-02", ALL)]]
    assert parts_of(report, "qwen3-32b") == [[("a-03", ALL)]]
    hours = report.summary()["simulated_s"] / 3600
    assert report.summary()["cost"]["gpu_hours"] == pytest.approx(20 * hours)
    assert report.summary()["cost"]["usd"] == pytest.approx((12 * 6.0 + 8 * 5.0) * hours)
    first, second, third = report.summary()["replicas"]
    assert (first["node"], first["gpus"], first["others"]) == ("a-01", list(ALL), [{"node": "a-02", "gpus": list(ALL)}])
    assert second["others"] == [{"node": "b-02", "gpus": list(ALL)}]
    assert "others" not in third
    report.export("perfetto", tmp_path / "trace.json")
    assert "llama-70b/1 on b-01 GPUs 0-3 + b-02 GPUs 0-3" in (tmp_path / "trace.json").read_text()


def test_it_is_deterministic() -> None:
    assert rakka_sim.assert_deterministic(NVL72, overrides={"workload.0.requests": 5, "workload.1.requests": 5})


def test_the_placement_reads_and_draws_as_what_it_is(tmp_path: Path) -> None:
    placed = rakka_sim.place(NVL72)
    assert "a-01 GPUs 0-3 + a-02 GPUs 0-3             nvswitch, all-reduce of 256 KiB" in str(placed)
    row = placed.rows()[0]
    assert (row["node"], row["gpus"], row["others"]) == ("a-01", list(ALL), [["a-02", list(ALL)]])
    assert row["all_reduce_us"] > placed.rows()[2]["all_reduce_us"]  # eight against four
    assert placed.marks["a-02", 3] == ("llama-70b/0",)
    assert placed.marks["b-01", 0] == ("llama-70b/1",)
    assert placed.marks["a-03", 0] == ("qwen3-32b",)
    assert placed.double_booked == {}
    assert placed.save(tmp_path / "placed.png").read_bytes().startswith(b"\x89PNG")


def test_what_fits_in_no_domain_is_refused_with_what_each_has_free() -> None:
    placed = rakka_sim.place(NVL72, {"deployment.0.gpus": 32})
    assert "free in NVLink domains: nvl72-a 16, nvl72-b 8" in placed.refused["llama-70b"]
    assert [result.deployment for result in placed.results] == ["qwen3-32b"]


def test_a_domain_of_one_node_and_no_domain_join_nothing() -> None:
    nodes = [tray("a", "x"), tray("b", "y"), tray("c", ""), tray("d", "")]
    deployment = {"name": "m", "model": "meta-llama/Llama-3.1-70B", "gpus": 8}
    placed = rakka_sim.place({"cluster": {"nodes": nodes}, "deployment": [deployment]})
    assert placed.refused["m"].endswith("free: a 4, b 4, c 4, d 4")


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_whole_rack_is_one_replica(replicas: int) -> None:
    nodes = [tray(f"t{i:02d}") for i in range(18)]
    deployment = {"name": "all", "model": "meta-llama/Llama-3.1-70B", "gpus": 72 // replicas, "replicas": replicas}
    (result,) = rakka_sim.place({"cluster": {"nodes": nodes}, "deployment": [deployment]}).results
    assert [len(each.parts) for each in result.assignments] == [18 // replicas] * replicas


# --- the steps --------------------------------------------------------------------------------------------------


def eight(nodes: list[dict[str, Any]], gpus: int = 8) -> dict[str, Any]:
    return {
        "cluster": {"nodes": nodes},
        "deployment": [{"name": "m", "model": "meta-llama/Llama-3.1-70B", "gpus": gpus}],
        "workload": {
            "requests": 20,
            "arrivals": {"kind": "poisson", "rate": 5.0},
            "lengths": {"kind": "fixed", "prompt": 100, "output": 50},
        },
    }


def test_eight_gpus_of_two_trays_against_eight_of_one_machine() -> None:
    """The same GPUs on the same NVLinks: the engine's own all-reduce reaches no further than a machine, NCCL does."""
    trays = [{**tray(name), "gpu": "B200", "topology": "gb200-nvl72"} for name in ("a", "b")]
    apart = rakka_sim.run(eight(trays), progress=False)
    whole = rakka_sim.run(eight([{"name": "box", "gpu": "B200", "gpus": 8}]), progress=False)
    assert parts_of(apart, "m") == [[("a", ALL), ("b", ALL)]]
    assert tpot_ms(whole) < tpot_ms(apart) < 1.5 * tpot_ms(whole)


def test_over_the_fabric_a_step_takes_less_than_over_the_network() -> None:
    rack = nvl72_rack(2)
    bare = ClusterTopology(tuple(dataclasses.replace(node, nvlink_domain="") for node in rack.nodes))
    places = [(node.name, index) for node in rack.nodes for index in ALL]
    groups = [rack.group(places), bare.group(places)]
    assert [group.fabric for group in groups] == [Fabric.NVSWITCH, Fabric.NVSWITCH]
    assert [(group.nodes, group.hosts) for group in groups] == [(1, 2), (2, 2)]
    llama, device = model_spec("meta-llama/Llama-3.1-70B"), gpu("GB200")
    decode, prefill = StepShape((), 32, 32 * 1000, 1000, 32), StepShape(((2048, 0),), samples=1)
    for shape in (decode, prefill):
        fabric, network = (Roofline(llama, device, tp=8, group=group).seconds(shape) for group in groups)
        assert network > 1.1 * fabric


def test_measured_tables_know_one_node() -> None:
    for asked in ({"kind": "silicon"}, {"kind": "calibrated", "path": "x.json"}):
        with pytest.raises(InputError, match="roofline: others know one node"):
            rakka_sim.run(NVL72, overrides={**FEW, "time_model": asked}, progress=False)


def test_live_mode_says_that_it_is_not_built() -> None:
    pytest.importorskip("torch")
    with pytest.raises(NotBuilt, match=r"llama-70b on [ab]-01 GPUs 0-3 \+ [ab]-02 GPUs 0-3"):
        rakka_sim.run(NVL72, mode="live", overrides=FEW, progress=False)


def test_every_node_of_a_replica_reads_the_weights_and_the_slowest_counts() -> None:
    slow, fast = tray("a", storage_gb_s=5.0), tray("b", storage_gb_s=20.0)
    size = model_spec("meta-llama/Llama-3.1-70B").weight_bytes()
    for nodes in ([slow, fast], [fast, slow], [slow, tray("b")], [tray("b"), slow]):
        (replica,) = rakka_sim.run(eight(nodes), progress=False).summary()["replicas"]
        assert replica["loading_s"] == pytest.approx(size / 5e9)
    quick = rakka_sim.run(eight([fast, tray("c", storage_gb_s=20.0)]), progress=False)
    assert quick.summary()["replicas"][0]["loading_s"] == pytest.approx(size / 20e9)


# --- the log ----------------------------------------------------------------------------------------------------


def test_a_digest_says_nothing_of_further_nodes_where_there_are_none() -> None:
    """And something where there are."""
    digests = []
    for others in ((), (ReplicaPart("b", (0,)),), (ReplicaPart("b", (1,)),)):
        log = EventLog()
        log.replica(ReplicaFacts("m", 0, "a", (0,), others=others))
        digests.append(log.digest())
    assert len(set(digests)) == 3
    # That of a log from before replicas could span nodes.
    assert digests[0] == "8c451c24dda113016dd3fea74b0fbe41ae7868c18e38ca4098874086fe5d4a77"


# --- a node that is lost ----------------------------------------------------------------------------------------


def where(serving: Serving) -> list[list[str]]:
    (result,) = serving.system.ask(serving.stack.placement, GetPlacements(), 10.0)
    return [[node for node, _ in each.parts] for each in result.assignments]


def rack(*names: str, **deployment: Any) -> Serving:
    serving = Serving(cluster={"nodes": [tray(name) for name in names]}, deployment={"gpus": 8, **deployment})
    serving.up()
    return serving


@pytest.mark.parametrize("lost", ["a", "b"])
def test_requests_survive_either_node_and_the_replica_moves(lost: str) -> None:
    serving = rack("a", "b", "c", "d", "e", replicas=2)
    assert where(serving) == [["a", "b"], ["c", "d"]]
    ids = [serving.submit(output=50) for _ in range(8)]
    serving.run(0.1)
    serving.system.ask(serving.stack.placement, NodeLost(lost), 10.0)
    serving.run(5.0)
    assert [serving.client.ended[i].outcome for i in ids] == ["stop"] * 8
    assert where(serving) == [sorted({"a", "b", "e"} - {lost}), ["c", "d"]]
    serving.log.check()


def test_a_gpu_is_paid_for_while_the_replica_spans_its_node() -> None:
    nodes = [tray(name, usd_per_gpu_hour=price) for name, price in (("a", 1.0), ("b", 10.0), ("c", 100.0))]
    serving = Serving(cluster={"nodes": nodes}, deployment={"gpus": 8})
    serving.up()
    serving.run(100.0)
    serving.system.ask(serving.stack.placement, NodeLost("b"), 10.0)
    serving.run(300.0)
    assert where(serving) == [["a", "c"]]
    paid = cost(serving.log, 0.0, 400.0, 1)
    assert paid["gpu_hours"] == pytest.approx(8 * 400 / 3600)
    assert paid["usd"] == pytest.approx(4 * (400 * 1.0 + 100 * 10.0 + 300 * 100.0) / 3600)


def test_without_room_it_waits_for_a_node_and_what_it_had_is_free() -> None:
    serving = rack("a", "b", "c")
    for node in ("a", "b"):
        serving.system.ask(serving.stack.placement, NodeLost(node), 10.0)
        serving.run(1.0)
    status = serving.system.ask(serving.stack.manager, GetDeployment("m"), 10.0)
    assert isinstance(status.error, NotEnoughGpus)
    assert where(serving) == []
    serving.system.ask(serving.stack.placement, NodeReturned("b"), 10.0)
    serving.run(1.0)
    assert where(serving) == [["b", "c"]]
    served = serving.submit()
    serving.run(5.0)
    assert serving.client.ended[served].outcome == "stop"
    serving.log.check()
