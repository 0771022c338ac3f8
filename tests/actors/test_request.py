"""One request's life: cancels and deadlines at any moment, full engines, engines that die, and exactly one end."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from actors.serving import STEP_S, Faults, Serving

from rakka_sim.actors.gateway import ApiGateway
from rakka_sim.actors.metrics import Metrics
from rakka_sim.actors.request import MAX_ROUTES, ROUTE_TIMEOUT_S
from rakka_sim.errors import Backpressure, ServerError, Timeout, Unrecoverable
from rakka_sim.messages import AddRequest, Cancel, Rejected, Routed, RouteFailed, RouteTo, Submit, Withdrawn
from rakka_sim.runtime.api import Actor, Context
from rakka_sim.values import ExecuteBatch

WHEN = {
    "with its arrival": 0.0,
    "in its prefill": 0.5 * STEP_S,
    "at a step's end": STEP_S,
    "in decode": 2.5 * STEP_S,
    "at its last token": 5 * STEP_S,
    "after its end": 6 * STEP_S,
}


@pytest.mark.parametrize("at", WHEN.values(), ids=WHEN.keys())
def test_a_cancel_ends_it_within_a_step(at: float) -> None:
    serving = Serving()
    serving.up()
    request = serving.submit(output=5)
    if at:
        serving.run(at)
    serving.cancel(request)
    serving.finish()
    assert serving.outcome(request) == ("stop" if at > 5.5 * STEP_S else "cancelled")
    assert serving.client.ended_at[request] <= at + STEP_S + 1e-9
    assert len(serving.client.times(request)) <= at / STEP_S + 1e-9
    serving.check_idle()


@pytest.mark.parametrize("overhead_us", [0.0, 1000.0])
@pytest.mark.parametrize("steps", [0.0, 0.5, 1.0, 2.5, 4.0])
def test_a_deadline_ends_it_within_a_step(steps: float, overhead_us: float) -> None:
    serving = Serving(engine={"frontend_overhead_us": overhead_us})
    serving.up()
    request = serving.submit(output=50, timeout_s=steps * STEP_S)
    serving.finish()
    ended = serving.client.ended[request]
    assert isinstance(ended.error, Timeout)
    assert ended.error.elapsed == pytest.approx(steps * STEP_S)
    assert serving.client.ended_at[request] <= (steps + 1) * STEP_S + 1e-9
    serving.check_idle()


def test_a_deadline_in_the_queue_ends_it_there() -> None:
    """It is never started, and whoever waits behind it moves up."""
    serving = Serving(deployment={"serving": {"max_concurrent": 1}})
    serving.up()
    first, late, next_ = serving.submit(output=20), serving.submit(timeout_s=5 * STEP_S), serving.submit(output=2)
    serving.finish()
    assert serving.outcomes() == ["stop", "timeout", "stop"]
    assert serving.client.ended_at[late] == pytest.approx(5 * STEP_S)
    assert str(serving.records()[late - 1]["scheduled"]) == "nan"
    assert serving.client.times(next_)[0] == pytest.approx(serving.client.ended_at[first] + STEP_S)
    serving.check_idle()


def test_who_cancels_before_the_deadline_is_cancelled_and_nothing_else() -> None:
    serving = Serving()
    serving.up()
    request = serving.submit(output=50, timeout_s=2.5 * STEP_S)
    serving.run(2.2 * STEP_S)
    serving.cancel(request)
    serving.finish()
    assert serving.outcome(request) == "cancelled"


# --- a full engine --------------------------------------------------------------------------------------------------


def full(policy: str, **more: Any) -> dict[str, Any]:
    return {"serving": {"max_concurrent": 2, "on_capacity_exhausted": policy, **more}}


def test_reject_refuses_the_one_too_many() -> None:
    serving = Serving(deployment=full("reject"))
    serving.up()
    for _ in range(3):
        serving.submit()
    serving.finish()
    assert serving.outcomes() == ["stop", "stop", "backpressure"]
    error = serving.client.ended[3].error
    assert isinstance(error, Backpressure)
    assert error.deployment == "m"
    assert serving.client.ended_at[3] == 0.0
    assert serving.records()[2]["replica"] == -1, "no replica took it"
    serving.check_idle()


def test_queue_keeps_order_and_refuses_only_beyond_its_capacity() -> None:
    serving = Serving(deployment=full("queue", queue_capacity=3))
    serving.up()
    for _ in range(6):
        serving.submit(output=4)
    serving.finish()
    assert serving.outcomes() == ["stop"] * 5 + ["backpressure"]
    firsts = [serving.client.times(request)[0] for request in range(1, 6)]
    assert firsts == pytest.approx([STEP_S, STEP_S, 5 * STEP_S, 5 * STEP_S, 9 * STEP_S])
    serving.check_idle()


OTHER = {"name": "spare", "serving": {"max_concurrent": 1, "on_capacity_exhausted": "reject"}}


def test_fallback_goes_to_the_other_deployment_and_no_further() -> None:
    serving = Serving(deployment=full("fallback", fallback="spare"), others=(dict(OTHER),))
    serving.up()
    for _ in range(4):
        serving.submit()
    serving.finish()
    assert serving.outcomes() == ["stop", "stop", "stop", "backpressure"]
    assert [row["deployment"] for row in serving.records()] == ["m", "m", "spare", "spare"]
    assert serving.counters()["spare"].succeeded == 1
    serving.check_idle()


def test_a_fallback_that_nobody_serves_is_503_and_no_replicas() -> None:
    serving = Serving(deployment=full("fallback", fallback="spare"), others=(dict(OTHER),))
    serving.apply(serving.scenario.deployment[0])
    for _ in range(3):
        serving.submit()
    serving.finish()
    assert serving.outcomes() == ["stop", "stop", "server_error"]
    assert (serving.records()[2]["deployment"], serving.records()[2]["replica"]) == ("spare", -1)
    serving.check_idle()


# --- an engine dies -------------------------------------------------------------------------------------------------


def test_a_request_survives_its_engine_with_its_tokens() -> None:
    """Nothing comes twice: 40 tokens in all, and the record of the whole is one."""
    serving = Serving(deployment={"replicas": 2}, engine={"runs_of_steps": False})
    serving.up()
    requests = [serving.submit(output=40) for _ in range(4)]
    serving.run(10.5 * STEP_S)
    serving.faults.next["n0"] = RuntimeError("the engine's process is gone")
    serving.finish()
    assert serving.outcomes() == ["stop"] * 4
    moved = [row for row in serving.records() if serving.client.times(row["request_id"])[-1] > 40.5 * STEP_S]
    assert len(moved) == 2
    for request in requests:
        assert len(serving.client.times(request)) == 40
    for row in moved:
        gaps = [b - a for a, b in zip(*(serving.client.times(row["request_id"])[i:] for i in (0, 1)), strict=False)]
        assert sorted(gaps)[-1] == pytest.approx(2 * STEP_S), "the step that failed is lost, and nothing else"
        assert row["scheduled"] == 0.0
    serving.check_idle()


def test_what_is_not_idempotent_is_not_tried_again() -> None:
    serving = Serving(deployment={"replicas": 2, "idempotent": False}, engine={"runs_of_steps": False})
    serving.up()
    for _ in range(2):
        serving.submit(output=20)
    serving.run(5.5 * STEP_S)
    serving.faults.next["n0"] = RuntimeError("gone")
    serving.finish()
    assert sorted(serving.outcomes()) == ["server_error", "stop"]
    serving.check_idle()


def test_four_engines_may_die_under_a_request_and_no_fifth_is_tried() -> None:
    faults = Faults({(f"n{i}", 1): RuntimeError("gone") for i in range(8)})
    serving = Serving(faults, deployment={"replicas": 8})
    serving.up()
    request = serving.submit()
    serving.finish()
    error = serving.client.ended[request].error
    assert isinstance(error, ServerError)
    assert error.status == 500
    assert sum(faults.passes.values()) == MAX_ROUTES
    serving.check_idle()


def test_a_cancel_as_its_engine_dies_ends_it_once() -> None:
    serving = Serving(deployment={"replicas": 2}, engine={"runs_of_steps": False})
    serving.up()
    request = serving.submit(output=20)
    serving.run(5.5 * STEP_S)
    serving.faults.next["n0"] = Unrecoverable("gone")
    serving.run(STEP_S)
    serving.cancel(request)
    serving.finish()
    assert serving.outcome(request) == "cancelled"
    serving.check_idle()


# --- routes ---------------------------------------------------------------------------------------------------------


class SlowCoordinator(Actor):
    """Answers after a while, or never; what engine it names is the test's."""

    def __init__(self, answer: object, after_s: float | None) -> None:
        self._answer, self._after_s = answer, after_s
        self._asked: list[RouteTo] = []

    def receive(self, ctx: Context, msg: Any) -> None:
        if isinstance(msg, RouteTo):
            self._asked.append(msg)
            if self._after_s is not None:
                ctx.after(self._after_s, "now")
        else:
            ctx.tell(self._asked.pop(0).reply_to, self._answer)


