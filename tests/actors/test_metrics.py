"""The metrics actor: its counters are sums over the log's records, each outcome by its name."""

from __future__ import annotations

import pytest
from actors.serving import STEP_S, Serving

from rakka_sim.actors.metrics import Counters, Metrics
from rakka_sim.errors import Unhandled
from rakka_sim.messages import GetLoad, GetMetrics, RequestEnded
from rakka_sim.runtime.sim import SimRuntime
from rakka_sim.values import TokenUsage


def ended(outcome: str, deployment: str = "m", output: int = 3) -> RequestEnded:
    return RequestEnded(1, deployment, 0, outcome, TokenUsage(10, output, 0, 4), 0.0, None, None)


def counted(*words: RequestEnded) -> dict[str, Counters]:
    system = SimRuntime()
    metrics = system.spawn("metrics", Metrics)
    for word in words:
        system.tell(metrics, word)
    counters: dict[str, Counters] = system.ask(metrics, GetMetrics(), 1.0)
    return counters


def test_every_outcome_is_counted_where_it_belongs() -> None:
    names = ["stop", "length", "tool_calls", "cancelled", "timeout", "timeout", "backpressure"]
    assert counted(*map(ended, names)) == {"m": Counters(3, 1, {"timeout": 2, "backpressure": 1}, 70, 21, 28)}


def test_deployments_are_counted_apart() -> None:
    counters = counted(ended("stop"), ended("stop", "other", 5))
    assert (counters["m"].output_tokens, counters["other"].output_tokens) == (3, 5)


def test_an_answer_does_not_change_afterwards() -> None:
    serving = Serving()
    serving.up()
    serving.submit()
    serving.finish()
    serving.run(STEP_S)
    before = serving.counters()
    serving.submit()
    serving.finish()
    serving.run(STEP_S)
    assert (before["m"].succeeded, serving.counters()["m"].succeeded) == (1, 2)


def test_what_it_does_not_understand_is_said() -> None:
    system = SimRuntime()
    metrics = system.spawn("metrics", Metrics)
    with pytest.raises(Unhandled):
        system.ask(metrics, GetLoad(), 1.0)


def test_the_counters_are_the_logs() -> None:
    """A full house with one of everything: served, cut short, cancelled, expired, refused, unknown, too long."""
    serving = Serving(deployment={"serving": {"max_concurrent": 6, "on_capacity_exhausted": "reject"}})
    serving.up()
    for fields in ({}, {"prompt": 995, "output": 50}, {"output": 90}, {"timeout_s": STEP_S}, {"prompt": 0}):
        serving.submit(**fields)  # type: ignore[arg-type]
    serving.submit(model="nobody")
    for _ in range(4):
        serving.submit(prompt=1001)
        serving.submit()
    serving.run(2.5 * STEP_S)
    serving.cancel(3)
    serving.finish()
    serving.check_idle()
    rows, counters = serving.records(), serving.counters()
    assert set(counters) == {"m", "nobody"}
    mine = [row for row in rows if row["deployment"] == "m"]
    ends = [row["outcome"] for row in mine]
    m = counters["m"]
    assert (m.succeeded, m.cancelled) == (ends.count("stop") + ends.count("length"), ends.count("cancelled"))
    assert set(m.failed) == {"timeout", "bad_request", "backpressure", "context_length_exceeded"}
    assert m.failed == {kind: ends.count(kind) for kind in m.failed}
    assert m.succeeded + m.cancelled + sum(m.failed.values()) == len(mine)
    assert m.input_tokens == sum(row["prompt_tokens"] for row in mine)
    assert m.output_tokens == sum(row["output_tokens"] for row in mine)
