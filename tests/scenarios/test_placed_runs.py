"""Runs whose placement shows: in the step times, in what becomes of a lost node, in what is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from actors.serving import Serving

import rakka_sim
from rakka_sim.config.loading import load_scenario
from rakka_sim.core.placing import Demand, Offer
from rakka_sim.errors import NotBuilt, NotEnoughGpus, UnknownName
from rakka_sim.messages import GetDeployment, GetPlacements, NodeLost, NodeReturned
from rakka_sim.report.report import Report
from rakka_sim.report.usage import replicas

SCENARIOS = Path(__file__).resolve().parents[2] / "scenarios"


def gpus_of(report: Report, deployment: str) -> list[tuple[str, tuple[int, ...]]]:
    return [(each.node, tuple(each.gpus)) for each in report.log.replicas if each.deployment == deployment]


def tpot_ms(report: Report) -> float:
    return float(report.summary()["tpot_ms"]["p50"])


@pytest.mark.parametrize("name", ["mixed_cluster", "mig_small_models"])
def test_the_scenarios_run_to_their_end(name: str) -> None:
    few = {f"workload.{i}.requests": 30 for i in range(3)}
    report = rakka_sim.run(SCENARIOS / f"{name}.toml", overrides=few, progress=False)
    assert report.summary()["completed"] == 90
    if name == "mixed_cluster":
        assert [(node, len(gpus)) for node, gpus in gpus_of(report, "llama-70b")] == [("h100-a", 4), ("h100-b", 4)]
        assert {node for node, _ in gpus_of(report, "whisper")} == {"h100-a", "h100-b"}
        assert {node for node, _ in gpus_of(report, "chat-small")} == {"l40s-a"}
    else:
        assert {each.gpu for each in report.log.replicas} == {"H200 MIG 1g.18gb", "H200 MIG 2g.35gb"}


def two_sockets(policy: Any, **more: Any) -> dict[str, Any]:
    """Eight GPUs on PCIe, four per socket; two single ones come first, then one that wants four."""
    return {
        "cluster": {"nodes": [{"name": "box", "gpu": "L40S", "gpus": 8, "topology": "pcie"}]},
        "placement": {"policy": policy},
        "deployment": [
            {"name": "small", "model": "Qwen3-0.6B", "replicas": 2},
            {"name": "large", "model": "meta-llama/Llama-3.1-8B", "gpus": 4},
        ],
        "workload": {
            "deployment": "large",
            "requests": 20,
            "arrivals": {"kind": "poisson", "rate": 5.0},
            "lengths": {"kind": "fixed", "prompt": 100, "output": 50},
        },
        **more,
    }


def test_four_gpus_of_one_socket_are_faster_than_four_of_two() -> None:
    inside, across = rakka_sim.run(two_sockets("topology")), rakka_sim.run(two_sockets("pack"))
    assert gpus_of(inside, "large") == [("box", (4, 5, 6, 7))]
    assert gpus_of(across, "large") == [("box", (2, 3, 4, 5))]
    assert tpot_ms(across) > 1.05 * tpot_ms(inside)


def test_a_bridged_pair_is_faster_than_the_first_two() -> None:
    def box(policy: str) -> Report:
        nodes = [{"name": "box", "gpu": "A100-80", "gpus": 8, "topology": "nvlink-pairs"}]
        deployment = [{"name": "large", "model": "meta-llama/Llama-3.1-8B", "gpus": 2}]
        return rakka_sim.run(two_sockets(policy, cluster={"nodes": nodes}, deployment=deployment))

    assert gpus_of(box("topology"), "large") == [("box", (0, 2))]
    assert gpus_of(box("naive"), "large") == [("box", (0, 1))]
    assert tpot_ms(box("naive")) > 1.05 * tpot_ms(box("topology"))


def test_the_wall_clock_places_as_the_virtual_one() -> None:
    """The same actors and the same policy object, on real time; steps last as long as the time model says."""
    quick = two_sockets("topology")
    quick["workload"] = {**quick["workload"], "requests": 3, "lengths": {"kind": "fixed", "prompt": 20, "output": 3}}
    live = rakka_sim.run(quick, mode="emulate", progress=False)
    assert live.summary()["completed"] == 3
    for name in ("small", "large"):
        assert gpus_of(live, name) == gpus_of(rakka_sim.run(quick), name)


def test_a_function_is_a_policy_in_a_scenario_and_in_an_override() -> None:
    def from_the_end(offers: Sequence[Offer], demand: Demand) -> Offer:
        return offers[-1]

    nodes = [{"name": name, "gpu": "L40S", "gpus": 8} for name in ("a", "b")]
    scenario = two_sockets(from_the_end, cluster={"nodes": nodes})
    assert {node for node, _ in gpus_of(rakka_sim.run(scenario), "small")} == {"b", "a"}  # a domain for each
    report = rakka_sim.run(two_sockets("pack", cluster={"nodes": nodes}), overrides={"placement.policy": from_the_end})
    assert gpus_of(report, "large")[0][0] == "b"
    assert report.scenario["placement"]["policy"] == "from_the_end"
    loaded, _ = load_scenario(scenario)
    again, _ = load_scenario(loaded, {"seed": 7})
    assert again.placement.policy is from_the_end
    with pytest.raises(UnknownName, match="topology"):
        rakka_sim.run(two_sockets("best"))


def test_a_workload_for_a_provider_is_refused_before_anything_runs() -> None:
    scenario = two_sockets("topology")
    scenario["deployment"].append({"name": "gpt", "model": "gpt-4o", "runtime_config": {"api_key": "sk-hidden"}})
    scenario["workload"]["deployment"] = "gpt"
    with pytest.raises(NotBuilt, match="remote tier") as refused:
        rakka_sim.run(scenario)
    assert "sk-hidden" not in str(refused.value)


def test_a_key_is_not_in_a_report(tmp_path: Path) -> None:
    nodes = [{"name": "box", "gpu": "L40S", "gpus": 8, "egress": True}]
    scenario = two_sockets("topology", cluster={"nodes": nodes})
    scenario["deployment"].append({"name": "gpt", "model": "gpt-4o", "runtime_config": {"api_key": "sk-hidden"}})
    report = rakka_sim.run(scenario)
    report.save(tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"sk-hidden" in path.read_bytes()]


# --- nodes that fail while they serve ---------------------------------------------------------------------------


def two_nodes(**deployment: Any) -> Serving:
    nodes = [{"name": name, "gpu": "H100", "gpus": 2} for name in ("a", "b")]
    return Serving(cluster={"nodes": nodes}, deployment={"gpus": 2, "replicas": 2, **deployment})


def where(serving: Serving) -> list[tuple[int, str]]:
    (result,) = serving.system.ask(serving.stack.placement, GetPlacements(), 10.0)
    return [(each.replica_index, each.node) for each in result.assignments]


def test_requests_survive_their_node_and_its_replica_comes_back_with_it() -> None:
    serving = two_nodes()
    serving.up()
    ids = [serving.submit(output=50) for _ in range(8)]
    serving.run(0.1)
    serving.system.ask(serving.stack.placement, NodeLost("a"), 10.0)
    serving.run(5.0)
    assert [serving.client.ended[i].outcome for i in ids] == ["stop"] * 8
    assert where(serving) == [(1, "b")]
    status = serving.system.ask(serving.stack.manager, GetDeployment("m"), 10.0)
    assert (status.state, status.ready) == ("serving", 1)
    assert isinstance(status.error, NotEnoughGpus)
    serving.system.ask(serving.stack.placement, NodeReturned("a"), 10.0)
    serving.run(5.0)
    assert where(serving) == [(0, "a"), (1, "b")]
    status = serving.system.ask(serving.stack.manager, GetDeployment("m"), 10.0)
    assert (status.state, status.ready, status.error) == ("serving", 2, None)
    ids = [serving.submit() for _ in range(8)]
    serving.run(5.0)
    assert {serving.client.ended[i].replica for i in ids} == {0, 1}
    serving.log.check()


def test_the_requests_of_a_replica_that_has_moved_count_once_and_where_it_was_then() -> None:
    serving, served = two_nodes(gpus=1), Counter[tuple[Any, ...]]()
    placement = serving.stack.placement

    def serve(count: int) -> None:
        (result,) = serving.system.ask(placement, GetPlacements(), 10.0)
        places = {each.replica_index: (each.node, *each.gpus) for each in result.assignments}
        numbers = [serving.submit() for _ in range(count)]
        serving.run(5.0)
        served.update((i := serving.client.ended[n].replica, *places[i]) for n in numbers)

    serving.up()
    serve(7)
    serving.system.ask(placement, NodeLost("a"), 10.0)
    serving.run(1.0)
    serve(4)
    serving.system.ask(placement, NodeReturned("a"), 10.0)
    serving.system.ask(placement, NodeLost("b"), 10.0)
    serving.run(1.0)
    serve(3)
    found = replicas(serving.log, 1.0)
    counted = {(of["replica"], of["node"], *of["gpus"]): (of["requests"], of["output_tokens"]) for of in found}
    assert len(counted) == len(found) == 4  # replica 0 was on a, on b and on a again
    each = serving.log.request_columns()["output_tokens"][0]
    assert counted == {place: (served[place], served[place] * each) for place in counted}
    assert sum(served.values()) == 14


def test_a_lost_replica_moves_to_where_there_is_room() -> None:
    serving = two_nodes(gpus=1)
    serving.up()
    assert where(serving) == [(0, "a"), (1, "b")]
    serving.system.ask(serving.stack.placement, NodeLost("a"), 10.0)
    serving.run(1.0)
    assert where(serving) == [(0, "b"), (1, "b")]
    ids = [serving.submit() for _ in range(4)]
    serving.run(5.0)
    assert [serving.client.ended[i].outcome for i in ids] == ["stop"] * 4
    serving.log.check()


def test_all_nodes_lost_and_back() -> None:
    serving = two_nodes()
    serving.up()
    for node in ("a", "b"):
        serving.system.ask(serving.stack.placement, NodeLost(node), 10.0)
    serving.run(1.0)
    lost = serving.submit()
    serving.run(60.0)
    assert serving.client.ended[lost].outcome != "stop"
    for node in ("b", "a"):
        serving.system.ask(serving.stack.placement, NodeReturned(node), 10.0)
        serving.run(1.0)
    assert where(serving) == [(0, "b"), (1, "a")]
    served = serving.submit()
    serving.run(5.0)
    assert serving.client.ended[served].outcome == "stop"
    serving.log.check()