class Inbox(Actor):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.got: list[Any] = []

    def receive(self, ctx: Context, msg: Any) -> None:
        self.got.append(msg)


def slowly(after_s: float | None, answer: object = None) -> tuple[Serving, Inbox]:
    """A gateway of its own, before a coordinator that takes its time; the engine is only an inbox."""
    serving, engine = Serving(), Inbox()
    ref = serving.system.spawn("engine", lambda: engine)
    coordinator = serving.system.spawn("slow", lambda: SlowCoordinator(answer or Routed("m", 0, ref), after_s))
    metrics = serving.system.spawn("other-metrics", Metrics)
    deployments = {"m": serving.scenario.deployment[0]}
    serving.stack.gateway = serving.system.spawn(
        "other-gateway", lambda: ApiGateway(deployments, coordinator, metrics, serving.log)
    )
    return serving, engine


@pytest.mark.parametrize("after_s", [None, 3.0], ids=["never", "too late"])
def test_a_route_that_does_not_come_is_503_after_two_seconds(after_s: float | None) -> None:
    serving, engine = slowly(after_s)
    request = serving.submit()
    serving.run(10.0)
    error = serving.client.ended[request].error
    assert isinstance(error, ServerError)
    assert error.status == 503
    assert serving.client.ended_at[request] == ROUTE_TIMEOUT_S
    # Whoever was routed is waited for, so that the coordinator's count of what is on its way comes right.
    assert [type(msg) for msg in engine.got] == ([] if after_s is None else [Withdrawn])


