"""`shuffle_ties`: another order for every seed, the same for the same one, and never one that breaks a promise."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rakka_sim.runtime.api import Context, Terminated
from rakka_sim.runtime.sim import SimRuntime
from tests.runtime.support import STOP, Boom, Say, Steps, acting, quiesce


def order(seed: int | None, speakers: int = 4, words: int = 5) -> list[tuple[int, int]]:
    """What a listener hears when several speak at one instant, each word as (speaker, n)."""
    system = SimRuntime(shuffle_ties=seed)
    heard: list[tuple[int, int]] = []
    listener = system.spawn("listener", acting(lambda ctx, msg: heard.append(msg)))

    def speaker(number: int) -> Any:
        return acting(lambda ctx, msg: [ctx.tell(listener, (number, n)) for n in range(words)])

    for number in range(speakers):
        system.tell(system.spawn(f"s{number}", speaker(number)), "go")
    quiesce(system)
    return heard


def test_a_shuffle_is_a_function_of_its_seed() -> None:
    orders = [order(seed) for seed in range(8)]
    assert orders == [order(seed) for seed in range(8)]
    assert len({tuple(one) for one in orders}) == 8
    assert order(None) == [(speaker, n) for speaker in range(4) for n in range(5)]


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(0, 6))
def test_a_shuffle_keeps_the_order_of_each_pair(seed: int, speakers: int, words: int) -> None:
    heard = order(seed, speakers, words)
    for speaker in range(speakers):
        assert [n for who, n in heard if who == speaker] == list(range(words))


def timed(seed: int | None) -> list[str]:
    """What happens at t = 1 s: timers of three actors, the mail they cause, and the ends of three jobs."""
    system = SimRuntime(shuffle_ties=seed)
    heard: list[str] = []

    def member(name: str) -> Any:
        def receive(ctx: Context, msg: Any) -> None:
            if msg == "go":
                ctx.run(Steps(0.5, 2), lambda _: "job")
                ctx.after(1.0, "timer 1")
                ctx.after(1.0, "timer 2")
                ctx.after(1.0, "cancelled").cancel()
            else:
                heard.append(f"{name} {msg}")
            if msg == "timer 1":
                ctx.tell(ctx.self, "mail")

        return acting(receive)

    for name in "abc":
        system.tell(system.spawn(name, member(name)), "go")
    quiesce(system)
    assert system.now == 1.0
    return heard


def test_timers_are_shuffled_into_the_mail_and_jobs_among_themselves_at_the_end() -> None:
    runs = [timed(seed) for seed in range(30)]
    plain = timed(None)
    for run in runs:
        assert sorted(run) == sorted(plain)
        assert all(text.endswith("job") for text in run[-3:])
        for name in "abc":
            assert run.index(f"{name} timer 1") < run.index(f"{name} timer 2")
    assert len({tuple(run[-3:]) for run in runs}) == 6
    assert any(text.endswith("mail") for run in runs for text in run[:3])  # mail overtakes other actors' timers
    assert plain[:6] == ["a timer 1", "a mail", "a timer 2", "b timer 1", "b mail", "b timer 2"]


def test_a_timer_already_due_can_still_be_cancelled_or_lapse() -> None:
    outcomes = set()
    for seed in range(20):
        system = SimRuntime(shuffle_ties=seed)
        heard: list[str] = []

        def receive(ctx: Context, msg: Any, heard: list[str] = heard) -> None:
            if msg == "go":
                ctx.after(1.0, ctx.after(1.0, "cancelled"))
            elif isinstance(msg, str):
                heard.append(msg)
            else:
                msg.cancel()
                heard.append("cancels")

        def fail(ctx: Context, msg: Any) -> None:
            if msg == "go":
                ctx.after(1.0, "fail")
                ctx.after(1.0, "lapses")
            else:
                raise Boom

        system.tell(system.spawn("a", acting(receive)), "go")
        system.tell(system.spawn("b", acting(fail), STOP), "go")
        quiesce(system)
        outcomes.add(tuple(heard))
        assert system.dead_letters == {"stale": 1}
    # The one set first comes first: an actor's own timers keep their order.
    assert outcomes == {("cancelled", "cancels")}


@pytest.mark.parametrize("seed", range(10))
def test_terminated_comes_after_the_last_words(seed: int) -> None:
    system = SimRuntime(shuffle_ties=seed)
    heard: list[str] = []

    def parent(ctx: Context, msg: Any) -> None:
        if msg == "go":
            for name in "abc":
                child = ctx.spawn(name, acting(last_words))
                ctx.watch(child)
                ctx.tell(child, ctx.self)
        else:
            heard.append(msg.ref.path[-1] + " gone" if isinstance(msg, Terminated) else msg)

    def last_words(ctx: Context, msg: Any) -> None:
        for word in ("one", "two"):
            ctx.tell(msg, f"{ctx.self.path[-1]} {word}")
        ctx.stop()

    system.tell(system.spawn("p", acting(parent)), "go")
    quiesce(system)
    for name in "abc":
        assert [text for text in heard if text[0] == name] == [f"{name} one", f"{name} two", f"{name} gone"]


@pytest.mark.parametrize("seed", range(10))
def test_an_answer_before_the_end_counts_in_any_order(seed: int) -> None:
    system = SimRuntime(shuffle_ties=seed)

    def answer_and_stop(ctx: Context, msg: Say) -> None:
        ctx.tell(msg.reply_to, msg.text)
        ctx.stop()

    boxes = [system.question(system.spawn(name, acting(answer_and_stop)), Say(name), 1.0) for name in "abcd"]
    assert [system.wait(box) for box in boxes] == list("abcd")
