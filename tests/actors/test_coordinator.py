"""The coordinator: lowest load wins, what is on its way is load, and a dead engine is never routed to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from actors.serving import STEP_S, Serving
from hypothesis import given
from hypothesis import strategies as st

from rakka_sim.actors.coordinator import DpCoordinator
from rakka_sim.core.routing import POLICIES, RouteHint, make_policy
from rakka_sim.errors import Backpressure, InputError, ServerError
from rakka_sim.messages import (
    Deregister,
    Deregistered,
    Expect,
    LeaveRoom,
    Parked,
    Register,
    ReportLoad,
    Routed,
    RouteFailed,
    RouteTo,
)
from rakka_sim.runtime.api import Actor, Context
from rakka_sim.runtime.sim import SimRuntime
from rakka_sim.values import Load


class Idle(Actor):
    """An engine's address, and no engine."""

    def receive(self, ctx: Context, msg: Any) -> None:
        if msg == "stop":
            ctx.stop()
        elif msg == "fail":
            raise ServerError()


class Owner(Actor):
    """Starts the engines that it is told to."""

    def receive(self, ctx: Context, msg: Any) -> None:
        ctx.spawn(msg, Idle)


class Alone:
    """A coordinator with engines that only exist."""

    def __init__(self, policy: Any = "least_load", replicas: int = 3) -> None:
        self.system = SimRuntime()
        self.coordinator = self.system.spawn("coordinator", lambda: DpCoordinator(lambda: make_policy(policy)))
        self.engines = [self.system.spawn(f"engine-{n}", Idle) for n in range(replicas)]
        for n in range(replicas):
            self.register(n)

    def register(self, replica: int) -> None:
        self.tell(Register("m", replica, self.engines[replica], 8))

    def tell(self, msg: Any) -> None:
        self.system.tell(self.coordinator, msg)

    def settle(self) -> None:
        self.system.env.run(until=self.system.now + 0.001)

    def route(self, deployment: str = "m") -> Any:
        answer = self.system.promise("route")
        self.tell(RouteTo(1, deployment, 10, 0, ((1, 10),), answer.ref))
        return self.system.wait(answer)

    def report(self, replica: int, outstanding: int, received: int) -> None:
        self.tell(ReportLoad("m", replica, Load(running=outstanding, capacity=8), received))

    def stop(self, replica: int, how: str = "stop") -> None:
        self.system.tell(self.engines[replica], how)
        self.settle()


def test_without_a_route_the_answer_is_503() -> None:
    alone = Alone(replicas=0)
    answer = alone.route()
    assert isinstance(answer, RouteFailed)
    assert isinstance(answer.error, ServerError)
    assert answer.error.status == 503


def test_a_burst_is_spread_before_anybody_reports() -> None:
    alone = Alone()
    assert sorted(alone.route().replica for _ in range(6)) == [0, 0, 1, 1, 2, 2]


class Chooses:
    """A user's own policy, which says what it was given."""

    def __init__(self, chosen: Any) -> None:
        self._chosen = chosen

    def choose(self, replicas: Any, hint: RouteHint, rng: np.random.Generator) -> Any:
        return self._chosen


def test_a_users_policy_may_choose_with_numpy() -> None:
    assert Alone(Chooses(np.argmin([3, 1, 2]))).route().replica == 1


@pytest.mark.parametrize("chosen", [3, -1, np.int64(-1), 1.0, None])
def test_a_users_policy_that_chooses_nobody_is_told_so(chosen: object) -> None:
    with pytest.raises(InputError, match="an index from 0 to 2") as told:
        Alone(Chooses(chosen)).route()
    assert told.value.where == "routing policy Chooses"


def test_what_has_not_arrived_is_load_too() -> None:
    """Replica 0 reports that it is empty, having received none of the two that were sent: it carries two."""
    alone = Alone(replicas=2)
    assert [alone.route().replica for _ in range(4)] == [0, 1, 0, 1]
    alone.report(0, outstanding=0, received=0)
    alone.report(1, outstanding=1, received=2)
    assert [alone.route().replica for _ in range(3)] == [1, 0, 1]
    alone.report(0, outstanding=0, received=3)
    assert alone.route().replica == 0


