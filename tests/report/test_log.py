"""The event log: one truth, however it was told."""

from __future__ import annotations

import hashlib
import itertools
import math
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report.schedules import BLOCK, KV_BLOCKS, Schedule, Stretch, build, schedules

from rakka_sim.errors import InvariantBroken
from rakka_sim.records import EventLog, ReplicaFacts, RequestRecord
from rakka_sim.report.summary import describe
from rakka_sim.values import FinishReason, StepOutcome, StepPlan

MORE = settings(max_examples=40)


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert list(one) == list(other)
    for name, column in one.items():
        assert column.dtype == other[name].dtype
        np.testing.assert_array_equal(column, other[name], err_msg=name)


@MORE
@given(schedules)
def test_a_run_of_steps_reads_as_its_steps_one_by_one(schedule: Schedule) -> None:
    runs, singles = schedule.log(), schedule.log(singles=True)
    same(runs.step_columns(), singles.step_columns())
    assert runs.digest() == singles.digest()


@MORE
@given(schedules, st.integers(0, 100))
def test_the_order_of_append_does_not_matter(schedule: Schedule, seed: int) -> None:
    straight, shuffled = schedule.log(), schedule.log(shuffle=seed)
    same(straight.request_columns(), shuffled.request_columns())
    same(straight.step_columns(), shuffled.step_columns())
    assert straight.digest() == shuffled.digest()


@MORE
@given(schedules)
def test_steps_are_what_a_count_by_hand_gives(schedule: Schedule) -> None:
    log = schedule.log()
    expected = []
    for stretch in schedule.stretches:
        place = log.replicas.index(schedule.replicas[stretch.replica])
        for step, outcome in enumerate(stretch.singles()):
            plan = outcome.plan
            numbers = (plan.prefill_tokens, plan.decode_seqs, plan.kv_blocks, plan.context_tokens, plan.max_context)
            gone = 0 if step else stretch.preempted
            row = (outcome.started, float(outcome.times[0]), place, *numbers, plan.running, plan.waiting, gone)
            expected.append(row)
    expected.sort(key=lambda row: (row[0], row[2]))
    columns = [column.tolist() for column in log.step_columns().values()]
    assert list(zip(*columns, strict=True)) == expected


def test_names_of_columns_and_order_by_request_id() -> None:
    log = EventLog()
    for number, name, outcome in ((7, "b", "stop"), (2, "a", "timeout"), (5, "b", FinishReason.LENGTH)):
        log.request(RequestRecord(number, name, 0, 0, 0.0, None, None, None, 1.0, 4, 0, 0, 0, outcome))
    of = log.request_columns()
    assert of["request_id"].tolist() == [2, 5, 7]
    assert [log.deployments[code] for code in of["deployment"]] == ["a", "b", "b"]
    assert [log.outcomes[code] for code in of["outcome"]] == ["timeout", "length", "stop"]
    assert np.isnan(of["scheduled"]).all()
    assert log.request_count == 3


@MORE
@given(schedules)
def test_gaps_between_tokens_by_brute_force(schedule: Schedule) -> None:
    log = schedule.log()
    requests = sorted(schedule.requests, key=lambda request: request.request_id)
    listed = [np.concatenate(request.token_times).tolist() if request.token_times else [] for request in requests]
    gaps = [[b - a for a, b in itertools.pairwise(times)] for times in listed]
    assert log.itl().tolist() == [gap for of in gaps for gap in of]
    assert log.longest_gap().tolist() == [max(of, default=0.0) for of in gaps]
    some = np.arange(len(requests)) % 2 == 0
    assert log.itl(some).tolist() == [gap for of in gaps[::2] for gap in of]
    times, begins = log.token_times()
    assert [times[a:b].tolist() for a, b in itertools.pairwise(begins)] == listed


