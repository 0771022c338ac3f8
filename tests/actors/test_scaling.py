"""More replicas, fewer, while requests run and engines and nodes fail: none is lost, and no GPU has two masters."""

from __future__ import annotations

from typing import Any

import pytest
from actors.serving import STEP_S, Faults, Serving
from hypothesis import given, settings
from hypothesis import strategies as st

from rakka_sim.config.deployment import Deployment
from rakka_sim.errors import InputError, NoSuitableNodes, NotBuilt, NotEnoughGpus, Unrecoverable
from rakka_sim.messages import Apply, Remove
from rakka_sim.values import TransportKind

GONE = RuntimeError("the engine's process is gone")


def serving_with(replicas: int, nodes: int = 4, **more: Any) -> Serving:
    """So many replicas of "m" that serve, on nodes of one GPU each; GPUs are looked after between any two messages."""
    deployment = {"replicas": replicas, **more.pop("deployment", {})}
    serving = Serving(more.pop("faults", None), deployment=deployment, nodes=nodes, **more)
    serving.up()
    serving.audited = True
    return serving


def on(serving: Serving) -> dict[int, str]:
    """The node of each replica that has GPUs, by the books."""
    return {number: node for node, of in serving.held().items() for (name, number) in of if name == "m"}


# --- more -----------------------------------------------------------------------------------------------------------


def test_more_replicas_start_beside_those_that_serve() -> None:
    serving = serving_with(1, engine={"startup_s": 5.0})
    request = serving.submit(output=20)
    answer = serving.scale(3)
    serving.run(4.9)
    assert not answer.done, "it is told when all are ready"
    assert set(serving.assigned()) == {("m", 0)}
    serving.run(0.2)
    status = answer.result()
    assert (status.state, status.ready, status.wanted, status.error) == ("serving", 3, 3, None)
    assert [each.replica_index for each in status.placement.assignments] == [0, 1, 2]
    assert serving.faults.built == {"n0": 1, "n1": 1, "n2": 1}, "the one that served was left alone"
    for _ in range(3):
        serving.submit()
    serving.finish()
    assert {row["replica"] for row in serving.records()} == {0, 1, 2}
    assert serving.outcome(request) == "stop"
    serving.check_idle()


def test_without_a_place_for_all_nothing_changes() -> None:
    serving = serving_with(2, nodes=3)
    before = serving.status()
    answer = serving.scale(4)
    serving.run(1.0)
    with pytest.raises(NotEnoughGpus):
        answer.result()
    assert serving.status() == before
    assert on(serving) == {0: "n0", 1: "n1"}
    assert serving.faults.built == {"n0": 1, "n1": 1}
    serving.scale(3)
    serving.run(1.0)
    assert serving.status().ready == 3, "the refused wish holds nothing back"


def test_a_model_that_does_not_fit_there_is_said_and_its_gpu_given_back() -> None:
    """A 32B model on a GPU of 80 GB, and more of it where only one of 24 GB is free."""
    nodes = [{"name": "large", "gpu": "H100", "gpus": 1}, {"name": "small", "gpu": "RTX4090", "gpus": 1}]
    serving = Serving(cluster={"nodes": nodes})
    given = {"name": "m", "model": "Qwen3-32B", "runtime_config": {"max_model_len": 1000}}
    large = Deployment.model_validate(given)
    assert serving.apply(large).ready == 1
    status = serving.apply(large.model_copy(update={"replicas": 2}))
    assert (status.state, status.ready, status.wanted, status.given_up) == ("serving", 1, 2, (1,))
    assert isinstance(status.error, InputError)
    serving.run(0.1)
    assert on(serving) == {0: "large"}


# --- fewer ----------------------------------------------------------------------------------------------------------


