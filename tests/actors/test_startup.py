"""Replicas that load before they serve, through every actor: ready when arithmetic says; who goes frees the links."""

from __future__ import annotations

from typing import Any

import pytest
from actors.serving import Faults, Serving

import rakka_sim
from rakka_sim.config.models import model_spec
from rakka_sim.errors import ContextPoisoned, Unrecoverable
from rakka_sim.messages import Apply, GetDeployment, NodeLost, NodeReturned, Remove
from rakka_sim.runtime.live import LiveRuntime
from rakka_sim.wiring import build

SIZE = model_spec("Qwen3-0.6B").weight_bytes()
FOUR_SECONDS = SIZE / 4 / 1e9  # GB/s
PCIE_S = SIZE / 48e9  # Gen5 x16, as NCCL counts it; an HGX has a switch of that rate above each GPU, too


def nodes(*names: str, **of: Any) -> dict[str, Any]:
    return {"nodes": [{"name": name, "gpu": "H100", "gpus": 2, **of} for name in names]}


def one_node(**of: Any) -> dict[str, Any]:
    return nodes("n0", **{"storage_gb_s": FOUR_SECONDS, **of})


def apply_all(serving: Serving) -> list[Any]:
    """Apply all deployments at once; the promises of their answers."""
    promises = []
    for deployment in serving.scenario.deployment:
        promises.append(serving.system.promise(deployment.name))
        serving.system.tell(serving.stack.manager, Apply(deployment, promises[-1].ref))
    return promises


def ready(serving: Serving) -> dict[tuple[str, int], list[tuple[float, float, float]]]:
    """Every start-up by replica: when it began, had its weights, was ready."""
    of, found = serving.log.startup_columns(), {}
    for place, *times in zip(*(of[name].tolist() for name in ("replica", "began", "loaded", "ready")), strict=True):
        facts = serving.log.replicas[place]
        found.setdefault((facts.deployment, facts.replica), []).append(tuple(times))
    return found


def loading(serving: Serving) -> Any:
    return serving.system.root.children["loader"].actor._loading  # type: ignore[union-attr]


OTHER = {"name": "other", "runtime_config": {"dtype": "float16"}}  # as many bytes, in another file


def test_two_replicas_of_a_model_are_one_read() -> None:
    serving = Serving(deployment={"replicas": 2}, cluster=one_node())
    serving.up()
    assert ready(serving) == {("m", 0): [(0.0, 4.0, 4.0)], ("m", 1): [(0.0, 4.0, 4.0)]}
    assert serving.system.now == 4.0


def test_two_models_share_the_disk() -> None:
    serving = Serving(others=(OTHER,), cluster=one_node())
    for promise in apply_all(serving):
        serving.system.wait(promise)
    assert ready(serving) == {("m", 0): [(0.0, 8.0, 8.0)], ("other", 0): [(0.0, 8.0, 8.0)]}


def test_without_a_cache_each_replica_reads() -> None:
    serving = Serving(deployment={"replicas": 2}, cluster=one_node(host_memory_cache=False))
    serving.up()
    assert [times for (times,) in ready(serving).values()] == [(0.0, 8.0, 8.0)] * 2


def test_who_comes_when_the_files_are_in_memory_waits_for_pcie_alone() -> None:
    serving = Serving(others=({"name": "again"},), cluster=one_node())
    serving.up()  # one deployment after the other
    began, loaded, _ = ready(serving)["again", 0][0]
    assert (began, loaded - began) == (4.0, pytest.approx(PCIE_S))


def test_the_fixed_part_of_a_start_up_comes_on_top() -> None:
    serving = Serving(engine={"startup_s": 3.0}, deployment={"gpus": 2}, cluster=one_node())
    serving.up()
    assert ready(serving) == {("m", 0): [(0.0, 4.0, 7.0)]}


def test_nodes_share_the_store_and_who_is_removed_leaves_it_to_the_other() -> None:
    """Each gets half of the store for 2 s, that is a quarter of the bytes; the one that stays needs 3 s more."""
    both = {**nodes("n0", "n1"), "model_store_gb_s": FOUR_SECONDS}
    serving = Serving(deployment={"gpus": 2}, others=({"name": "other"},), cluster=both)
    _, other = apply_all(serving)
    serving.run(2.0)
    assert len(loading(serving).under_way) == 2
    status = serving.remove("m")
    assert (status.state, serving.system.now) == ("stopped", 2.0)
    assert serving.system.wait(other).state == "serving"
    assert ready(serving) == {("other", 0): [(0.0, 5.0, 5.0)]}
    loading(serving).check()
    assert loading(serving).under_way == ()
    assert serving.apply(serving.scenario.deployment[0]).state == "serving"  # its GPUs are free, and half is in memory