@pytest.mark.parametrize("answer", [None, RouteFailed(ServerError(status=503))], ids=["routed", "no route"])
def test_a_cancel_while_it_is_routed_is_heard_at_once(answer: object) -> None:
    serving, engine = slowly(1.0, answer)
    request = serving.submit()
    serving.run(0.5)
    serving.cancel(request)
    serving.run(0.1)
    assert (serving.outcome(request), serving.client.ended_at[request]) == ("cancelled", 0.5)
    serving.cancel(request)
    serving.run(5.0)
    assert [type(msg) for msg in engine.got] == ([Withdrawn] if answer is None else [])
    assert not serving.stack.gateway.cell.children, "its actor has stopped"  # type: ignore[attr-defined]


def test_a_cancel_with_the_arrival_leaves_no_load_behind() -> None:
    """The route comes when the request has gone already: the replica must not count as busier for ever."""
    serving = Serving(deployment={"replicas": 2})
    serving.up()
    for _ in range(3):
        serving.cancel(serving.submit())
    serving.finish()
    assert serving.outcomes() == ["cancelled"] * 3
    serving.check_idle()


def test_who_is_cancelled_does_not_fall_back() -> None:
    """Refused by a full engine and cancelled at the same time: it ends, and no other engine begins it."""
    serving, engine = slowly(0.0)
    spare = {**serving.scenario.deployment[0].model_dump(), **full("fallback", fallback="m")}
    deployments = {"m": type(serving.scenario.deployment[0]).model_validate(spare)}
    gateway = serving.stack.gateway.cell.actor  # type: ignore[attr-defined]
    gateway._deployments = deployments
    request = serving.submit()
    serving.run(0.1)
    serving.cancel(request)
    serving.run(0.1)
    assert [type(msg) for msg in engine.got] == [AddRequest, Cancel]
    serving.system.tell(engine.got[0].reply_to, Rejected(request, Backpressure("m")))
    serving.run(1.0)
    assert serving.outcome(request) == "cancelled"
    assert len(engine.got) == 2


def test_requests_outlive_a_client_that_went_away() -> None:
    """The client's actor has stopped: what it would have been told is a dead letter, the rest goes on."""
    serving = Serving()
    serving.up()
    gone = serving.system.promise("gone")
    serving.system.tell(serving.stack.gateway, Submit(ExecuteBatch(900, "m", 5, 5, ((1, 5),)), gone.ref))
    request = serving.submit()
    serving.finish()
    assert serving.outcome(request) == "stop"


# --- its only engine dies ---------------------------------------------------------------------------------------------


def alone(startup_s: float = 5.0, *, faults: Faults | None = None, **settings: Any) -> Serving:
    """One replica that takes `startup_s` to start, and a request of 20 tokens that has some of them."""
    deployment = {"serving": settings}
    serving = Serving(faults, deployment=deployment, engine={"startup_s": startup_s, "runs_of_steps": False})
    serving.up()
    serving.submit(output=20)
    serving.run(5.5 * STEP_S)
    return serving


