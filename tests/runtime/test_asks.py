"""Asks and flows: every question ends, with its answer or with an error that says why not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from rakka_sim.errors import ActorRestarted, ActorStopped, AskTimeout, InputError
from rakka_sim.runtime.api import Context
from rakka_sim.runtime.base import ActorSystem
from tests.runtime.support import (
    ESCALATE,
    LONG,
    RESTART,
    RESUME,
    SOON,
    STOP,
    Acting,
    Boom,
    Ping,
    Say,
    acting,
    boom,
    quiesce,
)


def echo(ctx: Context, msg: Say) -> None:
    ctx.tell(msg.reply_to, msg.text)


def silent(ctx: Context, msg: Say) -> None:
    """Hold every question for ever."""


def asking(target: Any, done: Any, timeout: float = LONG) -> Callable[[], Acting]:
    """An actor that asks `target` what it is told, and tells `done` the answer or the error."""

    async def ask(ctx: Context, text: str) -> None:
        try:
            ctx.tell(done, await ctx.ask(target, Say(text), timeout))
        except Exception as error:
            ctx.tell(done, error)

    return acting(lambda ctx, msg: ctx.flow(ask(ctx, msg)))


def test_an_ask_from_outside_is_answered(system: ActorSystem) -> None:
    question = Say("hello")
    assert system.ask(system.spawn("echo", acting(echo)), question, LONG) == "hello"
    assert question.reply_to is None  # a copy travels


def test_an_answer_that_is_an_error_is_raised(system: ActorSystem) -> None:
    refuse = system.spawn("refuse", acting(lambda ctx, msg: ctx.tell(msg.reply_to, Boom("no"))))
    with pytest.raises(Boom, match="no"):
        system.ask(refuse, Say("please"), LONG)


def test_an_ask_has_a_deadline(system: ActorSystem) -> None:
    deaf = system.spawn("deaf", acting(silent))
    before = system.now
    with pytest.raises(AskTimeout) as error:
        system.ask(deaf, Say("hello?"), SOON)
    assert (error.value.path, error.value.seconds) == ("/deaf", SOON)
    assert system.now >= before + SOON


def test_a_late_or_second_answer_is_stale(system: ActorSystem) -> None:
    def late(ctx: Context, msg: Any) -> None:
        if isinstance(msg, Say):
            ctx.after(3 * SOON, msg.reply_to)
        else:
            ctx.tell(msg, "late")
            ctx.tell(msg, "again")

    slow = system.spawn("slow", acting(late))
    with pytest.raises(AskTimeout):
        system.ask(slow, Say("hello?"), SOON)
    quiesce(system)
    assert system.dead_letters == {"stale": 2}


def test_asking_a_stopped_actor_says_so(system: ActorSystem) -> None:
    actor = system.spawn("a", acting(lambda ctx, msg: ctx.stop()))
    system.tell(actor, "stop")
    with pytest.raises(ActorStopped) as error:
        system.ask(actor, Ping(), LONG)
    assert error.value.path == "/a"


def test_a_question_waiting_in_the_mailbox_of_an_actor_that_stops_is_answered(system: ActorSystem) -> None:
    done = system.promise("done")
    victim = system.spawn("victim", acting(lambda ctx, msg: ctx.stop()))
    asker = system.spawn("asker", asking(victim, done.ref))
    both = system.spawn("both", acting(lambda ctx, msg: [ctx.tell(asker, "q"), ctx.tell(victim, "stop")]))
    system.tell(both, "go")
    with pytest.raises(ActorStopped):
        system.wait(done, LONG)


@pytest.mark.parametrize(
    ("strategy", "held", "in_hand"),
    [(STOP, ActorStopped, Boom), (RESTART, ActorRestarted, Boom), (RESUME, AskTimeout, Boom)],
)
def test_questions_of_an_actor_that_fails_are_answered(
    system: ActorSystem, strategy: Any, held: type[Exception], in_hand: type[Exception]
) -> None:
    """The one it failed at gets the error; those it held get the reason why no answer will come, if none will."""

    def receive(ctx: Context, msg: Say) -> None:
        if msg.text == "fail":
            raise Boom("at this question")

    victim = system.spawn("victim", acting(receive), strategy)
    first, second = system.promise("first"), system.promise("second")
    system.tell(system.spawn("patient", asking(victim, first.ref, SOON if strategy is RESUME else LONG)), "hold this")
    quiesce_mail(system, victim)
    system.tell(system.spawn("other", asking(victim, second.ref)), "fail")
    with pytest.raises(in_hand):
        system.wait(second, LONG)
    with pytest.raises(held):
        system.wait(first, LONG)


def quiesce_mail(system: ActorSystem, actor: Any) -> None:
    """Until what was told so far has arrived two hops away."""
    for _ in range(3):
        system.ask(actor, Ping(), LONG)


def test_an_answer_given_just_before_the_end_counts(system: ActorSystem) -> None:
    def answer_and_stop(ctx: Context, msg: Say) -> None:
        echo(ctx, msg)
        if msg.text == "stop":
            ctx.stop()
        else:
            raise Boom

    for text in ("stop", "fail"):
        actor = system.spawn(text, acting(answer_and_stop), STOP)
        assert system.ask(actor, Say(text), LONG) == text
    assert system.dead_letters == {}


def test_the_asker_of_an_actor_whose_ancestor_stops_hears(system: ActorSystem) -> None:
    refs: list[Any] = []

    def parent(ctx: Context, msg: str) -> None:
        if msg == "spawn":
            refs.append(ctx.spawn("child", acting(silent)))
        else:
            ctx.stop()

    grandpa = system.spawn("p", acting(parent))
    system.tell(grandpa, "spawn")
    system.ask(grandpa, Ping(), LONG)
    done = system.promise("done")
    system.tell(system.spawn("asker", asking(refs[0], done.ref)), "q")
    quiesce_mail(system, refs[0])
    system.tell(grandpa, "stop")
    with pytest.raises(ActorStopped) as error:
        system.wait(done, LONG)
    assert error.value.path == "/p/child"


@pytest.mark.parametrize("message", ["text", 3, object()])
def test_a_message_without_reply_to_cannot_be_asked(system: ActorSystem, message: object) -> None:
    actor = system.spawn("a", acting(silent))
    with pytest.raises(InputError):
        system.ask(actor, message, LONG)


def test_only_actors_can_be_asked_and_only_with_a_finite_deadline(system: ActorSystem) -> None:
    with pytest.raises(InputError):
        system.ask(system.promise("p").ref, Ping(), LONG)
    with pytest.raises(InputError):
        system.ask(system.spawn("a", acting()), Ping(), float("inf"))


# --- flows ------------------------------------------------------------------------------------------------------


def test_a_flow_asks_in_sequence_and_hears_messages_meanwhile(system: ActorSystem) -> None:
    heard: list[str] = []
    done = system.promise("done")

    def slow(ctx: Context, msg: Any) -> None:
        if isinstance(msg, Say):
            ctx.after(SOON, (msg.reply_to, msg.text.upper()))
            if msg.text == "two":
                ctx.tell(asker, "meanwhile")
        else:
            ctx.tell(*msg)

    answerer = system.spawn("slow", acting(slow))

    async def steps(ctx: Context) -> None:
        for text in ("one", "two", "three"):
            heard.append(await ctx.ask(answerer, Say(text), LONG))
        ctx.tell(done.ref, "done")

    def receive(ctx: Context, msg: str) -> None:
        if msg == "go":
            ctx.flow(steps(ctx))
        else:
            heard.append(msg)

    asker = system.spawn("a", acting(receive))
    system.tell(asker, "go")
    system.wait(done, LONG)
    assert heard == ["ONE", "meanwhile", "TWO", "THREE"]


def test_questions_of_one_flow_can_be_under_way_together(system: ActorSystem) -> None:
    done = system.promise("done")
    answerer = system.spawn("echo", acting(echo))

    async def steps(ctx: Context) -> None:
        first, second = (ctx.ask(answerer, Say(text), LONG) for text in ("one", "two"))
        ctx.tell(done.ref, (await second, await first, await first))

    system.tell(system.spawn("a", acting(lambda ctx, msg: ctx.flow(steps(ctx)))), "go")
    assert system.wait(done, LONG) == ("two", "one", "one")


def test_an_error_in_a_flow_fails_the_actor_and_answers_the_question_it_served(system: ActorSystem) -> None:
    seen: list[Any] = []
    answerer = system.spawn("echo", acting(echo))

    async def steps(ctx: Context) -> None:
        raise Boom(await ctx.ask(answerer, Say("asked"), LONG))

    def parent(ctx: Context, msg: Any) -> None:
        ctx.tell(msg.reply_to, ctx.spawn("child", acting(lambda ctx, msg: ctx.flow(steps(ctx))), STOP))

    def child_failed(ctx: Context, child: Any, error: Exception, directive: Any) -> None:
        seen.append((child.path, str(error), directive))

    child = system.ask(system.spawn("p", acting(parent, child_failed=child_failed)), Say("spawn"), LONG)
    with pytest.raises(Boom, match="asked"):
        system.ask(child, Say("work"), LONG)
    assert seen == [("/p/child", "asked", "stop")]


def test_an_error_before_the_first_await_fails_the_actor(system: ActorSystem) -> None:
    async def steps() -> None:
        raise Boom("at once")

    actor = system.spawn("a", acting(lambda ctx, msg: ctx.flow(steps())), STOP)
    with pytest.raises(Boom, match="at once"):
        system.ask(actor, Say("go"), LONG)


@pytest.mark.parametrize("end", ["restart", "stop"])
def test_a_flow_is_closed_when_its_incarnation_ends(system: ActorSystem, end: str) -> None:
    log: list[str] = []

    def late(ctx: Context, msg: Any) -> None:
        if isinstance(msg, Say):
            ctx.after(2 * SOON, msg.reply_to)
        else:
            ctx.tell(msg, "late answer")

    answerer = system.spawn("late", acting(late))

    async def steps(ctx: Context) -> None:
        try:
            await ctx.ask(answerer, Say("q"), LONG)
            log.append("went on")
        finally:
            log.append("closed")

    def receive(ctx: Context, msg: str) -> None:
        if msg == "go":
            ctx.flow(steps(ctx))
            ctx.after(SOON, "end")
        elif end == "stop":
            ctx.stop()
        else:
            raise Boom

    system.tell(system.spawn("a", acting(receive, stopped=lambda ctx: log.append("stopped")), RESTART), "go")
    quiesce(system)
    assert log == ["closed", "stopped"]
    assert system.dead_letters == {"stale": 1}  # the answer that came too late


def test_a_flow_awaits_nothing_but_asks(system: ActorSystem) -> None:
    async def steps(ctx: Context) -> None:
        try:
            await asyncio.sleep(0)
        except InputError as error:
            ctx.tell(done.ref, error.where)

    done = system.promise("done")
    system.tell(system.spawn("a", acting(lambda ctx, msg: ctx.flow(steps(ctx)))), "go")
    assert system.wait(done, LONG) == "flow of /a"


def test_a_question_of_a_failed_flow_is_not_left_waiting_when_the_system_stops(system: ActorSystem) -> None:
    deaf = system.spawn("deaf", acting(silent))
    pending = system.question(deaf, Say("hello?"), LONG)
    system.stop()
    with pytest.raises(ActorStopped):
        system.wait(pending, LONG)
    with pytest.raises(ActorStopped):
        system.ask(deaf, Say("anyone?"), LONG)


def test_a_question_asked_of_a_failing_top_level_actor(system: ActorSystem) -> None:
    actor = system.spawn("a", acting(boom), ESCALATE)
    with pytest.raises(Boom):
        system.ask(actor, Say("go"), LONG)
    assert isinstance(system.failure, Boom)
