"""The engine core: whom it admits, what it reports, how it drains; scheduling itself is tested with `core.batching`."""

from __future__ import annotations

from typing import Any

import pytest
from actors.serving import STEP_S, Serving

from rakka_sim.errors import ContextLengthExceeded, OutOfMemory
from rakka_sim.messages import Cancel, Drain, Drained, GetLoad, RequestEnded, Submit, Withdrawn
from rakka_sim.runtime.api import Actor, Context
from rakka_sim.values import ExecuteBatch, Load, Sampling


def load(serving: Serving, name: str = "m-0") -> Load:
    answer: Load = serving.system.ask(serving.engine_ref(name), GetLoad(), 1.0)
    return answer


def limited(max_concurrent: int, **engine: Any) -> Serving:
    serving = Serving(deployment={"serving": {"max_concurrent": max_concurrent}}, engine=engine)
    serving.up()
    return serving


def test_the_load_is_what_there_is() -> None:
    serving = limited(3, max_num_seqs=2)
    for _ in range(5):
        serving.submit(prompt=20, output=10)
    serving.run(1.5 * STEP_S)
    # Two run (their prompts are computed), one waits in the batcher, two before it.
    assert load(serving) == Load(running=2, waiting=3, capacity=3, kv_usage=4 / 100, queued_tokens=60)
    assert serving.assigned() == {("m", 0): 5}
    serving.finish()
    assert load(serving) == Load(capacity=3)
    serving.check_idle()


def test_a_burst_of_one_instant_is_one_batch() -> None:
    serving = limited(10)
    for _ in range(4):
        serving.submit(prompt=10)
    serving.finish()
    steps = serving.log.step_columns()
    assert (steps["prefill_tokens"][0], steps["running"][0], len(steps["start"])) == (40, 4, 5)


class Insistent(Actor):
    """A client that submits another request the moment one has ended."""

    def __init__(self, serving: Serving, next_id: int) -> None:
        self._serving, self._next_id = serving, next_id
        self.ended: list[RequestEnded] = []

    def receive(self, ctx: Context, msg: Any) -> None:
        if isinstance(msg, RequestEnded):
            self.ended.append(msg)
            if len(self.ended) == 1:
                batch = ExecuteBatch(self._next_id, "m", 20, 3, ((9, 20),))
                ctx.tell(self._serving.stack.gateway, Submit(batch, ctx.self))


def test_who_came_first_is_admitted_first_even_after_a_failure() -> None:
    """A cancelled one ends with the failed step; its place is the queue's, not that of whom its client sends next."""
    serving = limited(1, runs_of_steps=False)
    insistent = Insistent(serving, next_id=900)
    client = serving.system.spawn("insistent", lambda: insistent)
    serving.system.tell(serving.stack.gateway, Submit(ExecuteBatch(800, "m", 20, 10, ((8, 20),)), client))
    waiting = serving.submit(output=3)
    serving.run(1.5 * STEP_S)
    serving.faults.next["n0"] = OutOfMemory()
    serving.run(STEP_S)
    serving.cancel(800)
    serving.finish()
    serving.run(1.0)
    assert [end.outcome for end in insistent.ended] == ["cancelled", "stop"]
    assert serving.client.ended[waiting].first_token < insistent.ended[1].first_token


TOO_LONG = {"by its prompt": (1000, 5), "far": (5000, 5)}


@pytest.mark.parametrize(("prompt", "output"), TOO_LONG.values(), ids=TOO_LONG.keys())
def test_a_prompt_that_fills_the_context_is_refused(prompt: int, output: int) -> None:
    serving = limited(10)
    request = serving.submit(prompt=prompt, output=output)
    serving.finish()
    error = serving.client.ended[request].error
    assert isinstance(error, ContextLengthExceeded)
    assert (error.tokens, error.max) == (prompt + 1, 1000)
    assert serving.records()[0]["replica"] == -1
    serving.check_idle()


