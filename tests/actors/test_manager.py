"""The deployment manager: up, down, replaced, failed; and a drain that loses nothing, whatever is on its way."""

from __future__ import annotations

from typing import Any

import pytest
from actors.serving import STEP_S, Faults, Serving
from hypothesis import given, settings
from hypothesis import strategies as st

from rakka_sim.config.deployment import Deployment
from rakka_sim.errors import InputError, NotBuilt, NotEnoughGpus, NotFound, Unrecoverable
from rakka_sim.messages import Apply, DeploymentStatus, GetDeployment, ListDeployments, Remove

GONE = RuntimeError("the engine's process is gone")


def states(serving: Serving) -> dict[str, str]:
    every: tuple[DeploymentStatus, ...] = serving.system.ask(serving.stack.manager, ListDeployments(), 1.0)
    return {status.name: status.state for status in every}


def changed(deployment: Deployment, **fields: Any) -> Deployment:
    return Deployment.model_validate({**deployment.model_dump(exclude_unset=True), **fields})


# --- up -------------------------------------------------------------------------------------------------------------


def test_it_serves_when_every_replica_does() -> None:
    serving = Serving(deployment={"replicas": 3}, engine={"startup_s": 7.0})
    answer = serving.system.promise("applied")
    serving.system.tell(serving.stack.manager, Apply(serving.scenario.deployment[0], answer.ref))
    serving.run(6.9)
    assert states(serving) == {"m": "pending"}
    status = serving.system.wait(answer)
    assert (status.state, status.ready, serving.system.now) == ("serving", 3, 7.0)
    assert [assignment.node for assignment in status.placement.assignments] == ["n0", "n1", "n2"]
    assert serving.system.ask(serving.stack.manager, GetDeployment("m"), 1.0) == status


def test_to_apply_it_again_waits_for_the_same_and_starts_nothing() -> None:
    serving = Serving(engine={"startup_s": 7.0})
    first = serving.system.promise("applied")
    serving.system.tell(serving.stack.manager, Apply(serving.scenario.deployment[0], first.ref))
    assert serving.up()[0].state == "serving"
    assert serving.system.wait(first).state == "serving"
    assert serving.up()[0].state == "serving"
    assert list(serving.engines()) == ["m-0"]
    assert serving.faults.built == {"n0": 1}


def test_another_deployment_of_a_name_that_is_up_is_refused_by_its_fields() -> None:
    """Not taken for the one that is up, as if it had been carried out."""
    serving = Serving(nodes=4)
    serving.up()
    other = changed(serving.scenario.deployment[0], replicas=2, idempotent=False, serving={"max_concurrent": 7})
    with pytest.raises(NotBuilt, match=r"in place \(m: serving, idempotent\).*only replicas can be changed"):
        serving.apply(other)
    assert (serving.status().state, serving.status().wanted) == ("serving", 1)
    serving.remove()
    assert serving.apply(other).ready == 2


def test_what_has_no_place_has_failed_and_says_why() -> None:
    serving = Serving(deployment={"replicas": 3}, nodes=2)
    status = serving.up()[0]
    assert status.state == "failed"
    assert isinstance(status.error, NotEnoughGpus)
    again = serving.apply(changed(serving.scenario.deployment[0], replicas=2))
    assert (again.state, again.ready) == ("serving", 2)


def test_a_model_that_does_not_fit_fails_its_deployment_and_no_other() -> None:
    serving = Serving(nodes=2)
    serving.up()
    big = Deployment.model_validate({"name": "big", "model": "meta-llama/Llama-3.1-70B"})
    status = serving.apply(big)
    assert status.state == "failed"
    assert isinstance(status.error, InputError)
    assert "70B" in str(status.error)
    assert serving.apply(changed(serving.scenario.deployment[0], name="other")).state == "serving"
    assert states(serving) == {"m": "serving", "big": "failed", "other": "serving"}
    serving.submit()
    serving.finish()
    serving.check_idle()


def test_nobody_knows_what_was_never_applied() -> None:
    serving = Serving()
    for question in (GetDeployment("x"), Remove("x")):
        with pytest.raises(NotFound):
            serving.system.ask(serving.stack.manager, question, 1.0)
    assert states(serving) == {}


# --- down -----------------------------------------------------------------------------------------------------------