@MORE
@given(schedules)
def test_littles_law_is_an_identity(schedule: Schedule) -> None:
    """The integral is taken here by counting who is inside between every two events."""
    log = schedule.log()
    within, arriving = log.littles_law()
    assert within == pytest.approx(arriving, rel=1e-9)
    requests = schedule.requests
    moments = sorted({moment for request in requests for moment in (request.arrival, request.ended)})
    if len(moments) < 2:
        assert within == 0.0
        return
    area = 0.0
    for begin, end in itertools.pairwise(moments):
        area += (end - begin) * sum(request.arrival <= begin and request.ended >= end for request in requests)
    assert within == pytest.approx(area / (moments[-1] - moments[0]), rel=1e-9)


@MORE
@given(schedules)
def test_what_is_consistent_passes_the_check(schedule: Schedule) -> None:
    schedule.log().check()


def test_an_empty_log() -> None:
    log = EventLog()
    log.check()
    assert len(log.step_columns()["start"]) == len(log.request_columns()["arrival"]) == 0
    assert len(log.itl()) == len(log.longest_gap()) == 0
    assert log.littles_law() == (0.0, 0.0)
    assert log.digest() == EventLog().digest()
    assert len(log.digest()) == len(hashlib.sha256().hexdigest())


def test_a_log_goes_on_after_it_was_read() -> None:
    schedule = build(3)
    whole = schedule.log()
    part = replace(schedule, stretches=schedule.stretches[:-1], requests=schedule.requests[:-1])
    log = part.log()
    before = log.digest()
    columns = log.step_columns(), log.request_columns(), log.token_times(), log.itl()  # held while it grows
    log.steps(schedule.stretches[-1].replica, schedule.stretches[-1].outcome(), schedule.stretches[-1].preempted)
    log.request(schedule.requests[-1])
    assert before != log.digest() == whole.digest()
    assert len(columns[1]["arrival"]) == len(schedule.requests) - 1


def test_columns_are_closed_to_writing() -> None:
    log = build(1).log()
    arrays = [*log.request_columns().values(), *log.step_columns().values(), *log.token_times(), log.itl()]
    for array in arrays:
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_equal_facts_are_one_replica() -> None:
    log = EventLog()
    assert log.replica(ReplicaFacts("a", 1)) == log.replica(ReplicaFacts("a", 1))
    assert log.replica(ReplicaFacts("a", 0)) != log.replica(ReplicaFacts("a", 1, kv_blocks=3))
    assert [facts.replica for facts in log.replicas] == [0, 1, 1]


def test_a_log_survives_pickling_without_what_can_be_computed_again() -> None:
    log = build(5).log()
    size = len(pickle.dumps(log))
    log.check()
    again = pickle.loads(pickle.dumps(log))
    assert len(pickle.dumps(log)) == size
    assert again.digest() == log.digest()
    again.request(replace(build(5).requests[0], request_id=10**6))
    assert again.request_count == log.request_count + 1


def test_times_of_another_type_are_taken_by_value() -> None:
    plan = StepPlan([], 3, 0, 1, 5, 5, 1, 0, 1, (0,) * BLOCK)
    log, other = EventLog(), EventLog()
    for to, times in ((log, np.array([1.0, 2.0, 3.0])), (other, np.array([1, 9, 2, 9, 3], np.float32)[::2])):
        to.steps(to.replica(ReplicaFacts("a", 0)), StepOutcome(plan, 0.0, times))
    assert log.digest() == other.digest()


def test_a_run_that_was_cut_before_its_first_step_leaves_no_trace() -> None:
    log = EventLog()
    number = log.replica(ReplicaFacts("a", 0))
    before = log.digest()
    log.steps(number, StepOutcome(StepPlan([], 3, 0, 1, 5, 5, 1, 0, 1, (0,) * BLOCK), 0.0, np.empty(0)), 1)
    assert log.digest() == before


# --- the digest sees everything


def _fields_of_a_request() -> list[str]:
    return [
        name for name in RequestRecord.__dataclass_fields__ if name not in ("request_id", "token_times", "token_steps")
    ]