@pytest.mark.parametrize(
    ("prompt", "output", "most", "tokens", "outcome"),
    [
        (999, 50, None, 1, "length"),
        (990, 50, None, 10, "length"),
        (20, 5, 3, 3, "length"),
        (20, 5, 5, 5, "length"),
        (20, 5, 6, 5, "stop"),
        (20, 0, None, 1, "stop"),
        (1, 1, None, 1, "stop"),
        (20, 2**40, 7, 7, "length"),
    ],
)
def test_where_a_request_ends(prompt: int, output: int, most: int | None, tokens: int, outcome: str) -> None:
    serving = limited(10)
    request = serving.submit(prompt=prompt, output=output, sampling=Sampling(max_tokens=most))
    serving.finish()
    assert (serving.outcome(request), len(serving.client.times(request))) == (outcome, tokens)
    serving.check_idle()


def test_a_limit_of_no_tokens_is_a_bad_request() -> None:
    serving = limited(10)
    request = serving.submit(sampling=Sampling(max_tokens=0))
    serving.finish()
    assert serving.outcome(request) == "bad_request"


def test_a_preempted_request_keeps_its_tokens() -> None:
    """Two that grow beyond the blocks there are: one is computed again, and nothing is delivered twice."""
    serving = limited(10, num_gpu_blocks=8, block_size=4, max_model_len=32)
    for _ in range(2):
        serving.submit(prompt=8, output=20)
    serving.finish()
    assert serving.outcomes() == ["stop", "stop"]
    assert sum(row["preemptions"] for row in serving.records()) > 0
    assert [len(serving.client.times(request)) for request in (1, 2)] == [20, 20]
    serving.check_idle()


def test_a_drain_waits_for_what_was_routed_and_takes_nothing_else() -> None:
    serving = limited(10)
    serving.submit(output=5)
    serving.run(1.5 * STEP_S)
    engine, answer = serving.engine_ref("m-0"), serving.system.promise("drained")
    serving.system.tell(engine, Drain(answer.ref, routed=3))
    expected = serving.submit(output=5)
    serving.run(10 * STEP_S)
    assert not answer.done, "a third one is on its way"
    serving.system.tell(engine, Withdrawn(99))
    assert serving.system.wait(answer, timeout=STEP_S) == Drained("m", 0)
    assert serving.outcome(expected) == "stop"


def test_a_drained_engine_refuses_who_was_not_expected() -> None:
    serving = limited(10)
    first = serving.submit(output=10)
    serving.run(1.5 * STEP_S)
    answer = serving.system.promise("drained")
    serving.system.tell(serving.engine_ref("m-0"), Drain(answer.ref, routed=1))
    late = serving.submit()
    serving.finish()
    assert (serving.outcome(first), serving.outcome(late)) == ("stop", "backpressure")
    assert answer.done


def test_a_cancel_for_nobody_and_words_it_does_not_know_are_harmless() -> None:
    serving = limited(10)
    request = serving.submit()
    serving.system.tell(serving.engine_ref("m-0"), Cancel(12345))
    serving.system.tell(serving.engine_ref("m-0"), "hello")
    serving.finish()
    assert serving.outcome(request) == "stop"
    assert serving.system.dead_letters == {"unhandled": 1}
    serving.check_idle()


def test_runs_of_steps_change_nothing_that_a_client_sees() -> None:
    def times(runs: bool) -> list[list[float]]:
        serving = limited(4, runs_of_steps=runs, max_num_seqs=2, num_gpu_blocks=10, max_model_len=150)
        for number in range(6):
            serving.submit(prompt=10 + number, output=30 - number, timeout_s=0.5 if number == 3 else None)
            serving.run(0.7 * STEP_S)
        serving.cancel(2)
        serving.finish()
        serving.check_idle()
        return [serving.client.times(request) for request in range(1, 7)]

    assert times(True) == times(False)
