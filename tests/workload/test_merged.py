"""Several workloads as one source."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rakka_sim.errors import InvariantBroken
from rakka_sim.workload.source import merge

Build = Callable[..., Any]
FIXED = {"kind": "fixed", "prompt": 10, "output": 5}
PREFIX = {"groups": 4, "tokens": 8}


def test_merged_sources_keep_their_order_and_share_nothing(build: Build, drain: Build) -> None:
    open_loop = {"requests": 30, "arrivals": {"kind": "poisson", "rate": 5}, "lengths": FIXED, "prefix": PREFIX}
    chats = {
        "requests": 30,
        "arrivals": {"kind": "closed", "concurrency": 3},
        "lengths": FIXED,
        "prefix": PREFIX,
        "sessions": {"turns": {"kind": "fixed", "turns": 3}},
    }
    alone = [drain(build(open_loop, seed=1)), drain(build(chats, seed=2)), drain(build(open_loop, seed=3))]
    inner = merge([build(chats, seed=2), build(open_loop, seed=3)])
    merged = merge([build(open_loop, seed=1), inner])
    assert merged.total == 90
    got = drain(merged)
    assert (merged.exhausted, merged.skipped) == (True, 0)
    assert [at for at, _ in got] == sorted(at for one in alone for at, _ in one)
    ids = [request.request_id for _, request in got]
    assert len(set(ids)) == 90
    sources: list[set[int]] = [set(), set(), set()]
    lanes: list[list[int]] = [[], [], []]
    for _, request in got:
        outer, rest = (request.request_id - 1) % 2, (request.request_id - 1) // 2
        lane = outer + (rest % 2) * outer
        lanes[lane].append(request.request_id)
        sources[lane].update(source for source, _ in request.content)
    assert [len(lane) for lane in lanes] == [30, 30, 30]
    assert all(lane == sorted(lane) for lane in lanes)
    assert len(set.union(*sources)) == sum(map(len, sources))
    talks = {request.session for _, request in alone[1]}
    assert {request.session for _, request in got if request.session} == {2 + 4 * (talk - 1) for talk in talks}


def test_an_end_reaches_the_source_it_belongs_to(build: Build) -> None:
    def users(think: float) -> dict[str, Any]:
        arrivals = {"kind": "closed", "concurrency": 1, "think_time_s": think}
        return {"requests": 50, "arrivals": arrivals, "lengths": FIXED}

    merged = merge([build(users(1)), merge([build(users(10)), merge([build(users(100)), build(users(1000))])])])
    ids = [merged.pop().request_id for _ in range(4)]
    for request_id, think in zip(ids, (1.0, 10.0, 100.0, 1000.0), strict=True):
        assert merged.peek() is None
        merged.ended(request_id, 5.0, 5)
        assert merged.peek() == 5.0 + think
        merged.pop()


def test_the_earlier_source_comes_first(build: Build, drain: Build) -> None:
    table = {"requests": 3, "arrivals": {"kind": "constant", "rate": 1}, "lengths": FIXED}
    got = drain(merge([build(table), build({**table, "lengths": {**FIXED, "prompt": 77}})]))
    assert [request.prompt_tokens for _, request in got] == [10, 77] * 3
    assert [request.request_id for _, request in got] == [1, 2, 3, 4, 5, 6]


def test_a_total_that_one_does_not_know_nobody_knows(build: Build) -> None:
    table = {"requests": 3, "arrivals": {"kind": "constant", "rate": 1}, "lengths": FIXED}
    assert merge([build(table), build({**table, "duration_s": 9})]).total is None
    empty = merge([])
    assert (empty.total, empty.exhausted, empty.peek()) == (0, True, None)
    with pytest.raises(InvariantBroken):
        empty.pop()
