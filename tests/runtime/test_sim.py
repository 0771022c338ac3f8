"""What only the virtual clock promises: exact times, a user's SimPy beside the actors, an end when nothing is left."""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import simpy

from rakka_sim.errors import AskTimeout, InputError, Stalled
from rakka_sim.runtime.api import Context
from rakka_sim.runtime.sim import SimRuntime
from tests.runtime.support import RESTART, STOP, Boom, Ping, Say, Steps, acting, boom, quiesce


@pytest.fixture
def system() -> SimRuntime:
    return SimRuntime()


class EndsAt(Steps):
    """A job that ends at a given time, and yields it."""

    def __init__(self, end: float) -> None:
        super().__init__(end, 1)
        self._at = end

    def ends_at(self, start: float, rng: Any) -> float:
        return self._at

    def execute(self) -> float:  # type: ignore[override]
        return self._at


def test_a_job_ends_at_exactly_the_time_it_gave(system: SimRuntime) -> None:
    """Adding ten times 0.1 gives neither 1.0 nor what a delay computed from any of the sums gives."""
    heard: list[float] = []
    ends = [math.fsum([0.1] * 3), 0.1 + 0.2 + 0.1, sum([0.1] * 10), 1.0]

    def receive(ctx: Context, msg: Any) -> None:
        if msg == "go":
            for end in ends:
                ctx.run(EndsAt(end), float)
        else:
            heard.append(ctx.now)

    actor = system.spawn("a", acting(receive))
    system.env.process(after(system, 0.1, actor, "go"))
    quiesce(system)
    assert heard == ends


def after(system: SimRuntime, seconds: Any, to: Any, msg: Any) -> Iterator[simpy.Event]:
    """A user's SimPy process that tells an actor something."""
    yield system.env.timeout(seconds)
    system.tell(to, msg)


def test_a_process_that_counts_in_numpys_numbers_leaves_actors_their_floats(system: SimRuntime) -> None:
    heard: list[float] = []
    actor = system.spawn("a", acting(lambda ctx, msg: heard.append(ctx.now)))
    for seconds in (np.float32(0.1), np.int64(1), np.float16(2.0)):
        system.env.process(after(system, seconds, actor, "go"))
    quiesce(system)
    assert heard == [float(np.float32(0.1)), 1.0, 2.0]
    assert {type(now) for now in heard} == {float}


def test_the_end_of_a_job_comes_last_of_its_instant(system: SimRuntime) -> None:
    """After mail, timers set later than the job began, SimPy's events, and the mail that all of these cause."""
    heard: list[str] = []

    def other(ctx: Context, msg: str) -> None:
        ctx.tell(worker, f"mail after {msg}")

    def receive(ctx: Context, msg: Any) -> None:
        if msg == "go":
            ctx.run(EndsAt(2.0), lambda _: "end of job")
            ctx.after(2.0, "timer")
        else:
            heard.append(msg)

    teller = system.spawn("t", acting(other))
    worker = system.spawn("w", acting(receive))
    system.tell(worker, "go")
    system.env.process(after(system, 2.0, teller, "process"))
    quiesce(system)
    assert heard == ["timer", "mail after process", "end of job"]


def test_an_arrival_at_a_boundary_is_in_time_to_cut_there(system: SimRuntime) -> None:
    ends: list[Any] = []
    runs: list[Any] = []

    def receive(ctx: Context, msg: Any) -> None:
        if msg == "go":
            runs.append(ctx.run(Steps(1.0, 5), int))
            ctx.after(2.0, "interrupt")
        elif msg == "interrupt":
            runs[0].interrupt()
        else:
            ends.append((ctx.now, msg))

    system.tell(system.spawn("a", acting(receive)), "go")
    quiesce(system)
    assert ends == [(2.0, 2)]
    assert system.now == 2.0  # the end that was planned first neither happened nor moved the clock


# --- an end -----------------------------------------------------------------------------------------------------