@pytest.mark.parametrize("name", _fields_of_a_request())
def test_the_digest_sees_every_field_of_a_request(name: str) -> None:
    schedule = build(11)
    value: Any = getattr(schedule.requests[0], name)
    other = value + "x" if isinstance(value, str) else value + 1
    changed = [replace(schedule.requests[0], **{name: other}), *schedule.requests[1:]]
    assert replace(schedule, requests=changed).log().digest() != schedule.log().digest()


@pytest.mark.parametrize(
    "name",
    ["prefill_tokens", "decode_seqs", "context_tokens", "max_context", "running", "waiting", "kv_blocks", "crossings"],
)
def test_the_digest_sees_every_field_of_a_step(name: str) -> None:
    def digest(**changes: object) -> str:
        plan = StepPlan([], 4, 0, 2, 40, 30, 2, 1, 9, (0, 1, *[0] * (BLOCK - 2)))
        log = EventLog()
        outcome = StepOutcome(replace(plan, **changes), 0.0, np.arange(1.0, 5.0))
        log.steps(log.replica(ReplicaFacts("a", 0)), outcome)
        return log.digest()

    assert digest() == digest()
    assert digest(**{name: (1,) * BLOCK if name == "crossings" else 7}) != digest()


def test_the_digest_sees_times_tokens_preemptions_and_replicas() -> None:
    schedule = build(12)
    first = schedule.stretches[0]
    moved = replace(schedule.requests[0], token_times=tuple(times + 1e-9 for times in schedule.requests[0].token_times))
    others = [
        Schedule(schedule.replicas, [replace(first, started=first.started - 1e-9), *schedule.stretches[1:]], []),
        Schedule(schedule.replicas, [replace(first, preempted=first.preempted + 1), *schedule.stretches[1:]], []),
        Schedule(schedule.replicas, [replace(first, replica=1), *schedule.stretches[1:]], []),
        Schedule([replace(schedule.replicas[0], gpus=(5,)), *schedule.replicas[1:]], schedule.stretches, []),
        Schedule(schedule.replicas, schedule.stretches, [moved]),
        Schedule(schedule.replicas, schedule.stretches, schedule.requests[:1]),
        Schedule(schedule.replicas, schedule.stretches, []),
    ]
    digests = [other.log().digest() for other in others]
    assert len(set(digests)) == len(digests)


def test_the_digest_is_the_same_in_any_process() -> None:
    code = "from report.schedules import build; print(build(9, deployments=2).log().digest())"
    tests = str(Path(__file__).parent.parent)
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": tests},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("0", "1")
    }
    assert found == {build(9, deployments=2).log().digest()}


# --- the check


def request(**changes: Any) -> RequestRecord:
    times = (np.array([2.0]), np.array([3.0, 4.0]))
    good = RequestRecord(1, "a", 0, 0, 0.5, 1.0, 2.0, 4.0, 4.0, 10, 3, 2, 0, "stop", times)
    return replace(good, **changes)


BAD_REQUESTS = {
    "it ended before it arrived": {"ended": 0.1},
    "a time is not finite": {"ended": math.inf},
    "scheduled before it arrived": {"scheduled": 0.25},
    "scheduled after it ended": {"scheduled": 5.0},
    "first token before it was scheduled": {"scheduled": 2.5},
    "last token after it ended": {"ended": 3.5},
    "no time for its first token": {"first_token": None},
    "tokens without times": {"token_times": ()},
    "fewer tokens than times": {"output_tokens": 2},
    "no tokens, but times": {"output_tokens": 0},
    "tokens out of order": {"token_times": (np.array([2.0]), np.array([4.5, 4.0]))},
    "a first token at another time": {"first_token": 1.5},
    "a last token at another time": {"last_token": 3.5},
    "more cached than prompted": {"cached_tokens": 11},
    "negative counts": {"preemptions": -1},
    "a token's time that is no number": {"token_times": (np.array([2.0]), np.array([math.nan, 4.0]))},
}


