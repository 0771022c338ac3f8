"""The load generator: each request at its time, once; it says when all have ended, and stops when it is told to."""

from __future__ import annotations

from typing import Any

import pytest
from actors.serving import STEP_S, Serving
from scenarios.stacks import Script

from rakka_sim.actors.client import Go, LoadGenerator, WorkloadDone
from rakka_sim.values import ExecuteBatch


def batch(number: int, output: int = 5) -> ExecuteBatch:
    return ExecuteBatch(number, "m", 10, output, ((number, 10),))


class Turns:
    """A user who thinks for a while after each answer: the next request is known when the last one has ended."""

    skipped = 0

    def __init__(self, turns: int, think_s: float) -> None:
        self._left, self._think_s = turns, think_s
        self._next: float | None = 0.0
        self.total: int | None = None
        self.ends: list[tuple[int, float, int]] = []

    @property
    def exhausted(self) -> bool:
        return self._left == 0

    def peek(self) -> float | None:
        return self._next if self._left else None

    def pop(self) -> ExecuteBatch:
        self._left, self._next = self._left - 1, None
        return batch(100 - self._left)

    def ended(self, request_id: int, now: float, output_tokens: int) -> None:
        self.ends.append((request_id, now, output_tokens))
        self._next = now + self._think_s


def generate(serving: Serving, source: Any, stop_after_s: float | None = None) -> tuple[LoadGenerator, WorkloadDone]:
    done = serving.system.promise("done")
    generator = LoadGenerator(source, serving.stack.gateway, done.ref, stop_after_s)
    client = serving.system.spawn("client", lambda: generator)
    serving.system.tell(client, Go())
    return generator, serving.system.wait(done)


def up(**fields: Any) -> Serving:
    serving = Serving(**fields)
    serving.up()
    return serving


def test_requests_come_at_their_times_counted_from_the_start() -> None:
    serving = up(engine={"startup_s": 3.0})
    source = Script([(0.0, batch(1)), (0.5, batch(2)), (0.5, batch(3)), (2.0, batch(4))])
    generator, done = generate(serving, source)
    assert [row["arrival"] for row in serving.records()] == [3.0, 3.5, 3.5, 5.0]
    assert (generator.ended, done.ended, done.at) == (4, 4, pytest.approx(5.0 + 5 * STEP_S))
    assert sorted(source.ended_ids) == [1, 2, 3, 4]


def test_a_workload_of_nothing_is_done_at_once() -> None:
    assert generate(up(), Script([]))[1] == WorkloadDone(0, 0.0)


def test_the_next_turn_comes_a_thought_after_the_last_word() -> None:
    serving = up()
    source = Turns(3, think_s=1.0)
    generate(serving, source)
    arrivals = [row["arrival"] for row in serving.records()]
    assert arrivals == pytest.approx([0.0, 1.0 + 5 * STEP_S, 2.0 + 10 * STEP_S])
    assert [(output, now) for _, now, output in source.ends] == [(5, pytest.approx(at + 5 * STEP_S)) for at in arrivals]


def test_a_stop_cancels_what_is_open_and_submits_no_more() -> None:
    serving = up()
    source = Script([(0.0, batch(1)), (0.0, batch(2, output=500)), (0.3, batch(3, output=500)), (0.9, batch(4))])
    _, done = generate(serving, source, stop_after_s=0.6)
    assert done.ended == 3
    assert 0.6 <= done.at <= 0.6 + STEP_S
    assert [row["outcome"] for row in serving.records()] == ["stop", "cancelled", "cancelled"]


def test_a_stop_with_nothing_open_ends_it_then() -> None:
    serving = up()
    _, done = generate(serving, Script([(0.0, batch(1)), (5.0, batch(2))]), stop_after_s=1.0)
    assert (done.ended, done.at) == (1, 1.0)


def test_who_is_refused_has_ended_too() -> None:
    """A request that no engine will ever see still counts, and what waits for its end comes."""
    serving = up()
    unknown = ExecuteBatch(1, "nobody", 10, 5, ((1, 10),))
    _, done = generate(serving, Script([(0.0, unknown), (0.1, batch(2))]))
    assert done.ended == 2
    assert [row["outcome"] for row in serving.records()] == ["not_found", "stop"]


def test_an_id_used_twice_ends_twice() -> None:
    serving = up()
    _, done = generate(serving, Script([(0.0, batch(1)), (0.0, batch(1)), (1.0, batch(2))]))
    assert done.ended == 3
    assert [row["outcome"] for row in serving.records()] == ["stop", "stop"]