def test_a_dead_engine_is_never_routed_to() -> None:
    alone = Alone()
    alone.report(1, outstanding=5, received=0)
    alone.report(2, outstanding=7, received=0)
    alone.stop(0)
    routed = [alone.route() for _ in range(12)]
    assert {answer.replica for answer in routed} == {1, 2}
    alone.stop(1)
    assert {alone.route().replica for _ in range(5)} == {2}
    alone.stop(2)
    assert isinstance(alone.route(), RouteFailed)


def test_an_engine_that_died_before_it_was_registered_is_not_routed_to() -> None:
    alone = Alone(replicas=1)
    dead = alone.system.spawn("late", Idle)
    alone.system.tell(dead, "stop")
    alone.tell(Register("m", 1, dead, 8))
    alone.report(0, outstanding=6, received=0)
    alone.settle()
    assert {alone.route().replica for _ in range(5)} == {0}


def test_a_late_report_of_a_replica_that_has_gone_does_not_bring_it_back() -> None:
    alone = Alone(replicas=2)
    alone.stop(0)
    alone.report(0, outstanding=0, received=0)
    assert {alone.route().replica for _ in range(4)} == {1}


def test_a_replacement_begins_with_no_load() -> None:
    alone = Alone(replicas=2)
    for _ in range(6):
        alone.route()
    alone.report(1, outstanding=1, received=3)
    alone.stop(0)
    alone.engines[0] = alone.system.spawn("replacement", Idle)
    alone.register(0)
    answer = alone.route()
    assert (answer.replica, answer.engine) == (0, alone.engines[0])


def test_deregistering_says_how_many_are_on_their_way() -> None:
    alone = Alone(replicas=2)
    for _ in range(5):
        alone.route()
    for replica, routed in ((0, 3), (1, 2), (7, 0)):
        answer = alone.system.promise("deregistered")
        alone.tell(Deregister("m", replica, answer.ref))
        assert alone.system.wait(answer) == Deregistered("m", replica, routed)
    assert isinstance(alone.route(), RouteFailed)


def test_a_burst_evens_out_what_replicas_have_already() -> None:
    """Reports are as old as the last message: a burst of one instant must not all go to the one that was emptiest."""
    serving = Serving(deployment={"replicas": 3})
    serving.up()
    serving.submit(output=50)
    serving.run(2.5 * STEP_S)
    for _ in range(20):
        serving.submit(output=30)
    serving.finish()
    assert sorted(sum(row["replica"] == replica for row in serving.records()) for replica in range(3)) == [7] * 3


# --- no replica, but one is coming ------------------------------------------------------------------------------------