@pytest.mark.parametrize("what", BAD_REQUESTS)
def test_a_request_that_cannot_be_is_refused(what: str) -> None:
    good, bad = EventLog(), EventLog()
    good.request(request())
    good.check()
    bad.request(request(**BAD_REQUESTS[what]))
    with pytest.raises(InvariantBroken, match="request 1: "):
        bad.check()


def test_a_second_record_is_refused_at_once() -> None:
    log = EventLog()
    log.request(request())
    with pytest.raises(InvariantBroken, match="request 1 has a second record"):
        log.request(request(outcome="timeout"))


BAD_STEPS = {
    "it ends before it begins": [Stretch(0, 1.0, [0.5], [10])],
    "two at once": [Stretch(0, 0.0, [1.0], [10]), Stretch(0, 0.9, [2.0], [10])],
    "nothing computed": [Stretch(0, 0.0, [1.0], [])],
    "more blocks than there are": [Stretch(0, 0.0, [1.0], [], [KV_BLOCKS * BLOCK + 1])],
    "a run that outgrows the blocks": [Stretch(0, 0.0, [1.0, 2.0], [KV_BLOCKS * BLOCK - 1])],
    "negative counts": [Stretch(0, 0.0, [1.0], [10], preempted=-1)],
}


@pytest.mark.parametrize("what", BAD_STEPS)
def test_a_step_that_cannot_be_is_refused(what: str) -> None:
    schedule = Schedule([ReplicaFacts("a", 3, kv_blocks=KV_BLOCKS)], BAD_STEPS[what], [])
    with pytest.raises(InvariantBroken, match="replica a/3: "):
        schedule.log().check()


BAD_STARTUPS = {
    "had its weights before it began": (1.0, 0.5, 2.0),
    "was ready before it had its weights": (0.0, 2.0, 1.0),
    "is not finite": (0.0, float("nan"), 1.0),
}


@pytest.mark.parametrize("what", BAD_STARTUPS)
def test_a_start_up_that_cannot_be_is_refused(what: str) -> None:
    schedule = Schedule([ReplicaFacts("a", 3)], [], [], [(0, *BAD_STARTUPS[what])])
    with pytest.raises(InvariantBroken, match=f"start-up of a/3: .*{what}"):
        schedule.log().check()


@pytest.mark.parametrize("column", [1, 2, 3])
def test_the_digest_sees_every_time_of_a_start_up(column: int) -> None:
    times = [0, 0.1, 0.2, 0.3]
    others = [list(times), times]
    others[0][column] += 0.01
    digests = [Schedule([ReplicaFacts("a", 0)], [], [], [tuple(row)]).log().digest() for row in others]
    assert digests[0] != digests[1] != Schedule([ReplicaFacts("a", 0)], [], []).log().digest()


def test_start_ups_are_read_by_replica_and_time_whatever_the_order_of_append() -> None:
    facts = [ReplicaFacts("b", 0), ReplicaFacts("a", 1)]
    log = Schedule(facts, [], [], [(0, 5.0, 6.0, 7.0), (1, 2.0, 2.0, 3.0), (0, 1.0, 1.5, 2.0)]).log()
    read = {name: column.tolist() for name, column in log.startup_columns().items()}
    assert [log.replicas[at].deployment for at in read["replica"]] == ["a", "b", "b"]
    assert (read["began"], read["loaded"], read["ready"]) == ([2.0, 1.0, 5.0], [2.0, 1.5, 6.0], [3.0, 2.0, 7.0])


def test_two_replicas_may_step_at_once() -> None:
    facts = [ReplicaFacts("a", 0), ReplicaFacts("a", 1)]
    Schedule(facts, [Stretch(0, 0.0, [1.0], [10]), Stretch(1, 0.5, [2.0], [10])], []).log().check()


