"""Traces: what is in them, that two runs can be compared, and that both runtimes make the same one."""

from __future__ import annotations

import enum
import itertools
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rakka_sim.core.kv import KvCache
from rakka_sim.core.pipelined import PipelinedBatcher
from rakka_sim.core.sequence import BatchingLimits
from rakka_sim.core.supervision import Directive, Supervision
from rakka_sim.core.waiting import WaitingQueue
from rakka_sim.errors import ContextPoisoned, InputError, NotDeterministic
from rakka_sim.messages import Stepped
from rakka_sim.runtime.api import Context, Terminated
from rakka_sim.runtime.base import ActorSystem
from rakka_sim.runtime.encoding import encode
from rakka_sim.runtime.live import LiveRuntime
from rakka_sim.runtime.replay import Trace, assert_same_trace, first_difference
from rakka_sim.runtime.sim import SimRuntime
from rakka_sim.values import StepOutcome, StepPlan
from tests.runtime.support import LONG, SOON, STOP, Boom, Say, Steps, acting, quiesce

# --- the canonical text -----------------------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = 1


class Word(enum.StrEnum):
    YES = "yes"


class Plain:
    def __init__(self) -> None:
        self.x = 1


@dataclass(eq=False)
class Failed(Exception):
    code: int


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "None"),
        ((1, "a", b"b", True), "tuple(1, 'a', b'b', True)"),
        ([0.1, np.float64(0.1), float("nan")], "list(0.1, 0.1, nan)"),
        (np.int64(3), "3"),
        ({"b": 1, "a": [2]}, "{'b': 1, 'a': list(2)}"),
        ({"c", "a", "b"}, "set('a', 'b', 'c')"),
        ((Colour.RED, Word.YES), "tuple(Colour.RED, Word.YES)"),
        (Say("hi"), "Say(text='hi', reply_to=None)"),
        (Plain(), "Plain(x=1)"),
        (Failed(3), "Failed(code=3)"),
        (ContextPoisoned("why"), "ContextPoisoned(reason='why')"),
        (ValueError("bad", 1), "ValueError(args=tuple('bad', 1))"),
        (Path("a/b"), "PosixPath('a/b')"),
        (encode, "rakka_sim.runtime.encoding.encode"),
        (Plain, "tests.runtime.test_replay.Plain"),
        (np.array(["a", None], dtype=object), "array(list('a', None))"),
    ],
)
def test_messages_have_one_text(value: Any, text: str) -> None:
    assert encode(value) == text


def test_an_object_of_a_module_that_may_be_compiled_has_the_same_text_either_way() -> None:
    """A compiled class has neither slots nor a `__dict__`, and sorts what it has otherwise."""
    assert encode(WaitingQueue()) == "WaitingQueue(_classes={}, _order=list(), count=0)"
    batcher = PipelinedBatcher(BatchingLimits(4, 64, 128), KvCache(8, 16))
    assert encode(batcher).startswith(
        "PipelinedBatcher(_before=list(), _clock=0, _cut=False, _decoding=Decoding(_beat="
    )


def test_arrays_go_by_type_shape_and_content() -> None:
    zeros = np.zeros(4)
    same, others = zeros.copy(), [np.zeros(5), np.zeros((2, 2)), np.zeros(4, np.float32), np.array([0, 0, 0, 1.0])]
    assert encode(zeros) == encode(same)
    assert len({encode(other) for other in [zeros, *others]}) == 5
    assert encode(np.arange(6)[::2]) == encode(np.array([0, 2, 4]))


def test_what_holds_itself_has_a_text_too() -> None:
    ring: list[Any] = [1]
    ring.append(ring)
    assert encode(ring) == "list(1, ...)"


def test_a_message_of_the_protocol() -> None:
    plan = StepPlan([], 1, 0, 0, 0, 0, 0, 0, 0)
    text = encode(Stepped(StepOutcome(plan, 0.1, np.array([0.2]), {7: [1]})))
    assert text.startswith("Stepped(outcome=StepOutcome(plan=StepPlan(rows=list(), steps=1")
    assert text.endswith("tokens={7: list(1)}, broken=tuple(), goes_on=False))")


def test_addresses_go_by_path() -> None:
    trace = Trace(keep=True)
    system = SimRuntime(trace=trace)
    actor = system.spawn("a", acting(lambda ctx, msg: ctx.tell(msg.reply_to, ctx.self)))
    system.ask(actor, Say("who?"), 1.0)
    assert [str(delivery) for delivery in trace.deliveries] == [
        "t=0.0 s, to /a: Say(text='who?', reply_to=<?1>)",
        "t=0.0 s, to ?1: </a>",
    ]
    assert trace.count == 2


SETS = """
from rakka_sim.runtime.encoding import encode
print(encode(({"c", "a", "b"}, frozenset({("x", 1), ("y", 2)}), {"k": {"d", "e"}})))
"""