def test_stalled_when_nothing_is_left(system: SimRuntime) -> None:
    system.tell(system.spawn("a", acting(lambda ctx, msg: None)), "hello")
    with pytest.raises(Stalled) as error:
        system.wait(system.promise("never"))
    assert (error.value.waiting_for, error.value.now) == ("?never", 0.0)


def test_what_is_void_neither_keeps_the_system_alive_nor_moves_its_clock(system: SimRuntime) -> None:
    def receive(ctx: Context, msg: Any) -> None:
        if msg == "go":
            ctx.after(100.0, "never").cancel()
            ctx.after(1.0, "once")
        elif msg == "fail":
            ctx.after(200.0, "late")
            ctx.run(Steps(300.0, 1), str)
            raise Boom

    actor = system.spawn("a", acting(receive), RESTART)
    system.tell(actor, "go")
    system.tell(actor, "fail")
    system.tell(system.spawn("b", acting(lambda ctx, msg: msg == "go" and ctx.after(1.5, "last"))), "go")
    with pytest.raises(Stalled):
        system.wait(system.promise("never"), timeout=1000.0)
    assert system.now == 1.5
    assert system.dead_letters == {"stale": 3}  # "once" among them: its incarnation failed


def test_an_answered_question_leaves_no_deadline_behind(system: SimRuntime) -> None:
    assert system.ask(system.spawn("a", acting()), Ping(), timeout=50.0) == "pong"
    with pytest.raises(Stalled):
        system.wait(system.promise("never"))
    assert system.now == 0.0


def test_a_timeout_leaves_the_clock_at_the_deadline(system: SimRuntime) -> None:
    system.tell(system.spawn("a", acting(lambda ctx, msg: ctx.after(10.0, msg))), "tick")
    with pytest.raises(AskTimeout):
        system.wait(system.promise("never"), timeout=25.0)
    assert system.now == 25.0


def test_a_wait_ends_with_the_promise(system: SimRuntime) -> None:
    done = system.promise("done")

    def receive(ctx: Context, msg: int) -> None:
        ctx.after(1.0, msg + 1)
        if msg == 3:
            ctx.tell(done.ref, ctx.now)

    system.tell(system.spawn("a", acting(receive)), 0)
    assert system.wait(done) == 3.0
    assert system.now == 3.0


def test_ticks_come_every_so_many_deliveries(system: SimRuntime) -> None:
    ticks: list[float] = []
    done = system.promise("done")

    def count(ctx: Context, left: int) -> None:
        ctx.tell(ctx.self if left else done.ref, left - 1)

    system.tell(system.spawn("a", acting(count)), 9_000)
    system.wait(done, tick=lambda: ticks.append(system.now))
    assert len(ticks) == 5


# --- SimPy ------------------------------------------------------------------------------------------------------


def test_actors_and_processes_share_one_clock(system: SimRuntime) -> None:
    """A link as a SimPy resource: two transfers of 2 s take turns, and each ends in a message."""
    env = system.env
    link = simpy.Resource(env)
    heard: list[tuple[float, str]] = []
    listener = system.spawn("a", acting(lambda ctx, msg: heard.append((ctx.now, msg))))

    def transfer(name: str) -> Iterator[simpy.Event]:
        with link.request() as turn:
            yield turn
            yield env.timeout(2.0)
        system.tell(listener, name)

    env.process(transfer("one"))
    env.process(transfer("two"))
    quiesce(system)
    assert heard == [(2.0, "one"), (4.0, "two")]


def test_the_user_may_run_the_environment(system: SimRuntime) -> None:
    heard: list[tuple[float, str]] = []

    def receive(ctx: Context, msg: str) -> None:
        heard.append((ctx.now, msg))
        if msg == "go":
            ctx.after(1.0, "one")
            ctx.after(3.0, "three")

    system.tell(system.spawn("a", acting(receive)), "go")
    assert system.env.peek() == 0.0
    system.env.run(until=2.0)
    assert heard == [(0.0, "go"), (1.0, "one")]
    assert (system.now, system.env.now) == (2.0, 2.0)
    system.env.step()  # SimPy's own: what is left of its stop at 2.0
    assert system.env.peek() == 3.0
    system.env.run()
    assert heard[-1] == (3.0, "three")
    assert system.env.peek() == math.inf


