"""Supervision: what a failure leads to, one level up and all the way to the top."""

from __future__ import annotations

from typing import Any

import pytest

from rakka_sim.core.supervision import Directive, Supervision
from rakka_sim.errors import ContextPoisoned, OutOfMemory, Unrecoverable
from rakka_sim.runtime.api import Context, Terminated
from rakka_sim.runtime.base import ActorSystem
from tests.runtime.support import ESCALATE, LONG, RESTART, RESUME, STOP, Boom, Ping, Say, acting, boom, quiesce


class Counter:
    """Starts of an actor, and a state that a restart loses."""

    def __init__(self) -> None:
        self.starts = 0

    def make(self, **hooks: Any) -> Any:
        state: list[str] = []

        def receive(ctx: Context, msg: Any) -> None:
            if isinstance(msg, Say):
                ctx.tell(msg.reply_to, list(state))
            elif isinstance(msg, Exception):
                raise msg
            else:
                state.append(msg)

        self.starts += 1
        return acting(receive, **hooks)()


def test_resume_keeps_the_state(system: ActorSystem) -> None:
    counter = Counter()
    actor = system.spawn("a", counter.make, RESUME)
    for msg in ("one", Boom(), "two"):
        system.tell(actor, msg)
    assert system.ask(actor, Say("?"), LONG) == ["one", "two"]
    assert counter.starts == 1


def test_restart_loses_the_state_and_keeps_address_and_mail(system: ActorSystem) -> None:
    counter = Counter()
    actor = system.spawn("a", counter.make, RESTART)
    for msg in ("one", Boom(), "two"):
        system.tell(actor, msg)
    assert system.ask(actor, Say("?"), LONG) == ["two"]
    assert counter.starts == 2


def test_stop_ends_it_with_the_error(system: ActorSystem) -> None:
    done = system.promise("done")
    actor = system.spawn("a", acting(boom), STOP)
    watch = lambda ctx, msg: ctx.tell(done.ref, msg) if isinstance(msg, Terminated) else ctx.watch(actor)  # noqa: E731
    watcher = system.spawn("w", acting(watch))
    system.tell(watcher, "watch")
    system.ask(watcher, Ping(), LONG)
    system.tell(actor, "reason")
    assert str(system.wait(done, LONG).error) == "reason"
    assert system.failure is None


def test_too_many_restarts_escalate(system: ActorSystem) -> None:
    counter = Counter()
    strategy = Supervision(max_restarts=2, within_s=1000.0, decide=lambda _: Directive.RESTART)
    actor = system.spawn("a", counter.make, strategy)
    for number in range(4):
        system.tell(actor, Boom(str(number)))
    with pytest.raises(Boom, match="2"):  # the third one, counted from 0
        system.wait(system.promise("never"), LONG)
    assert counter.starts == 3


@pytest.mark.parametrize(
    ("error", "starts", "alive"),
    [(ContextPoisoned(), 2, True), (OutOfMemory(), 1, True), (Unrecoverable(), 1, False)],
)
def test_the_default_strategy_goes_by_the_kind_of_error(
    system: ActorSystem, error: Exception, starts: int, alive: bool
) -> None:
    counter = Counter()
    actor = system.spawn("a", counter.make)
    system.tell(actor, error)
    system.tell(actor, "still there")
    quiesce(system)
    assert counter.starts == starts
    assert system.dead_letters == ({} if alive else {"stopped": 1})


def test_an_unknown_error_ends_the_system_with_that_very_error(system: ActorSystem) -> None:
    error = Boom("the very one")
    counter = Counter()
    actor = system.spawn("a", counter.make)
    system.tell(actor, error)
    for _ in range(2):
        with pytest.raises(Boom) as raised:
            system.wait(system.promise("never"), LONG)
        assert raised.value is error
    assert system.failure is error


def test_nothing_is_delivered_once_the_system_has_failed(system: ActorSystem) -> None:
    heard: list[str] = []
    bystander = system.spawn("b", acting(lambda ctx, msg: heard.append(msg)))
    failing = system.spawn("a", acting(boom))
    system.tell(bystander, "before")
    system.tell(failing, "fail")
    system.tell(bystander, "after")
    with pytest.raises(Boom):
        system.wait(system.promise("never"), LONG)
    assert heard == ["before"]
    system.stop()
    assert heard == ["before"]


class Family:
    """Grandparent, parent and child; what happens to them is in `log`."""

    def __init__(self, system: ActorSystem, *, child: Supervision, parent: Supervision) -> None:
        self.log: list[str] = []
        self.child_strategy, self.parent_strategy = child, parent
        self.child: Any = None
        self.ref = system.spawn("g", lambda: self.member("g", self.spawn_parent), STOP)

    def member(self, name: str, started: Any = None, receive: Any = None) -> Any:
        def start(ctx: Context) -> None:
            self.log.append(f"start {name}")
            if started is not None:
                started(ctx)

        def child_failed(ctx: Context, child: Any, error: Exception, directive: Directive) -> None:
            self.log.append(f"{name} hears {child.path} {error} {directive}")

        hooks = {"stopped": lambda ctx: self.log.append(f"stop {name}"), "child_failed": child_failed}
        return acting(receive, started=start, **hooks)()

    def spawn_parent(self, ctx: Context) -> None:
        ctx.spawn("p", lambda: self.member("p", self.spawn_child), self.parent_strategy)

    def spawn_child(self, ctx: Context) -> None:
        self.child = ctx.spawn("c", lambda: self.member("c", receive=boom), self.child_strategy)