def test_fewer_are_drained_before_their_gpus_are_anybodys() -> None:
    serving = serving_with(4, deployment={"serving": {"max_concurrent": 1}}, others=({"name": "next"},), nodes=5)
    serving.remove("next")
    for _ in range(8):  # one runs and one waits on each
        serving.submit(output=20)
    serving.run(3.5 * STEP_S)
    answer = serving.scale(1)
    serving.run(STEP_S)
    assert set(serving.assigned()) == {("m", 0)}
    assert on(serving) == {0: "n0", 1: "n1", 2: "n2", 3: "n3"}, "they still run there"
    late = serving.submit(output=1)
    serving.finish()
    serving.run(STEP_S)
    assert serving.outcomes() == ["stop"] * 9
    assert serving.outcome(late) == "stop"
    assert serving.client.ended[late].replica == 0
    status = answer.result()
    assert (status.state, status.ready, status.wanted) == ("serving", 1, 1)
    assert on(serving) == {0: "n0"}
    assert list(serving.engines()) == ["m-0"]
    serving.check_idle()


def test_gpus_come_back_one_by_one_as_their_replicas_are_done() -> None:
    serving = serving_with(3)
    serving.submit(output=1)
    serving.submit(output=10)
    serving.submit(output=30)
    serving.run(0.5 * STEP_S)
    serving.scale(1)
    serving.run(5 * STEP_S)
    assert on(serving) == {0: "n0", 1: "n1", 2: "n2"}
    serving.run(10 * STEP_S)
    assert on(serving) == {0: "n0", 2: "n2"}, "not the highest first, but the first that has nothing left"
    serving.run(20 * STEP_S)
    assert on(serving) == {0: "n0"}
    assert serving.outcomes() == ["stop"] * 3


def test_what_is_given_back_goes_to_who_lacked_it() -> None:
    """A node was lost, and its replica found no place; another deployment makes room."""
    serving = serving_with(1, nodes=3, others=({"name": "other", "replicas": 2},))
    (lost,) = on(serving).values()
    serving.lose(lost)
    serving.run(1.0)
    assert (serving.status().ready, type(serving.status().error)) == (0, NotEnoughGpus)
    serving.scale(1, "other")
    serving.run(1.0)
    status = serving.status()
    assert (status.ready, status.error) == (1, None)
    assert serving.status("other").ready == 1


def test_the_same_number_changes_nothing() -> None:
    serving = serving_with(2)
    before = serving.status()
    answer = serving.scale(2)
    serving.run(0.0)
    assert answer.result() == before == serving.status()
    assert serving.faults.built == {"n0": 1, "n1": 1}


def test_none_is_no_number_of_replicas() -> None:
    serving = serving_with(1)
    with pytest.raises(InputError, match="at least 1; Remove"):
        serving.apply(serving.resized(0))
    assert serving.status().ready == 1


# --- wishes that follow each other ----------------------------------------------------------------------------------


def test_the_last_wish_wins_and_all_who_wished_are_told_of_it() -> None:
    serving = serving_with(1, engine={"startup_s": 1.0})
    answers = [serving.scale(number) for number in (4, 2, 3)]
    serving.run(3.0)
    states = [(answer.result().ready, answer.result().wanted) for answer in answers]
    assert states == [(3, 3)] * 3
    assert sorted(on(serving)) == [0, 1, 2]


def test_a_wish_that_is_refused_does_not_undo_the_one_before() -> None:
    serving = serving_with(1, engine={"startup_s": 1.0})
    accepted, refused = serving.scale(3), serving.scale(5)
    serving.run(0.5)
    with pytest.raises(NotEnoughGpus):
        refused.result()
    assert not accepted.done
    serving.run(1.0)
    assert (accepted.result().ready, accepted.result().wanted) == (3, 3)