def test_running_until_an_event_of_the_user(system: SimRuntime) -> None:
    event = system.env.event()

    def receive(ctx: Context, msg: str) -> None:
        ctx.after(2.0, "later") if msg == "go" else event.succeed(ctx.now)

    system.tell(system.spawn("a", acting(receive)), "go")
    assert system.env.run(until=event) == 2.0


def test_a_failure_ends_the_users_run_with_the_very_error(system: SimRuntime) -> None:
    error = Boom("typed")

    def receive(ctx: Context, msg: str) -> None:
        raise error

    system.tell(system.spawn("a", acting(receive)), "go")
    with pytest.raises(Boom) as raised:
        system.env.run()
    assert raised.value is error


def test_stopping_leaves_the_users_processes_alone(system: SimRuntime) -> None:
    actor = system.spawn("a", acting(boom), STOP)
    system.env.process(after(system, 1.0, actor, "late"))
    system.stop()
    system.env.run()
    assert (system.now, system.dead_letters) == (1.0, {"stopped": 1})


# --- Ctrl-C -----------------------------------------------------------------------------------------------------


@pytest.fixture
def _interruptible() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals arrive in the main thread only")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interruptible")
def test_an_interrupt_cuts_no_handler_in_two(system: SimRuntime) -> None:
    log: list[str] = []

    def receive(ctx: Context, msg: str) -> None:
        log.append(f"in {msg}")
        if msg == "one":
            os.kill(os.getpid(), signal.SIGINT)
        log.append(f"out {msg}")

    actor = system.spawn("a", acting(receive))
    for msg in ("one", "two"):
        system.tell(actor, msg)
    with pytest.raises(KeyboardInterrupt):
        system.wait(system.promise("never"))
    assert log == ["in one", "out one"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert system.ask(actor, Ping(), 1.0) == "pong"
    assert log[2:] == ["in two", "out two"]


@pytest.mark.usefixtures("_interruptible")
def test_a_second_interrupt_cuts(system: SimRuntime) -> None:
    log: list[str] = []

    def receive(ctx: Context, msg: str) -> None:
        for count in range(3):
            log.append(f"before {count}")
            os.kill(os.getpid(), signal.SIGINT)

    system.tell(system.spawn("a", acting(receive)), "go")
    with pytest.raises(KeyboardInterrupt):
        system.wait(system.promise("never"))
    assert log == ["before 0", "before 1"]


@pytest.mark.usefixtures("_interruptible")
def test_an_interrupt_in_tick_leaves_the_system_as_it_is(system: SimRuntime) -> None:
    def count(ctx: Context, left: int) -> None:
        ctx.tell(ctx.self if left else done.ref, left - 1)

    def tick() -> None:
        os.kill(os.getpid(), signal.SIGINT)

    done = system.promise("done")
    system.tell(system.spawn("a", acting(count)), 5_000)
    with pytest.raises(KeyboardInterrupt):
        system.wait(done, tick=tick)
    assert system.wait(done) == -1


def test_a_negative_seed_is_an_error() -> None:
    with pytest.raises(InputError):
        SimRuntime(-1)


def test_two_systems_do_not_know_each_other() -> None:
    one, two = SimRuntime(1), SimRuntime(2)
    for system in (one, two):
        actor = system.spawn("a", acting(lambda ctx, msg: ctx.tell(msg.reply_to, msg.text)))
        assert system.ask(actor, Say("mine"), 1.0) == "mine"
    one.stop()
    assert two.ask(two.spawn("b", acting()), Ping(), 1.0) == "pong"