class Asker(Actor):
    """A request's place: what it was told."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def receive(self, ctx: Context, msg: Any) -> None:
        self.heard.append(msg)


class Waiting(Alone):
    """Askers for a deployment without a replica, of whom so many may wait."""

    def __init__(self, room: int, askers: int, replicas: int = 2) -> None:
        super().__init__(replicas=0)
        self.engines = [self.system.spawn(f"engine-{n}", Idle) for n in range(replicas)]
        self.tell(Expect("m", room))
        self.askers = [Asker() for _ in range(askers)]
        for number, asker in enumerate(self.askers):
            ref = self.system.spawn(f"asker-{number}", lambda it=asker: it)  # type: ignore[misc]
            self.tell(RouteTo(10 + number, "m", 10, 0, ((1, 10),), ref))
        self.settle()

    def heard(self) -> list[list[str]]:
        return [[type(msg).__name__ for msg in asker.heard] for asker in self.askers]


def test_who_finds_none_waits_while_there_is_room_and_is_served_in_order() -> None:
    waiting = Waiting(room=3, askers=4)
    assert waiting.heard() == [["Parked"]] * 3 + [["RouteFailed"]]
    assert isinstance(waiting.askers[3].heard[0].error, Backpressure)
    waiting.register(0)
    late = waiting.route()
    assert isinstance(late, Parked), "behind those who wait"
    waiting.settle()
    assert waiting.heard()[:3] == [["Parked", "Routed"]] * 3
    answer = waiting.system.promise("deregistered")
    waiting.tell(Deregister("m", 0, answer.ref))
    assert waiting.system.wait(answer).routed == 4, "each is counted once, when it is routed"


def test_replicas_that_come_at_once_share_who_has_waited() -> None:
    waiting = Waiting(room=6, askers=6)
    for replica in (0, 1):
        waiting.register(replica)
    waiting.settle()
    assert [asker.heard[1].replica for asker in waiting.askers] == [0, 1, 0, 1, 0, 1]


def test_when_none_comes_after_all_they_are_told() -> None:
    waiting = Waiting(room=3, askers=2)
    waiting.tell(Expect("m", 0))
    waiting.settle()
    assert waiting.heard() == [["Parked", "RouteFailed"]] * 2
    assert {asker.heard[1].error.status for asker in waiting.askers} == {503}
    assert isinstance(waiting.route(), RouteFailed)


def test_who_leaves_is_told_and_makes_room() -> None:
    waiting = Waiting(room=2, askers=2)
    waiting.tell(LeaveRoom(10, "m"))
    waiting.tell(LeaveRoom(77, "m"))
    waiting.tell(LeaveRoom(10, "nobody"))
    waiting.settle()
    assert waiting.heard() == [["Parked", "RouteFailed"], ["Parked"]]
    assert isinstance(waiting.route(), Parked)
    waiting.register(0)
    waiting.settle()
    waiting.tell(LeaveRoom(11, "m"))
    waiting.settle()
    assert waiting.heard()[1] == ["Parked", "Routed"], "too late: it has been routed, and is told nothing else"


def test_a_replica_that_is_gone_when_the_instant_is_over_leaves_them_waiting() -> None:
    waiting = Waiting(room=2, askers=2)
    waiting.register(0)
    waiting.tell(Deregister("m", 0))
    waiting.settle()
    assert waiting.heard() == [["Parked"]] * 2
    waiting.register(1)
    waiting.settle()
    assert [asker.heard[1].replica for asker in waiting.askers] == [1, 1]


def test_deployments_do_not_share_routes() -> None:
    alone = Alone(replicas=1)
    assert isinstance(alone.route("other"), RouteFailed)
    assert isinstance(alone.route("m"), Routed)


def test_what_it_does_not_understand_is_a_dead_letter() -> None:
    alone = Alone()
    alone.tell("hello")
    alone.settle()
    assert alone.system.dead_letters == {"unhandled": 1}


EVENTS = ("stop", "register", "route", "report")


@given(
    events=st.lists(
        st.tuples(st.sampled_from(["stop", "register", "route", "report"]), st.integers(0, 3)), max_size=40
    ),
    policy=st.sampled_from(sorted(POLICIES)),
)
def test_only_living_replicas_are_chosen_whatever_happens(events: list[tuple[str, int]], policy: str) -> None:
    alone = Alone(policy, replicas=4)
    alive = dict.fromkeys(range(4), True)
    for number, (event, replica) in enumerate(events):
        if event == "stop" and alive[replica]:
            alone.stop(replica)
            alive[replica] = False
        elif event == "register" and not alive[replica]:
            alone.engines[replica] = alone.system.spawn(f"again-{number}", Idle)
            alone.register(replica)
            alive[replica] = True
        elif event == "report":
            alone.report(replica, outstanding=number % 5, received=number)
        elif event == "route":
            answer = alone.route()
            if any(alive.values()):
                assert alive[answer.replica]
                assert answer.engine == alone.engines[answer.replica]
            else:
                assert isinstance(answer, RouteFailed)


def test_equal_engines_get_equal_shares() -> None:
    serving = Serving(deployment={"replicas": 4})
    serving.up()
    for _ in range(5):
        for _ in range(8):
            serving.submit(output=3)
        serving.run(1.5 * STEP_S)
    serving.finish()
    shares = [sum(row["replica"] == replica for row in serving.records()) for replica in range(4)]
    assert shares == [10] * 4
    serving.check_idle()