def test_a_drain_loses_nothing() -> None:
    """Running and queued requests finish, and only then the engines stop; the GPUs are free for the next one."""
    serving = Serving(deployment={"replicas": 2, "serving": {"max_concurrent": 2}})
    serving.up()
    for _ in range(8):
        serving.submit(output=20)
    serving.run(3.5 * STEP_S)
    assert serving.remove().state == "stopped"
    assert serving.system.now == pytest.approx(40 * STEP_S)
    assert serving.outcomes() == ["stop"] * 8
    assert serving.engines() == {}
    assert serving.faults.built == {"n0": 1, "n1": 1}
    late = serving.submit()
    serving.finish()
    assert serving.outcome(late) == "server_error"
    serving.check_idle()
    assert serving.up()[0].state == "serving"
    serving.submit()
    serving.finish()
    serving.check_idle()


@given(
    submits=st.integers(0, 6),
    shuffle=st.integers(0, 1 << 20),
    overhead_us=st.sampled_from([0.0, 500.0]),
    cancels=st.sets(st.integers(1, 6)),
)
def test_what_was_routed_before_the_drain_is_served(
    submits: int, shuffle: int, overhead_us: float, cancels: set[int]
) -> None:
    """Arrivals, cancels and the removal at one instant, in any order: whoever was routed is served, the rest is told
    503 or cancelled; the removal ends, and nobody is left behind."""
    serving = Serving(deployment={"replicas": 2}, engine={"frontend_overhead_us": overhead_us}, shuffle_ties=shuffle)
    serving.up()
    for _ in range(submits):
        serving.submit(output=3)
    for request in cancels:
        serving.cancel(request)
    if overhead_us:
        serving.run(overhead_us * 1e-6)
    assert serving.remove().state == "stopped"
    serving.finish()
    for row in serving.records():
        if row["request_id"] not in cancels:
            assert row["outcome"] == ("stop" if row["replica"] >= 0 else "server_error")
    serving.check_idle()


def test_a_removal_while_the_place_is_looked_for_leaves_no_engine() -> None:
    serving = Serving(engine={"startup_s": 1.0})
    answers = [serving.system.promise(name) for name in ("applied", "removed")]
    serving.system.tell(serving.stack.manager, Apply(serving.scenario.deployment[0], answers[0].ref))
    serving.system.tell(serving.stack.manager, Remove("m", answers[1].ref))
    assert [serving.system.wait(answer).state for answer in answers] == ["stopped", "stopped"]
    serving.run(10.0)
    assert serving.engines() == {}
    assert serving.up()[0].state == "serving", "its GPU was given back"


def test_a_removal_of_what_has_no_place_is_answered_too() -> None:
    serving = Serving(deployment={"replicas": 2}, nodes=1)
    serving.system.tell(serving.stack.manager, Apply(serving.scenario.deployment[0]))
    assert serving.remove().state == "stopped"
    serving.run(1.0)
    assert states(serving) == {"m": "stopped"}


def test_a_removal_while_it_starts_waits_for_its_engines() -> None:
    serving = Serving(deployment={"replicas": 2}, engine={"startup_s": 3.0})
    serving.system.tell(serving.stack.manager, Apply(serving.scenario.deployment[0]))
    serving.run(1.0)
    assert serving.remove().state == "stopped"
    assert serving.engines() == {}
    assert serving.assigned() == {}


def test_who_asks_for_a_removal_under_way_is_answered_with_it() -> None:
    serving = Serving()
    serving.up()
    serving.submit(output=20)
    serving.run(2.5 * STEP_S)
    first = serving.system.promise("first")
    serving.system.tell(serving.stack.manager, Remove("m", first.ref))
    assert serving.remove().state == "stopped"
    assert serving.system.wait(first).state == "stopped"
    assert serving.outcomes() == ["stop"]
    assert serving.remove().state == "stopped"


def test_an_engine_that_dies_in_the_drain_ends_it() -> None:
    serving = Serving(engine={"runs_of_steps": False})
    serving.up()
    serving.submit(output=20)
    serving.run(2.5 * STEP_S)
    serving.faults.next["n0"] = GONE
    assert serving.remove().state == "stopped"
    serving.finish()
    assert serving.outcomes() == ["server_error"]
    assert serving.engines() == {}
    serving.check_idle()


# --- faults ---------------------------------------------------------------------------------------------------------