def family(system: ActorSystem, child: Supervision, parent: Supervision) -> list[str]:
    """The log from the child's failure on."""
    them = Family(system, child=child, parent=parent)
    quiesce(system)
    assert them.log == ["start g", "start p", "start c"]
    system.tell(them.child, "ouch")
    quiesce(system)
    return them.log[3:]


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (RESUME, ["p hears /g/p/c ouch resume"]),
        (RESTART, ["stop c", "start c", "p hears /g/p/c ouch restart"]),
        (STOP, ["stop c", "p hears /g/p/c ouch stop"]),
    ],
)
def test_the_parent_hears_when_the_directive_has_been_carried_out(
    system: ActorSystem, strategy: Supervision, expected: list[str]
) -> None:
    assert family(system, strategy, STOP) == expected


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (RESUME, ["g hears /g/p ouch resume"]),
        (RESTART, ["stop c", "stop p", "start p", "g hears /g/p ouch restart", "start c"]),
        (STOP, ["stop c", "stop p", "g hears /g/p ouch stop"]),
    ],
)
def test_an_escalation_is_the_parents_own_failure(
    system: ActorSystem, strategy: Supervision, expected: list[str]
) -> None:
    assert family(system, ESCALATE, strategy) == expected


def test_an_escalation_goes_all_the_way_up(system: ActorSystem) -> None:
    actor = system.spawn("top", acting(boom), ESCALATE)
    them = system.spawn(
        "g", acting(started=lambda ctx: ctx.spawn("p", acting(started=spawn_failing), ESCALATE)), ESCALATE
    )
    with pytest.raises(Boom, match="deep down"):
        system.wait(system.promise("never"), LONG)
    assert actor != them


def spawn_failing(ctx: Context) -> None:
    def started(ctx: Context) -> None:
        raise Boom("deep down")

    ctx.spawn("c", acting(started=started), ESCALATE)


def test_a_failure_to_start_is_a_failure(system: ActorSystem) -> None:
    """Restarted until it starts, here at the third attempt; `stopped` is for those that came into being."""
    log: list[str] = []

    def make() -> Any:
        log.append("make")
        if log.count("make") == 1:
            raise Boom("no such thing")
        return acting(started=started, stopped=lambda ctx: log.append("stop"))()

    def started(ctx: Context) -> None:
        log.append("start")
        if log.count("start") == 1:
            raise Boom("not yet")

    actor = system.spawn("a", make, RESTART)
    assert system.ask(actor, Ping(), LONG) == "pong"
    assert log == ["make", "make", "start", "stop", "make", "start"]


def test_what_never_came_into_being_cannot_be_resumed(system: ActorSystem) -> None:
    def make() -> Any:
        raise Boom("no such thing")

    system.spawn("a", make, RESUME)
    with pytest.raises(Boom, match="no such thing"):
        system.wait(system.promise("never"), LONG)


@pytest.mark.parametrize("strategy", [STOP, RESTART, RESUME])
def test_a_failure_on_the_way_out_is_heard(system: ActorSystem, strategy: Supervision) -> None:
    """The stop goes on; the parent hears of it. Both for a handler that stops and then fails, and for `stopped`."""
    heard: list[str] = []

    def stop_and_fail(ctx: Context, msg: str) -> None:
        ctx.stop()
        raise Boom("handler")

    def fail(ctx: Context) -> None:
        raise Boom("hook")

    def parent(ctx: Context, msg: str) -> None:
        child = ctx.spawn("c", acting(stop_and_fail, stopped=fail), strategy)
        ctx.tell(child, "go")

    def child_failed(ctx: Context, child: Any, error: Exception, directive: Directive) -> None:
        heard.append(f"{error} {directive}")

    system.tell(system.spawn("p", acting(parent, child_failed=child_failed), STOP), "go")
    quiesce(system)
    assert heard == ["handler stop", "hook stop"]
    assert system.failure is None


def test_an_error_while_the_system_stops_is_not_swallowed(system: ActorSystem) -> None:
    def fail(ctx: Context) -> None:
        raise Boom("on the way out")

    log: list[str] = []
    system.spawn("first", acting(stopped=lambda ctx: log.append("stop first")))
    system.spawn("a", acting(stopped=fail))
    with pytest.raises(Boom, match="on the way out"):
        system.stop()
    assert log == ["stop first"]


def test_an_error_in_child_failed_fails_the_parent(system: ActorSystem) -> None:
    def child_failed(ctx: Context, child: Any, error: Exception, directive: Directive) -> None:
        raise Boom("parent")

    parent = acting(lambda ctx, msg: ctx.tell(ctx.spawn("c", acting(boom), STOP), "go"), child_failed=child_failed)
    system.tell(system.spawn("p", parent), "go")
    with pytest.raises(Boom, match="parent"):
        system.wait(system.promise("never"), LONG)