def dies(serving: Serving) -> float:
    """The engine dies at the end of its next step; when."""
    serving.faults.next["n0"] = RuntimeError("gone")
    serving.run(2 * STEP_S)
    return serving.system.now


def parked(serving: Serving) -> dict[str, Any]:
    waiting: dict[str, Any] = serving.stack.coordinator.cell.actor._parked  # type: ignore[attr-defined]
    return waiting


def test_it_waits_for_the_engine_that_takes_the_place_of_its_own() -> None:
    serving = alone()
    at = dies(serving)
    late = serving.submit(output=3)
    serving.finish()
    assert serving.outcomes() == ["stop", "stop"]
    times = serving.client.times(1)
    assert len(times) == 20, "none twice, none left out"
    assert max(b - a for a, b in itertools.pairwise(times)) == pytest.approx(5.0 + 2 * STEP_S)
    assert serving.client.times(late)[0] in times, "they go on together"
    assert serving.system.now > at + 4.9
    serving.check_idle()


@pytest.mark.parametrize("patience_s", [0.0, 3.0])
def test_it_waits_no_longer_than_its_deployment_says(patience_s: float) -> None:
    serving = alone(replica_wait_s=patience_s)
    died = dies(serving) - 0.5 * STEP_S
    serving.run(10.0)
    error = serving.client.ended[1].error
    assert isinstance(error, ServerError)
    assert error.status == 503
    assert serving.client.ended_at[1] == pytest.approx(died + patience_s, abs=STEP_S)
    assert not parked(serving)
    serving.check_idle()


@pytest.mark.parametrize("how", ["timeout", "cancelled"])
def test_a_deadline_and_a_cancel_are_heard_while_it_waits(how: str) -> None:
    serving = alone()
    dies(serving)
    at = serving.system.now
    late = serving.submit(timeout_s=1.0 if how == "timeout" else None)
    serving.run(0.5)
    assert len(parked(serving)["m"]) == 2
    if how == "cancelled":
        serving.cancel(late)
    serving.run(1.0)
    assert (serving.outcome(late), serving.client.ended_at[late] - at) == (
        how,
        pytest.approx(1.0 if how == "timeout" else 0.5),
    )
    assert len(parked(serving)["m"]) == 1, "its place is free"
    serving.finish()
    serving.check_idle()


def test_a_cancel_at_the_instant_at_which_it_begins_to_wait() -> None:
    serving = alone()
    dies(serving)
    late = serving.submit()
    serving.cancel(late)
    serving.run(STEP_S)
    assert serving.outcome(late) == "cancelled"
    assert list(parked(serving)["m"]) == [1], "it does not wait for a replica that it has no use for"
    serving.finish()
    assert not parked(serving)
    serving.check_idle()


def test_as_many_may_wait_as_the_replicas_would_take() -> None:
    serving = alone(max_concurrent=2, on_capacity_exhausted="queue", queue_capacity=1)
    dies(serving)
    more = [serving.submit(output=2) for _ in range(3)]
    serving.finish()
    assert [serving.outcome(request) for request in (1, *more)] == ["stop", "stop", "stop", "backpressure"]
    serving.check_idle()


def test_where_no_more_may_wait_it_falls_back() -> None:
    serving = Serving(
        deployment=full("fallback", fallback="spare"), others=(dict(OTHER),), engine={"startup_s": 5.0}, nodes=2
    )
    serving.up()
    serving.faults.next["n0"] = RuntimeError("gone")
    first = serving.submit(output=2)
    serving.run(2 * STEP_S)
    second, third = serving.submit(output=2), serving.submit(output=2)
    serving.finish()
    rows = {row["request_id"]: (row["deployment"], row["outcome"]) for row in serving.records()}
    assert rows == {first: ("m", "stop"), second: ("m", "stop"), third: ("spare", "stop")}
    assert serving.client.ended_at[third] < serving.client.ended_at[first] - 4.9
    serving.check_idle()


def test_who_waits_for_an_engine_that_never_comes_is_told_when_that_is_known() -> None:
    building = {("n0", number): RuntimeError("no") for number in range(2, 99)}
    serving = alone(1.0, faults=Faults(building=building))
    dies(serving)
    serving.finish()
    assert serving.outcomes() == ["server_error"]
    assert serving.status().state == "failed"
    assert not parked(serving)
    serving.check_idle()


def test_a_removal_ends_the_waiting() -> None:
    serving = alone()
    dies(serving)
    assert serving.remove().state == "stopped"
    serving.finish()
    assert serving.outcomes() == ["server_error"]
    assert serving.client.ended_at[1] < 5.2
    serving.check_idle()