def kill(serving: Serving, node: str = "n0") -> None:
    """Have the engine on a node die of its next request, which goes on wherever it can."""
    serving.faults.next[node] = GONE
    serving.submit(output=1)
    serving.run(STEP_S * 2.5)


def test_a_dead_engine_is_replaced_on_its_gpus() -> None:
    serving = Serving(deployment={"replicas": 2}, engine={"startup_s": 5.0})
    serving.up()
    kill(serving)
    assert list(serving.engines()) == ["m-1", "m-0.2"]
    assert set(serving.assigned()) == {("m", 1)}, "it is not routed to before it is ready"
    serving.run(6.0)
    assert set(serving.assigned()) == {("m", 0), ("m", 1)}
    assert serving.faults.built == {"n0": 2, "n1": 1}
    assert states(serving) == {"m": "serving"}
    serving.finish()
    assert serving.outcomes() == ["stop"], "the other replica took it over"
    serving.check_idle()


@pytest.mark.parametrize("apart_s", [0.0, 19.9])
def test_three_replacements_in_a_minute_and_the_fourth_is_the_deployments_end(apart_s: float) -> None:
    serving = Serving()
    serving.up()
    for _ in range(3):
        kill(serving)
        serving.run(apart_s or STEP_S)
        assert states(serving) == {"m": "serving"}
    kill(serving)
    status: DeploymentStatus = serving.system.ask(serving.stack.manager, GetDeployment("m"), 1.0)
    assert (status.state, status.ready) == ("failed", 0)
    assert status.error is GONE
    assert serving.engines() == {}
    assert serving.faults.built == {"n0": 4}
    serving.finish()
    assert serving.up()[0].state == "serving", "it may be applied again: its GPUs were released"


def test_replacements_further_apart_do_not_add_up() -> None:
    serving = Serving()
    serving.up()
    for _ in range(12):
        kill(serving)
        serving.run(20.1)
    assert states(serving) == {"m": "serving"}
    assert serving.faults.built == {"n0": 13}


def test_what_no_restart_can_mend_is_not_tried_again() -> None:
    serving = Serving(Faults({("n0", 1): Unrecoverable("the GPU fell off the bus")}))
    serving.up()
    serving.submit()
    serving.finish()
    assert serving.outcomes() == ["server_error"]
    assert states(serving) == {"m": "failed"}
    assert serving.faults.built == {"n0": 1}
    serving.check_idle()


def test_a_failed_deployment_gives_its_requests_an_end() -> None:
    """When no replica is left: whoever was there or waits is told, and who comes after that too."""
    gone = {(node, 1): Unrecoverable("gone") for node in ("n0", "n1", "n2")}
    serving = Serving(Faults(gone), deployment={"replicas": 3})
    serving.up()
    for _ in range(9):
        serving.submit(output=50)
    serving.run(3 * STEP_S)
    serving.submit()
    serving.finish()
    assert serving.outcomes() == ["server_error"] * 10
    assert states(serving) == {"m": "failed"}
    serving.check_idle()


def test_the_fault_of_one_deployment_is_not_the_others() -> None:
    serving = Serving(Faults({("n0", 1): Unrecoverable("gone")}), others=({"name": "other"},))
    serving.up()
    serving.submit()
    serving.submit(model="other", output=20)
    serving.finish()
    assert serving.outcomes() == ["server_error", "stop"]
    assert states(serving) == {"m": "failed", "other": "serving"}
    serving.check_idle()


@settings(max_examples=30)
@given(st.lists(st.sampled_from(["apply", "remove", "kill", "pause"]), max_size=12), st.integers(0, 1 << 20))
def test_whatever_is_asked_of_it_the_gpus_come_back(wishes: list[str], shuffle: int) -> None:
    serving = Serving(deployment={"replicas": 2}, engine={"startup_s": 0.05}, shuffle_ties=shuffle)
    for wish in wishes:
        if wish == "apply":
            serving.system.tell(serving.stack.manager, Apply(serving.scenario.deployment[0]))
        elif wish == "remove":
            serving.system.tell(serving.stack.manager, Remove("m"))
        elif wish == "kill":
            serving.faults.next["n0"] = GONE
            serving.submit()
        else:
            serving.run(0.04)
    serving.run(100.0)
    if states(serving):
        assert serving.remove().state in ("stopped", "failed")
    serving.finish()
    serving.check_idle()
    assert serving.engines() == {}
    serving.faults.next.clear()
    assert serving.up()[0].ready == 2
