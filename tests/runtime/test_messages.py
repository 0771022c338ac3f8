"""Telling: order, mailboxes, dead letters, promises, and what is no address."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rakka_sim.errors import AskTimeout, InputError, MailboxFull, Stalled, Unhandled
from rakka_sim.runtime.api import Context
from rakka_sim.runtime.base import ActorSystem
from tests.runtime.support import LONG, SOON, Boom, Ping, Say, acting, quiesce


def test_messages_of_one_sender_arrive_in_order(system: ActorSystem) -> None:
    heard: list[int] = []
    done = system.promise("done")

    def listen(ctx: Context, msg: int) -> None:
        heard.append(msg)
        if msg == 99:
            ctx.tell(done.ref, "done")

    listener = system.spawn("listener", acting(listen))
    speaker = system.spawn("speaker", acting(lambda ctx, msg: [ctx.tell(listener, n) for n in range(100)]))
    system.tell(speaker, "go")
    assert system.wait(done, LONG) == "done"
    assert heard == list(range(100))


def test_messages_from_outside_arrive_in_order(system: ActorSystem) -> None:
    heard: list[int] = []
    listener = system.spawn("listener", acting(lambda ctx, msg: heard.append(msg)))
    for number in range(100):
        system.tell(listener, number)
    assert system.ask(listener, Ping(), LONG) == "pong"
    assert heard == list(range(100))


def test_a_handler_is_never_interleaved_with_what_it_tells(system: ActorSystem) -> None:
    log: list[str] = []

    def talk(ctx: Context, msg: str) -> None:
        log.append(f"in {msg}")
        if msg == "one":
            ctx.tell(ctx.self, "two")
        log.append(f"out {msg}")

    actor = system.spawn("a", acting(talk))
    system.tell(actor, "one")
    quiesce(system)
    assert log == ["in one", "out one", "in two", "out two"]


def test_references_are_comparable_and_say_their_path(system: ActorSystem) -> None:
    selves: list[Any] = []
    parent = system.spawn("p", acting(lambda ctx, msg: selves.extend([ctx.self, ctx.spawn("c", acting())])))
    system.tell(parent, "go")
    quiesce(system)
    assert selves[0] == parent
    assert len({parent, *selves}) == 2
    assert [ref.path for ref in selves] == ["/p", "/p/c"]


def test_numpys_numbers_are_taken_for_times_and_room(system: ActorSystem) -> None:
    heard = system.promise("heard")

    def receive(ctx: Context, msg: Any) -> None:
        if msg == "go":
            ctx.after(np.float32(0.0), "timer")
        else:
            ctx.tell(heard.ref, msg)

    system.tell(system.spawn("a", acting(receive), mailbox=np.int64(3)), "go")
    assert system.wait(heard, np.int64(LONG)) == "timer"
    with pytest.raises((AskTimeout, Stalled)):
        system.wait(system.promise("nobody"), np.float32(SOON))


def test_a_full_mailbox_refuses_and_tells_the_asker(system: ActorSystem) -> None:
    heard: list[Any] = []
    small = system.spawn("small", acting(lambda ctx, msg: heard.append(msg)), mailbox=3)

    async def ask(ctx: Context) -> None:
        try:
            await ctx.ask(small, Ping(), LONG)
        except MailboxFull as error:
            ctx.tell(done.ref, error)

    def flood(ctx: Context, msg: Any) -> None:
        for number in range(5):
            ctx.tell(small, number)
        ctx.flow(ask(ctx))

    done = system.promise("done")
    system.tell(system.spawn("flood", acting(flood)), "go")
    with pytest.raises(MailboxFull) as refused:
        system.wait(done, LONG)
    assert (refused.value.path, refused.value.capacity) == ("/small", 3)
    assert heard == [0, 1, 2]
    assert system.dead_letters == {"overflow": 3}
    assert system.ask(small, Ping(), LONG) == "pong"  # there is room again


def test_timers_jobs_and_terminated_are_never_refused(system: ActorSystem) -> None:
    from tests.runtime.support import Steps

    heard: list[str] = []

    def receive(ctx: Context, msg: Any) -> None:
        if msg != "go":
            heard.append(type(msg).__name__)
            return
        ctx.tell(ctx.self, 1)  # the mailbox is full from here on
        ctx.tell(ctx.self, 2)
        ctx.after(0.0, "timer")
        ctx.run(Steps(0.0, 1), float)
        child = ctx.spawn("child", acting())
        ctx.watch(child)
        ctx.stop(child)

    system.tell(system.spawn("a", acting(receive), mailbox=1), "go")
    quiesce(system)
    assert sorted(heard) == ["Terminated", "float", "int", "str"]
    assert system.dead_letters == {"overflow": 1}


def test_what_reaches_a_stopped_actor_is_a_dead_letter(system: ActorSystem) -> None:
    actor = system.spawn("a", acting(lambda ctx, msg: ctx.stop()))
    system.tell(actor, "stop")
    system.tell(actor, "late")
    quiesce(system)
    assert system.dead_letters == {"stopped": 1}
    (letter,) = system.last_dead_letters
    assert (letter.reason, letter.to, letter.message) == ("stopped", "/a", "late")


def test_a_reference_stays_dead_when_another_takes_its_path(system: ActorSystem) -> None:
    heard: list[str] = []

    def parent(ctx: Context, msg: str) -> None:
        old = ctx.spawn("c", acting(lambda ctx, msg: heard.append(f"old {msg}")))
        ctx.stop(old)
        new = ctx.spawn("c", acting(lambda ctx, msg: heard.append(f"new {msg}")))
        ctx.tell(old, "for the old one")
        ctx.tell(new, "for the new one")

    system.tell(system.spawn("p", acting(parent)), "go")
    quiesce(system)
    assert heard == ["new for the new one"]
    assert system.dead_letters == {"stopped": 1}


def test_what_is_not_understood_is_a_dead_letter_and_an_error_to_the_asker(system: ActorSystem) -> None:
    actor = system.spawn("a", acting(lambda ctx, msg: ctx.unhandled(msg)))
    system.tell(actor, "gibberish")
    with pytest.raises(Unhandled) as error:
        system.ask(actor, Say("what?"), LONG)
    assert (error.value.path, error.value.message) == ("/a", "Say")
    assert system.dead_letters == {"unhandled": 2}


def test_only_the_latest_dead_letters_are_kept(system: ActorSystem) -> None:
    actor = system.spawn("a", acting(lambda ctx, msg: ctx.unhandled(msg)))
    for number in range(150):
        system.tell(actor, number)
    quiesce(system)
    assert system.dead_letters == {"unhandled": 150}
    assert [letter.message for letter in system.last_dead_letters] == list(range(50, 150))


def test_a_promise_keeps_the_first_message(system: ActorSystem) -> None:
    promise = system.promise("p")
    with pytest.raises(Stalled):
        promise.result()
    assert not promise.done
    system.tell(promise.ref, 1)
    system.tell(promise.ref, 2)
    assert system.wait(promise, LONG) == 1
    quiesce(system)
    assert (promise.done, promise.result()) == (True, 1)


def test_a_promise_raises_the_error_it_was_kept_with(system: ActorSystem) -> None:
    promise = system.promise("p")
    system.tell(promise.ref, Boom("as an answer"))
    with pytest.raises(Boom, match="as an answer"):
        system.wait(promise, LONG)


def test_waiting_ends_with_its_timeout(system: ActorSystem) -> None:
    again: Callable[[Context, Any], object] = lambda ctx, msg: ctx.after(SOON / 4, msg)  # noqa: E731
    system.tell(system.spawn("clock", acting(again)), "tick")  # so that something is always left to happen
    before = system.now
    with pytest.raises(AskTimeout) as error:
        system.wait(system.promise("p"), SOON)
    assert error.value.seconds == SOON
    assert system.now >= before + SOON


@pytest.mark.parametrize("wrong", [None, "/a", 3])
def test_telling_something_that_is_no_address_is_an_error(system: ActorSystem, wrong: object) -> None:
    with pytest.raises(InputError) as error:
        system.tell(wrong, "hello")
    assert error.value.value == wrong


def test_wait_calls_tick(system: ActorSystem) -> None:
    ticks: list[float] = []
    done = system.promise("done")

    def count(ctx: Context, left: int) -> None:
        if left == 0:
            ctx.tell(done.ref, "done")
        elif left % 1000 == 0:
            ctx.after(SOON, left - 1)
        else:
            ctx.tell(ctx.self, left - 1)

    system.tell(system.spawn("a", acting(count)), 10_000)
    system.wait(done, LONG, tick=lambda: ticks.append(system.now))
    assert len(ticks) >= 2
    assert ticks == sorted(ticks)
