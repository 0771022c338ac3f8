"""Starting, stopping and watching."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from rakka_sim.errors import InputError, NameTaken
from rakka_sim.runtime.api import Context, Terminated
from rakka_sim.runtime.base import ActorSystem
from rakka_sim.runtime.refs import ActorRef
from tests.runtime.support import LONG, RESTART, SOON, STOP, Acting, Boom, Ping, acting, boom, quiesce

Log = list[Any]


def logging(log: Log, name: str, receive: Callable[..., None] | None = None, **hooks: Any) -> Callable[[], Acting]:
    """An actor that writes down its starts and stops, and starts the children it is given."""
    children = hooks.pop("children", {})

    def started(ctx: Context) -> None:
        log.append(f"start {name}")
        for child, make in children.items():
            ctx.spawn(child, make)

    return acting(receive, started=started, stopped=lambda ctx: log.append(f"stop {name}"), **hooks)


def test_started_comes_before_the_first_message(system: ActorSystem) -> None:
    log: Log = []

    def parent(ctx: Context, msg: str) -> None:
        child = ctx.spawn("child", logging(log, "child", lambda ctx, msg: log.append(msg)))
        ctx.tell(child, "hello")
        log.append("end of handler")

    system.tell(system.spawn("p", acting(parent)), "go")
    quiesce(system)
    assert log == ["end of handler", "start child", "hello"]


def test_children_stop_before_their_parent_last_first(system: ActorSystem) -> None:
    log: Log = []
    grandchildren = {"x": logging(log, "x"), "y": logging(log, "y")}
    children = {"a": logging(log, "a", children=grandchildren), "b": logging(log, "b")}
    parent = system.spawn("p", logging(log, "p", lambda ctx, msg: ctx.stop(), children=children))
    system.tell(parent, "stop")
    quiesce(system)
    assert log[:5] == ["start p", "start a", "start b", "start x", "start y"]
    assert log[5:] == ["stop b", "stop y", "stop x", "stop a", "stop p"]


def test_the_system_stops_its_actors_last_first_and_once(system: ActorSystem) -> None:
    log: Log = []
    for name in ("one", "two", "three"):
        system.spawn(name, logging(log, name))
    system.stop()
    system.stop()
    assert log[3:] == ["stop three", "stop two", "stop one"]
    with pytest.raises(InputError):
        system.spawn("four", logging(log, "four"))


def test_a_stopped_system_takes_no_message(system: ActorSystem) -> None:
    actor = system.spawn("a", acting())
    system.stop()
    system.tell(actor, "late")
    assert system.dead_letters == {"stopped": 1}


def test_stop_takes_effect_after_the_handler_and_before_any_other_message(system: ActorSystem) -> None:
    log: Log = []

    def receive(ctx: Context, msg: str) -> None:
        ctx.tell(ctx.self, "to myself")
        ctx.stop()
        log.append(msg)

    system.tell(system.spawn("a", logging(log, "a", receive)), "go")
    quiesce(system)
    assert log == ["start a", "go", "stop a"]
    assert system.dead_letters == {"stopped": 1}


def test_names_of_living_siblings_are_taken(system: ActorSystem) -> None:
    taken: list[str] = []

    def parent(ctx: Context, msg: str) -> None:
        old = ctx.spawn("c", acting())
        try:
            ctx.spawn("c", acting())
        except NameTaken as error:
            taken.append(error.path)
        ctx.stop(old)
        ctx.spawn("c", acting())
        ctx.stop(ctx.spawn("d", acting()))

    actor = system.spawn("p", acting(parent))
    system.tell(actor, "go")
    system.ask(actor, Ping(), LONG)
    assert taken == ["/p/c"]
    with pytest.raises(NameTaken):
        system.spawn("p", acting())
    system.stop()


@pytest.mark.parametrize("name", ["", "a/b"])
def test_an_impossible_name_is_an_error(system: ActorSystem, name: str) -> None:
    with pytest.raises(InputError) as error:
        system.spawn(name, acting())
    assert error.value.value == name


def test_an_impossible_mailbox_is_an_error(system: ActorSystem) -> None:
    with pytest.raises(InputError):
        system.spawn("a", acting(), mailbox=0)


def test_only_children_and_oneself_can_be_stopped(system: ActorSystem) -> None:
    stranger = system.spawn("stranger", acting())
    done = system.promise("done")

    def receive(ctx: Context, msg: str) -> None:
        try:
            ctx.stop(stranger)
        except InputError as error:
            ctx.tell(done.ref, error.allowed)

    system.tell(system.spawn("a", acting(receive)), "go")
    assert system.wait(done, LONG) == "itself or one of its children"
    assert system.ask(stranger, Ping(), LONG) == "pong"


def test_what_stopped_spawns_or_starts_ends_with_it(system: ActorSystem) -> None:
    log: Log = []

    def stopped(ctx: Context) -> None:
        ctx.spawn("late", logging(log, "late"))
        ctx.after(SOON, "never")
        ctx.tell(ctx.self, "dead")
        log.append("stop a")

    system.tell(system.spawn("a", acting(lambda ctx, msg: ctx.stop(), stopped=stopped)), "go")
    quiesce(system)
    assert log == ["stop a"]
    assert system.dead_letters == {"stopped": 1, "stale": 1}


def test_a_context_kept_beyond_the_end_is_refused(system: ActorSystem) -> None:
    kept: list[Context] = []

    def receive(ctx: Context, msg: str) -> None:
        kept.append(ctx)
        ctx.stop()

    system.tell(system.spawn("a", acting(receive)), "go")
    quiesce(system)
    with pytest.raises(InputError):
        kept[0].spawn("child", acting())


# --- watching ---------------------------------------------------------------------------------------------------


def test_those_who_watch_hear_after_the_end(system: ActorSystem) -> None:
    log: Log = []
    done = system.promise("done")
    watched = system.spawn("w", logging(log, "w", lambda ctx, msg: ctx.stop()))

    def watcher(ctx: Context, msg: Any) -> None:
        if isinstance(msg, Terminated):
            log.append((msg.ref, msg.error))
            ctx.tell(done.ref, "done")
        else:
            ctx.watch(watched)
            ctx.watch(watched)
            ctx.tell(watched, "stop")

    system.tell(system.spawn("a", acting(watcher)), "go")
    system.wait(done, LONG)
    quiesce(system)
    assert log == ["start w", "stop w", (watched, None)]


def test_who_watches_too_late_hears_at_once_and_why(system: ActorSystem) -> None:
    done = system.promise("done")
    watched = system.spawn("w", acting(boom), STOP)
    system.tell(watched, "fail")

    def watcher(ctx: Context, msg: Any) -> None:
        if isinstance(msg, Terminated):
            ctx.tell(done.ref, (msg.ref, str(msg.error)))
        else:
            ctx.watch(watched)

    system.tell(system.spawn("a", acting(watcher)), "go")
    assert system.wait(done, LONG) == (watched, "fail")


def test_a_restart_is_no_end_to_those_who_watch(system: ActorSystem) -> None:
    heard: Log = []
    watched = system.spawn("w", acting(boom), RESTART)
    watcher = system.spawn("a", acting(lambda ctx, msg: heard.append(msg), started=lambda ctx: ctx.watch(watched)))
    system.tell(watched, "fail")
    system.ask(watched, Ping(), LONG)
    system.ask(watcher, Ping(), LONG)
    assert heard == []


def test_who_has_stopped_watching_does_not_hear(system: ActorSystem) -> None:
    heard: Log = []

    def watcher(ctx: Context, msg: Any) -> None:
        if msg != "go":
            heard.append(msg)
            return
        first, second = ctx.spawn("first", acting()), ctx.spawn("second", acting())
        for child in (first, second):
            ctx.watch(child)
            ctx.stop(child)
        ctx.unwatch(first)  # before it has stopped
        ctx.tell(ctx.self, "x")

    def receive(ctx: Context, msg: Any) -> None:
        watcher(ctx, msg)
        if msg == "x":
            ctx.unwatch(heard[0])  # not one it watches: harmless

    actor = system.spawn("a", acting(receive))
    system.tell(actor, "go")
    quiesce(system)
    assert [type(msg) for msg in heard] == [str, Terminated]
    assert heard[1].ref.path == "/a/second"


def test_a_watch_can_be_ended_while_the_news_is_under_way(system: ActorSystem) -> None:
    heard: Log = []
    children: list[Any] = []

    def watcher(ctx: Context, msg: Any) -> None:
        if msg == "go":
            children.append(ctx.spawn("c", acting()))
            ctx.watch(children[0])
            ctx.tell(ctx.self, "unwatch")
            ctx.stop(children[0])  # its Terminated comes after "unwatch"
        elif msg == "unwatch":
            ctx.unwatch(children[0])
        else:
            heard.append(msg)

    system.tell(system.spawn("a", acting(watcher)), "go")
    quiesce(system)
    assert heard == []
    assert system.dead_letters == {}


def test_a_watch_ends_with_the_incarnation_that_set_it(system: ActorSystem) -> None:
    heard: Log = []
    other = system.spawn("other", acting(lambda ctx, msg: ctx.stop()))

    def watcher(ctx: Context, msg: Any) -> None:
        if isinstance(msg, Terminated):
            heard.append(msg)
        else:
            ctx.watch(other)
            raise Boom

    actor = system.spawn("a", acting(watcher), RESTART)
    system.tell(actor, "go")
    system.ask(actor, Ping(), LONG)
    system.tell(other, "stop")
    quiesce(system)
    assert heard == []


def test_only_actors_can_be_watched(system: ActorSystem) -> None:
    done = system.promise("done")

    def receive(ctx: Context, msg: Any) -> None:
        try:
            ctx.watch(done.ref)
        except InputError as error:
            ctx.tell(done.ref, error.allowed)

    system.tell(system.spawn("a", acting(receive)), "go")
    assert system.wait(done, LONG) == "the Ref of an actor"


# --- memory -----------------------------------------------------------------------------------------------------


def _refs() -> int:
    return sum(type(found) is ActorRef for found in gc.get_objects())


def test_a_stopped_actor_is_freed_at_once(system: ActorSystem) -> None:
    """Without the garbage collector: nothing that ends as it should may leave a cycle behind."""
    actors: list[weakref.ref[Any]] = []

    def parent(ctx: Context, msg: Any) -> None:
        if isinstance(msg, Terminated):
            return
        for number in range(10):
            actor = Acting(lambda ctx, msg: ctx.stop())
            child = ctx.spawn(str(number), lambda actor=actor: actor)
            ctx.watch(child)
            ctx.tell(child, "stop")
            actors.append(weakref.ref(actor))

    gc.collect()
    gc.disable()
    try:
        refs = _refs()
        root = system.spawn("p", acting(parent))
        system.tell(root, "go")
        quiesce(system)
        assert len(actors) == 10
        assert [ref() for ref in actors] == [None] * 10
        assert _refs() == refs + 1  # the parent's
    finally:
        gc.enable()
