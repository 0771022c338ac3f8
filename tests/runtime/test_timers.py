"""Timers: when they come, in what order, how they are cancelled."""

from __future__ import annotations

import math
from typing import Any

import pytest

from rakka_sim.errors import InputError
from rakka_sim.runtime.api import Context
from rakka_sim.runtime.base import ActorSystem
from tests.runtime.support import LONG, RESTART, SOON, Boom, Ping, acting, quiesce


def test_timers_come_in_order_of_time_then_of_setting(system: ActorSystem) -> None:
    heard: list[str] = []
    done = system.promise("done")

    def receive(ctx: Context, msg: str) -> None:
        if msg == "go":
            for text, seconds in (("late", 12 * SOON), ("first", SOON), ("mid", 6 * SOON), ("at once", 0.0)):
                ctx.after(seconds, text)
        else:
            heard.append(msg)
            if msg == "late":
                ctx.tell(done.ref, ctx.now)

    before = system.now
    system.tell(system.spawn("a", acting(receive)), "go")
    assert system.wait(done, LONG) >= before + 12 * SOON
    assert heard == ["at once", "first", "mid", "late"]


def test_a_cancelled_timer_does_not_come(system: ActorSystem) -> None:
    heard: list[str] = []
    states: list[bool] = []

    def receive(ctx: Context, msg: str) -> None:
        if msg == "go":
            timer = ctx.after(SOON, "cancelled")
            kept = ctx.after(SOON, "kept")
            states.append(timer.active)
            timer.cancel()
            states.append(timer.active)
            timer.cancel()
            ctx.after(2 * SOON, kept)
        elif isinstance(msg, str):
            heard.append(msg)
        else:
            states.append(msg.active)
            msg.cancel()

    system.tell(system.spawn("a", acting(receive)), "go")
    quiesce(system)
    assert heard == ["kept"]
    assert states == [True, False, False]
    assert system.dead_letters == {}


@pytest.mark.parametrize("end", ["restart", "stop"])
def test_a_timer_of_a_former_incarnation_is_stale(system: ActorSystem, end: str) -> None:
    heard: list[Any] = []

    def receive(ctx: Context, msg: str) -> None:
        if msg == "go":
            ctx.after(SOON, "late")
            ctx.after(SOON, "cancelled").cancel()
            if end == "stop":
                ctx.stop()
            else:
                raise Boom
        else:
            heard.append(msg)

    system.tell(system.spawn("a", acting(receive), RESTART), "go")
    quiesce(system)
    assert heard == []
    assert system.dead_letters == {"stale": 1}
    assert system.last_dead_letters[0].message == "late"


def test_very_many_cancelled_timers_leave_no_trace(system: ActorSystem) -> None:
    def receive(ctx: Context, msg: str) -> None:
        for _ in range(10_000):
            ctx.after(1000.0, "never").cancel()

    actor = system.spawn("a", acting(receive))
    system.tell(actor, "go")
    assert system.ask(actor, Ping(), LONG) == "pong"
    assert len(system.agenda) < 2_000


@pytest.mark.parametrize("seconds", [-1.0, math.nan, math.inf])
def test_an_impossible_delay_is_an_error(system: ActorSystem, seconds: float) -> None:
    done = system.promise("done")

    def receive(ctx: Context, msg: str) -> None:
        try:
            ctx.after(seconds, "never")
        except InputError as error:
            ctx.tell(done.ref, error.where)

    system.tell(system.spawn("a", acting(receive)), "go")
    assert system.wait(done, LONG) == "timer of /a"