@pytest.mark.parametrize("pause_s", [0.0, STEP_S])
def test_who_is_wanted_again_while_it_drains_serves_on(pause_s: float) -> None:
    serving = serving_with(2, engine={"startup_s": 5.0})
    serving.submit(output=1)
    long = serving.submit(output=20)
    serving.run(2.5 * STEP_S)
    fewer = serving.scale(1)
    serving.run(pause_s)
    more = serving.scale(2)
    serving.run(0.1 * STEP_S)
    assert [fewer.result().wanted, more.result().wanted, more.result().ready] == [2, 2, 2]
    assert serving.assigned() == {("m", 0): 0, ("m", 1): 1}, "what it carries still is known again"
    late = [serving.submit(output=3) for _ in range(3)]
    serving.finish()
    assert serving.outcome(long) == "stop"
    took = [serving.client.ended[request].replica for request in late]
    assert (took[0], sorted(took)) == (0, [0, 0, 1]), "the one that carries less first, then both alike"
    assert list(serving.engines()) == ["m-0", "m-1"]
    assert serving.faults.built == {"n0": 1, "n1": 1}
    serving.scale(1)  # and it can be drained again, with all that has been routed to it in both its lives
    serving.run(1.0)
    assert on(serving) == {0: "n0"}
    serving.check_idle()


def test_at_whatever_message_it_is_wanted_again_it_serves_on_or_starts_anew() -> None:
    """A drain from its first message to its end: its engine takes its last step meanwhile, and stops."""
    came_to: dict[tuple[str, ...], int] = {}
    for messages in range(60):
        serving = serving_with(2, engine={"startup_s": STEP_S})
        for output in (1, 4):
            serving.submit(output=output)
        serving.run(2.5 * STEP_S)
        fewer = serving.scale(1)
        for _ in range(messages):
            if serving.system.env.peek() < 10 * STEP_S:
                serving.system.env.step()
        more = serving.scale(2)
        serving.run(1.0)
        late = [serving.submit(), serving.submit()]
        serving.finish()
        assert serving.outcomes() == ["stop"] * 4
        assert (more.result().ready, more.result().wanted, fewer.done) == (2, 2, True)
        assert {serving.client.ended[request].replica for request in late} == {0, 1}
        assert on(serving) == {0: "n0", 1: "n1"}
        serving.check_idle()
        engines = tuple(serving.engines())
        came_to[engines] = came_to.get(engines, 0) + 1
    assert set(came_to) == {("m-0", "m-1"), ("m-0", "m-1.2")}, came_to


def test_who_is_wanted_again_while_it_starts_starts_on() -> None:
    serving = serving_with(1, engine={"startup_s": 5.0})
    serving.scale(2)
    serving.run(1.0)
    answers = [serving.scale(1), serving.scale(2)]
    serving.run(1.0)
    assert not any(answer.done for answer in answers)
    assert set(serving.assigned()) == {("m", 0)}
    serving.run(3.1)
    assert [answer.result().ready for answer in answers] == [2, 2]
    assert serving.faults.built == {"n0": 1, "n1": 1}
    serving.check_idle()


PAUSES = st.sampled_from([0.3 * STEP_S, 2.7 * STEP_S]) | st.integers(0, 12)  # seconds, or so many messages


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(1, 3), PAUSES), min_size=1, max_size=12), st.none() | st.integers(0, 1 << 20))
def test_whatever_is_wanted_and_when_no_request_is_lost(
    wishes: list[tuple[int, float | int]], shuffle: int | None
) -> None:
    serving = serving_with(2, engine={"startup_s": STEP_S}, nodes=3, shuffle_ties=shuffle)
    answers = []
    for wanted, pause in wishes:
        serving.submit(output=6)
        serving.submit(output=2)
        answers.append(serving.scale(wanted))
        if isinstance(pause, float):
            serving.run(pause)
        for _ in range(pause if isinstance(pause, int) else 0):
            if serving.system.env.peek() == serving.system.now:
                serving.system.env.step()
    serving.finish()
    serving.run(1.0)
    assert serving.outcomes() == ["stop"] * (2 * len(wishes))
    assert all(answer.done for answer in answers)
    assert len(on(serving)) == serving.status().ready == wishes[-1][0]
    serving.check_idle()