def test_steps_that_count_more_requests_than_there_were_are_noticed() -> None:
    """Two tables that know nothing of each other: 2.5 s of steps with a request in them, and no request."""
    facts = [ReplicaFacts("a", 0), ReplicaFacts("a", 1)]
    log = Schedule(facts, [Stretch(0, 0.0, [1.0], [10]), Stretch(1, 0.5, [2.0], [10])], []).log()
    with pytest.raises(InvariantBroken, match=r"Little's law: steps of a count 2.5 s"):
        log.check_whole()


# --- what is kept by reference, or by runs, is what it stands for


def by_reference(schedule: Schedule) -> EventLog:
    """The same log, its tokens said by the steps that made them wherever a chunk is the whole of a stretch's times."""
    log = EventLog()
    numbers = [log.replica(facts) for facts in schedule.replicas]
    known = {}
    for stretch in schedule.stretches:
        first = log.steps(numbers[stretch.replica], stretch.outcome(), stretch.preempted)
        known[tuple(stretch.times)] = (numbers[stretch.replica], first, len(stretch.times))
    for request in schedule.requests:
        steps = tuple(known[tuple(chunk.tolist())] for chunk in request.token_times)
        log.request(replace(request, token_times=(), token_steps=steps))
    for place, *times in schedule.startups:
        log.startup(numbers[place], *times)
    return log


@MORE
@given(schedules)
def test_tokens_by_reference_are_tokens_by_value(schedule: Schedule) -> None:
    log, other = schedule.log(), by_reference(schedule)
    other.check()
    assert other.digest() == log.digest()
    assert other.longest_gap().tolist() == log.longest_gap().tolist()
    some = np.arange(log.request_count) % 2 == 0
    for of in (log, other):
        values, times = of.tokens.gaps(some)
        assert sorted(np.repeat(values, times).tolist()) == sorted(log.itl(some).tolist())


@MORE
@given(schedules)
def test_runs_are_their_steps(schedule: Schedule) -> None:
    log = schedule.log()
    steps = {place: of for place, of in log.each_replica() if len(of["start"])}
    runs = {place: (of, ends) for place, of, ends in log.each_replicas_runs() if len(ends)}
    assert steps.keys() == runs.keys()
    for place, (of, ends) in runs.items():
        heads = np.searchsorted(steps[place]["start"], of["start"])
        assert ends.tolist() == steps[place]["end"].tolist()
        assert of["end"].tolist() == steps[place]["end"][heads].tolist()
        assert of["most_blocks"].tolist() == np.maximum.reduceat(steps[place]["kv_blocks"], heads).tolist()
        took = steps[place]["end"] - steps[place]["start"]
        decoding, present = dict(log.occupied())[log.replicas[place]]
        assert decoding == pytest.approx(float((steps[place]["decode_seqs"] * took).sum()))
        there = steps[place]["running"] + steps[place]["waiting"]
        assert present == pytest.approx(float((there * took).sum()))


def test_who_joins_in_a_run_is_there_from_then_on() -> None:
    log = EventLog()
    number = log.replica(ReplicaFacts("a", 0))
    plan = StepPlan([], 4, 0, 1, 5, 5, 1, 0, 1, (0,) * BLOCK)
    log.steps(number, StepOutcome(plan, 0.0, np.array([1.0, 2.0, 3.0, 4.0])), 0, [(1.5, 1), (2.5, 0), (3.9, 7)])
    assert log.step_columns()["waiting"].tolist() == [0, 0, 1, 0]
    assert [occupied for _, occupied in log.occupied()] == [(4.0, 5.0)]


@MORE
@given(st.lists(st.tuples(st.floats(0.0, 10.0), st.integers(1, 5)), min_size=1, max_size=30))
def test_a_description_of_counted_values_is_that_of_the_values(counted: list[tuple[float, int]]) -> None:
    values, times = np.array([value for value, _ in counted]), np.array([count for _, count in counted])
    ours, plain = describe(values, times), describe(np.repeat(values, times))
    assert ours == pytest.approx(plain, rel=1e-9, abs=1e-9)