def test_a_node_that_is_lost_frees_the_store_and_comes_back_with_nothing_in_memory() -> None:
    both = {**nodes("n0", "n1"), "model_store_gb_s": FOUR_SECONDS}
    serving = Serving(deployment={"gpus": 2, "replicas": 2}, cluster=both)
    apply_all(serving)
    serving.run(2.0)
    serving.system.ask(serving.stack.placement, NodeLost("n0"), 1.0)
    serving.run(4.0)
    lost = next(number for number in (0, 1) if ("m", number) not in ready(serving))
    assert ready(serving) == {("m", 1 - lost): [(0.0, 5.0, 5.0)]}
    assert loading(serving).under_way == ()
    serving.system.ask(serving.stack.placement, NodeReturned("n0"), 1.0)
    serving.run(4.5)
    assert ready(serving)["m", lost] == [(6.0, 10.0, 10.0)]
    serving.system.ask(serving.stack.placement, NodeLost("n0"), 1.0)  # this time with the weights in its memory
    serving.system.ask(serving.stack.placement, NodeReturned("n0"), 1.0)
    serving.run(5.0)
    assert ready(serving)["m", lost][1:] == [(10.5, 14.5, 14.5)]


def test_a_poisoned_context_loads_again_from_memory() -> None:
    faults = Faults({("n0", 1): ContextPoisoned("sticky")})
    serving = Serving(faults, engine={"startup_s": 1.0}, cluster=one_node())
    serving.up()
    serving.submit()
    serving.finish()
    assert serving.outcomes() == ["stop"]
    first, (began, loaded, over) = ready(serving)["m", 0]
    assert first == (0.0, 4.0, 5.0)
    assert (loaded - began, over - loaded) == (pytest.approx(PCIE_S), pytest.approx(1.0))
    serving.check_idle()


def test_an_engine_that_takes_its_place_loads_from_memory_and_one_that_fails_for_good_leaves_nothing_behind() -> None:
    faults = Faults(building={("n0", 1): RuntimeError("a bug"), ("n0", 2): Unrecoverable("no such kernel")})
    serving = Serving(faults, cluster=one_node())
    status = serving.up()[0]
    assert (status.state, serving.system.now) == ("failed", pytest.approx(4.0 + PCIE_S))
    assert (ready(serving), loading(serving).under_way) == ({}, ())
    loading(serving).check()


def test_removed_while_a_context_is_rebuilt_with_a_request_in_it_the_request_is_served_first() -> None:
    faults = Faults({("n0", 1): ContextPoisoned("sticky")})
    serving = Serving(faults, engine={"startup_s": 1.0}, cluster=one_node())
    serving.up()
    serving.submit()
    serving.run(0.5)
    assert serving.remove().state == "stopped"
    serving.run(0.01)
    assert serving.outcomes() == ["stop"]
    assert not serving.engines()


def test_every_replica_that_loads_can_be_asked_about_and_removed_at_any_time() -> None:
    for seconds in (1e-9, 1.0, 3.999, 4.0, 4.5):
        serving = Serving(engine={"startup_s": 1.0}, deployment={"replicas": 2}, cluster=one_node())
        (up,) = apply_all(serving)
        serving.run(seconds)
        assert serving.system.ask(serving.stack.manager, GetDeployment("m"), 1.0).state == "pending"
        serving.system.tell(serving.stack.manager, Remove("m"))
        assert serving.system.wait(up).state == "stopped"
        assert (serving.system.now, serving.engines()) == (seconds, {})
        assert loading(serving).under_way == ()


@pytest.mark.parametrize(
    ("engine", "cluster"),
    [({}, one_node(storage_gb_s=None)), ({"load_format": "dummy"}, one_node())],
    ids=["no storage described", "random weights"],
)
def test_where_nothing_is_read_nothing_is_waited_for(engine: dict[str, Any], cluster: dict[str, Any]) -> None:
    serving = Serving(engine={"startup_s": 2.0, **engine}, cluster=cluster)
    serving.up()
    assert ready(serving) == {("m", 0): [(0.0, 0.0, 2.0)]}


def test_a_real_launch_loads_for_itself() -> None:
    """It reads real files: a modelled read on top would count them twice."""
    serving = Serving(cluster=one_node())
    system = LiveRuntime(0)
    try:
        build(system, serving.scenario, serving.log, serving._runner, real_launch=True)
        assert "loader" not in system.root.children
    finally:
        system.stop()
    assert "loader" in serving.system.root.children


def test_on_the_wall_clock_too() -> None:
    """Two models from one disk that gives each its weights in 0.1 s alone: no sooner than 0.2 s together."""
    rate = SIZE / 0.1 / 1e9
    scenario = {
        "cluster": one_node(storage_gb_s=rate),
        "deployment": [
            {"name": "a", "model": "Qwen3-0.6B"},
            {"name": "b", "model": "Qwen3-0.6B", "runtime_config": {"dtype": "float16"}},
        ],
        "workload": {
            "requests": 4,
            "arrivals": {"kind": "poisson", "rate": 100.0},
            "lengths": {"kind": "fixed", "prompt": 5, "output": 2},
        },
    }
    report = rakka_sim.run(scenario, mode="emulate", progress=False)
    assert report.summary()["completed"] == 4
    for of in report.summary()["replicas"]:
        assert of["startup_s"] >= of["loading_s"] >= 0.15