def test_a_wish_while_it_starts() -> None:
    serving = Serving(nodes=4, engine={"startup_s": 2.0})
    answers = [serving.scale(number) for number in (2, 3)]
    serving.run(1.0)
    answers.append(serving.scale(1))
    assert serving.status().state == "pending"
    serving.run(5.0)
    assert [(each.result().state, each.result().ready) for each in answers] == [("serving", 1)] * 3
    assert on(serving) == {0: "n0"}


def test_a_wish_behind_one_that_finds_no_place_begins_anew() -> None:
    serving = Serving(nodes=2)
    refused, accepted = serving.scale(3), serving.scale(2)
    serving.run(1.0)
    assert (refused.result().state, type(refused.result().error)) == ("failed", NotEnoughGpus)
    assert (accepted.result().state, accepted.result().ready) == ("serving", 2)


@pytest.mark.parametrize("wait_s", [0.0, 0.5])
def test_a_removal_in_the_middle_is_the_end_of_all_wishes(wait_s: float) -> None:
    serving = serving_with(1, engine={"startup_s": 1.0})
    wish = serving.scale(3)
    serving.run(wait_s)
    removed = serving.system.promise("removed")
    serving.system.tell(serving.stack.manager, Remove("m", removed.ref))
    serving.run(3.0)
    assert [each.result().state for each in (wish, removed)] == ["stopped"] * 2
    assert (on(serving), serving.engines()) == ({}, {})
    assert serving.scale(4) is not None
    serving.run(3.0)
    assert serving.status().ready == 4, "all places were given back"


def test_to_apply_what_is_being_removed_brings_it_up_when_it_is_gone() -> None:
    serving = serving_with(2)
    serving.submit(output=20)
    serving.run(2.5 * STEP_S)
    serving.system.tell(serving.stack.manager, Remove("m"))
    again = serving.scale(1)
    serving.run(5 * STEP_S)
    assert (serving.status().state, again.done) == ("draining", False)
    serving.finish()
    serving.run(1.0)
    assert (again.result().state, again.result().ready) == ("serving", 1)
    assert serving.outcomes() == ["stop"]


def test_a_remote_deployment_gets_more_places_and_fewer() -> None:
    nodes = [{"name": "out", "egress": True, "egress_slots": 3}, {"name": "n0", "gpu": "H100", "gpus": 1}]
    serving = Serving(cluster={"nodes": nodes})
    remote = {"name": "far", "model": "gpt-4o", "runtime_config": {"api_key": "sk-hidden"}}
    far = type(serving.scenario.deployment[0]).model_validate(remote)
    assert far.transport is TransportKind.REMOTE_NETWORK
    for wanted, there in ((1, 1), (3, 3), (2, 2)):
        status = serving.apply(far.model_copy(update={"replicas": wanted}))
        assert (status.state, status.ready, len(status.placement.assignments)) == ("pending", 0, there)
    with pytest.raises(NoSuitableNodes, match="no room for another remote replica"):
        serving.apply(far.model_copy(update={"replicas": 4}))
    assert len(serving.status("far").placement.assignments) == 2
    assert serving.remove("far").state == "stopped"
    serving.apply(far)
    with pytest.raises(NotBuilt, match="model"):
        serving.apply(far.model_copy(update={"model": "gpt-4o-mini"}))


# --- faults meanwhile -----------------------------------------------------------------------------------------------


def test_an_engine_that_dies_while_it_drains_is_not_replaced() -> None:
    """Its requests move to who stays, and its GPU is given back."""
    serving = serving_with(2, engine={"runs_of_steps": False})
    for _ in range(2):
        serving.submit(output=20)
    serving.run(2.5 * STEP_S)
    answer = serving.scale(1)
    serving.faults.next["n1"] = GONE
    serving.run(2 * STEP_S)
    assert (answer.result().ready, on(serving)) == (1, {0: "n0"})
    serving.finish()
    assert serving.outcomes() == ["stop"] * 2
    assert serving.faults.built == {"n0": 1, "n1": 1}
    serving.check_idle()