def test_the_text_does_not_depend_on_hash_order() -> None:
    texts = set()
    for seed in ("0", "1"):
        run = subprocess.run(
            [sys.executable, "-c", SETS], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        )
        texts.add(run.stdout)
    assert len(texts) == 1


# --- two runs ---------------------------------------------------------------------------------------------------


def counting(system: ActorSystem, upto: int, odd: Any = None) -> None:
    """One actor counts by timers; `odd` replaces the third message."""

    def receive(ctx: Context, msg: Any) -> None:
        if msg != "go":
            return
        for number in range(upto):
            ctx.after(float(number), odd if odd is not None and number == 2 else number)

    system.tell(system.spawn("a", acting(receive)), "go")
    quiesce(system)


def test_the_same_run_has_the_same_digest() -> None:
    digests = []
    for keep in (False, True):
        trace = Trace(keep)
        counting(SimRuntime(trace=trace), 5)
        digests.append(trace.digest)
        assert (trace.count, len(trace.deliveries)) == (6, 6 if keep else 0)
    assert digests[0] == digests[1]
    assert assert_same_trace(lambda trace: counting(SimRuntime(trace=trace), 5)) == digests[0]


def test_the_first_differing_message_is_named() -> None:
    odd = iter([None, "odd"])
    with pytest.raises(NotDeterministic) as error:
        assert_same_trace(lambda trace: counting(SimRuntime(trace=trace), 5, next(odd)))
    assert error.value.index == 3
    assert error.value.first == "t=2.0 s, to /a: 2"
    assert error.value.second == "t=2.0 s, to /a: 'odd'"


def test_a_run_that_ends_early_is_named_too() -> None:
    upto = iter([3, 2])
    with pytest.raises(NotDeterministic) as error:
        assert_same_trace(lambda trace: counting(SimRuntime(trace=trace), next(upto)))
    assert (error.value.index, error.value.first, error.value.second) == (3, "t=2.0 s, to /a: 2", None)


def test_times_count_unless_told_otherwise() -> None:
    one, two = Trace(keep=True), Trace(keep=True)
    one.record(1.0, "/a", "x")
    two.record(2.0, "/a", "x")
    assert one.digest != two.digest
    parting = first_difference(one, two)
    assert parting is not None
    assert parting.index == 0
    assert first_difference(one, two, times=False) is None


def test_traces_that_were_not_kept_cannot_be_compared() -> None:
    with pytest.raises(InputError):
        first_difference(Trace(keep=True), Trace())


def test_a_shuffled_run_can_be_replayed() -> None:
    def run(trace: Trace, seed: int) -> None:
        system = SimRuntime(shuffle_ties=seed, trace=trace)
        supervised(system)

    digests = [assert_same_trace(lambda trace, seed=seed: run(trace, seed)) for seed in range(4)]
    assert len(set(digests)) > 1


# --- both runtimes ----------------------------------------------------------------------------------------------


def supervised(system: ActorSystem) -> None:
    """A manager whose workers run jobs, fail, are restarted, stopped and replaced, and a client that asks."""
    done = system.promise("done")
    ids = itertools.count()

    def worker(ctx: Context, msg: Any) -> None:
        if isinstance(msg, Say) and msg.text.startswith("work "):
            ctx.run(Steps(SOON, 1 + int(msg.text[-1])), lambda steps: Say(f"worked {steps}", msg.reply_to))
        elif isinstance(msg, Say) and msg.text.startswith("worked"):
            ctx.tell(msg.reply_to, msg.text)
        elif isinstance(msg, Say):
            raise Boom(msg.text)

    def manager(ctx: Context, msg: Any) -> None:
        if isinstance(msg, Terminated):
            ctx.tell(done.ref, str(msg.error))
        elif msg == "go":
            ctx.flow(script(ctx))

    strategy = Supervision(max_restarts=1, within_s=LONG, decide=lambda _: Directive.RESTART)

    async def script(ctx: Context) -> None:
        team = ctx.spawn("team", acting(started=lambda ctx: [ctx.spawn(f"w{next(ids)}", acting(worker), strategy)]))
        solo = ctx.spawn("solo", acting(worker), STOP)
        ctx.watch(solo)
        for text in ("work 1", "work 3"):
            ctx.tell(team, await ctx.ask(solo, Say(text), LONG))
        try:
            await ctx.ask(solo, Say("fail"), LONG)
        except Boom as error:
            ctx.tell(team, error)

    system.tell(system.spawn("manager", acting(manager)), "go")
    assert system.wait(done, LONG) == "fail"
    system.stop()


def test_both_runtimes_deliver_the_same_messages_in_the_same_order() -> None:
    sim, live = Trace(keep=True), Trace(keep=True)
    supervised(SimRuntime(trace=sim))
    supervised(LiveRuntime(trace=live))
    assert sim.count >= 12
    assert first_difference(sim, live, times=False) is None