def test_a_node_that_is_lost_while_its_replica_drains_ends_the_drain() -> None:
    serving = serving_with(2)
    for _ in range(2):
        serving.submit(output=20)
    serving.run(2.5 * STEP_S)
    answer = serving.scale(1)
    serving.lose("n1")
    serving.run(STEP_S)
    assert (answer.result().ready, on(serving)) == (1, {0: "n0"})
    serving.finish()
    assert serving.outcomes() == ["stop"] * 2
    serving.check_idle()


def test_a_node_that_is_lost_while_more_are_sought_is_made_up_for() -> None:
    serving = serving_with(1, engine={"startup_s": 1.0})
    answer = serving.scale(3)
    serving.run(0.5)
    serving.lose("n1")
    serving.run(2.0)
    assert (answer.result().ready, sorted(on(serving).values())) == (3, ["n0", "n2", "n3"])


def test_without_room_for_what_was_lost_the_wish_is_answered_as_it_stands() -> None:
    serving = serving_with(1, nodes=3, engine={"startup_s": 1.0})
    answer = serving.scale(3)
    serving.run(0.5)
    serving.lose("n1")
    serving.run(2.0)
    status = answer.result()
    assert (status.state, status.ready, status.wanted) == ("serving", 2, 3)
    assert isinstance(status.error, NotEnoughGpus)
    serving.bring_back("n1")
    serving.run(2.0)
    assert (serving.status().ready, serving.status().error) == (3, None)


def test_of_two_that_were_lost_one_finds_a_place_and_the_other_is_said_to_have_none() -> None:
    nodes = [{"name": "a", "gpu": "H100", "gpus": 2}, {"name": "b", "gpu": "H100", "gpus": 1}]
    serving = Serving(cluster={"nodes": nodes}, deployment={"replicas": 2})
    serving.lose("b")
    serving.up()
    serving.bring_back("b")
    serving.run(1.0)
    assert on(serving) == {0: "a", 1: "a"}
    serving.lose("a")
    serving.run(1.0)
    status = serving.status()
    assert (status.ready, status.wanted, on(serving)) == (1, 2, {0: "b"})
    assert isinstance(status.error, NotEnoughGpus)
    serving.bring_back("a")
    serving.run(1.0)
    assert (serving.status().ready, serving.status().error) == (2, None)


# --- replicas that are given up -------------------------------------------------------------------------------------


def test_one_that_cannot_be_mended_is_given_up_and_the_others_go_on() -> None:
    broken = Unrecoverable("the GPU fell off the bus")
    serving = serving_with(3, faults=Faults({("n1", 1): broken}))
    for _ in range(6):
        serving.submit(output=20)
    serving.finish()
    assert serving.outcomes() == ["stop"] * 6
    status = serving.status()
    assert (status.state, status.ready, status.wanted, status.given_up) == ("serving", 2, 3, (1,))
    assert status.error is broken
    assert on(serving) == {0: "n0", 2: "n2"}, "its GPU is given back"
    assert serving.faults.built == {"n0": 1, "n1": 1, "n2": 1}, "and it is not tried again by itself"
    serving.check_idle()
    assert serving.apply(serving.resized(3)).ready == 3, "it is when somebody asks"
    assert serving.status().error is None


def test_one_that_dies_again_and_again_is_given_up_alone() -> None:
    serving = serving_with(2)
    for _ in range(4):
        serving.faults.next["n1"] = GONE
        for _ in range(2):
            serving.submit(output=1)
        serving.run(2.5 * STEP_S)
    serving.finish()
    status = serving.status()
    assert (status.state, status.ready, status.given_up, status.error) == ("serving", 1, (1,), GONE)
    assert on(serving) == {0: "n0"}
    serving.check_idle()


def test_only_without_any_left_the_deployment_has_failed() -> None:
    broken = [Unrecoverable("first"), Unrecoverable("second")]
    serving = serving_with(2, faults=Faults({("n0", 1): broken[0]}))
    for _ in range(2):
        serving.submit(output=5)
    serving.run(1.0)
    assert (serving.status().state, serving.status().given_up) == ("serving", (0,))
    serving.faults.next["n1"] = broken[1]
    serving.submit(output=5)
    serving.finish()
    assert serving.outcomes() == ["stop", "stop", "server_error"]
    status = serving.status()
    assert (status.state, status.error) == ("failed", broken[1])
    assert (on(serving), serving.engines()) == ({}, {})
    serving.check_idle()


def test_one_that_cannot_start_is_told_to_who_asked_for_it() -> None:
    serving = serving_with(1, faults=Faults(building={("n1", number): GONE for number in range(1, 99)}))
    answer = serving.scale(2)
    serving.run(5.0)
    status = answer.result()
    assert (status.state, status.ready, status.wanted, status.given_up) == ("serving", 1, 2, (1,))
    assert status.error is GONE
    assert on(serving) == {0: "n0"}


# --- whatever happens -----------------------------------------------------------------------------------------------

STEPS = st.one_of(
    st.tuples(st.just("scale"), st.integers(1, 5)),
    st.tuples(st.just("submit"), st.integers(1, 12)),
    st.tuples(st.just("wait"), st.sampled_from([0.0, 0.5 * STEP_S, 3 * STEP_S])),
    st.tuples(st.just("kill"), st.integers(0, 3)),
    st.tuples(st.just("break"), st.integers(0, 3)),
    st.tuples(st.just("lose"), st.integers(0, 3)),
    st.tuples(st.just("bring_back"), st.integers(0, 3)),
    st.tuples(st.just("remove"), st.just(0)),
)


@settings(max_examples=60)
@given(steps=st.lists(STEPS, max_size=15), shuffle=st.none() | st.integers(0, 1 << 20))
def test_every_wish_is_answered_truly_and_gpus_are_what_the_last_one_says(
    steps: list[tuple[str, Any]], shuffle: int | None
) -> None:
    serving = Serving(deployment={"replicas": 2}, nodes=4, engine={"startup_s": 0.03}, shuffle_ties=shuffle)
    serving.audited = True
    answers = [serving.scale(2)]
    for what, how in steps:
        if what == "scale":
            answers.append(serving.scale(how))
        elif what == "submit":
            serving.submit(output=how)
        elif what == "wait":
            serving.run(how)
        elif what in ("kill", "break"):
            serving.faults.next[f"n{how}"] = GONE if what == "kill" else Unrecoverable("broken")
        elif what == "remove":
            answers.append(serving.system.promise("removed"))
            serving.system.tell(serving.stack.manager, Remove("m", answers[-1].ref))
        else:
            getattr(serving, what)(f"n{how}")
    serving.run(20.0)
    serving.check_gpus(still=True)
    serving.finish()
    status = serving.status()
    for answer in answers:
        assert answer.done, "nobody who asked is left without an answer"
    assert sorted(on(serving)) == sorted(each.replica_index for each in getattr(status.placement, "assignments", ()))
    if status.state == "serving":
        held, lacking = set(on(serving)), set(range(status.wanted)) - set(on(serving))
        assert held <= set(range(status.wanted))
        assert (status.ready, len(lacking)) == (len(held), status.wanted - status.ready)
        assert not lacking or status.error is not None, "who is degraded says why"
    elif status.state != "pending":
        assert on(serving) == {}
    serving.faults.next.clear()
    for node in range(4):
        serving.bring_back(f"n{node}")
    serving.run(1.0)
    last = serving.system.ask(serving.stack.manager, Apply(serving.resized(4)), 100.0)
    assert (last.state, last.ready, last.error) == ("serving", 4, None), "no GPU is lost for ever"
    serving.finish()
    serving.check_idle()
