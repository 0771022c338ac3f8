"""Small consistent runs made without any engine, and their steps one by one from first principles. No test is here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from hypothesis import strategies as st

from rakka_sim.records import EventLog, ReplicaFacts, RequestRecord
from rakka_sim.values import StepOutcome, StepPlan

BLOCK = 16
KV_BLOCKS = 500


def blocks(tokens: int) -> int:
    return -(-tokens // BLOCK)


@dataclass
class Stretch:
    """Steps of one replica in a row: a prefill (no contexts) or a run of decode steps, with the contexts before it."""

    replica: int
    started: float
    times: list[float]
    contexts: list[int]
    prompts: list[int] = field(default_factory=list)
    waiting: int = 0
    preempted: int = 0
    planned: int = 0

    def outcome(self) -> StepOutcome:
        """As an engine reports it: one plan for the whole, possibly planned longer than it ran."""
        crossings = tuple(sum((context + r) % BLOCK == 0 for context in self.contexts) for r in range(BLOCK))
        steps = max(self.planned, len(self.times))
        plan = replace(self._plan(0), steps=steps, crossings=crossings if steps > 1 else ())
        return StepOutcome(plan, self.started, np.array(self.times))

    def singles(self) -> Iterator[StepOutcome]:
        """The same, each step planned by itself."""
        for step, time in enumerate(self.times):
            started = self.times[step - 1] if step else self.started
            yield StepOutcome(self._plan(step), started, np.array([time]))

    def _plan(self, step: int) -> StepPlan:
        contexts = [context + step for context in self.contexts]
        rows = len(contexts) + len(self.prompts)
        used = sum(blocks(context + 1) for context in contexts) + sum(map(blocks, self.prompts))
        longest = max([*contexts, 0])
        decoded = len(contexts)
        return StepPlan([], 1, sum(self.prompts), decoded, sum(contexts), longest, rows, self.waiting, used)


@dataclass
class Schedule:
    """What happened in a run, and the log of it."""

    replicas: list[ReplicaFacts]
    stretches: list[Stretch]
    requests: list[RequestRecord]
    startups: list[tuple[int, float, float, float]] = field(default_factory=list)  # replica; began, loaded, ready

    def log(self, *, singles: bool = False, shuffle: int | None = None) -> EventLog:
        """The log; `shuffle` seeds another order of append (each replica's own steps stay in order)."""
        log = EventLog()
        facts, stretches, requests = list(enumerate(self.replicas)), list(self.stretches), list(self.requests)
        startups = list(self.startups)
        if shuffle is not None:
            rng = np.random.default_rng(shuffle)
            facts = [facts[k] for k in rng.permutation(len(facts))]
            requests = [requests[k] for k in rng.permutation(len(requests))]
            startups = [startups[k] for k in rng.permutation(len(startups))]
            order = {int(place): rank for rank, place in enumerate(rng.permutation(len(facts)))}
            stretches.sort(key=lambda stretch: order[stretch.replica])
        numbers = {place: log.replica(of) for place, of in facts}
        for request in requests:
            log.request(request)
        for place, *times in startups:
            log.startup(numbers[place], *times)
        for stretch in stretches:
            if singles:
                for step, outcome in enumerate(stretch.singles()):
                    log.steps(numbers[stretch.replica], outcome, 0 if step else stretch.preempted)
            else:
                log.steps(numbers[stretch.replica], stretch.outcome(), stretch.preempted)
        return log


def build(seed: int, replicas: int = 2, batches: int = 3, deployments: int = 1) -> Schedule:
    """Batches of requests, one after the other on each replica; some requests fail in several ways."""
    rng = np.random.default_rng(seed)
    schedule = Schedule([], [], [])
    for place in range(replicas):
        name, price = f"model-{place % deployments}", 2.5 + place % deployments
        facts = ReplicaFacts(name, place // deployments, f"node-{place}", (0, place), "H200", KV_BLOCKS, BLOCK, price)
        schedule.replicas.append(facts)
        now = float(rng.uniform(0, 0.1))
        for _ in range(int(rng.integers(0, 3))):
            began, loaded, ready = np.sort(rng.uniform(0, 0.1, 3)).tolist()
            schedule.startups.append((place, began, loaded, ready))
        for _ in range(batches):
            now = _batch(schedule, rng, place, now + float(rng.exponential(0.01)))
    for _ in range(int(rng.integers(0, 3))):
        _turned_away(schedule, rng)
    return schedule


def _batch(schedule: Schedule, rng: np.random.Generator, place: int, now: float) -> float:
    """One prefill, then decode runs from finish to finish; the time at which it ends."""
    count = int(rng.integers(1, 5))
    prompts = rng.integers(1, 90, count).tolist()
    outputs = sorted(rng.integers(1, 50, count).tolist())
    first = now + float(rng.uniform(0.001, 0.05))
    schedule.stretches.append(Stretch(place, now, [first], [], prompts, waiting=int(rng.integers(0, 3))))
    chunks = [[np.array([first])] for _ in range(count)]
    started, done = first, 1
    for target in sorted(set(outputs) - {1}):
        alive = [row for row in range(count) if outputs[row] > done]
        times = (started + np.cumsum(rng.uniform(0.001, 0.02, target - done))).tolist()
        contexts = [prompts[row] + done - 1 for row in alive]
        planned = target - done + int(rng.integers(0, 3))
        preempted = int(rng.integers(0, 2))
        schedule.stretches.append(Stretch(place, started, times, contexts, [], 0, preempted, planned))
        shared = np.array(times)
        for row in alive:
            chunks[row].append(shared)
        started, done = times[-1], target
    for row in range(count):
        _served(schedule, rng, place, now, prompts[row], tuple(chunks[row]))
    return started


def _served(
    schedule: Schedule,
    rng: np.random.Generator,
    place: int,
    scheduled: float,
    prompt: int,
    chunks: tuple[np.ndarray, ...],
) -> None:
    facts, last = schedule.replicas[place], float(chunks[-1][-1])
    outcome = ("stop", "length", "tool_calls", "stop", "timeout", "cancelled")[int(rng.integers(0, 6))]
    schedule.requests.append(
        RequestRecord(
            request_id=len(schedule.requests) * 3 + 1,
            deployment=facts.deployment,
            replica=facts.replica,
            session=int(rng.integers(0, 3)),
            arrival=scheduled - float(rng.exponential(0.02)),
            scheduled=scheduled,
            first_token=float(chunks[0][0]),
            last_token=last,
            ended=last + (0.0 if outcome in ("stop", "length", "tool_calls") else 0.004),
            prompt_tokens=prompt,
            output_tokens=sum(map(len, chunks)),
            cached_tokens=int(rng.integers(0, prompt)),
            preemptions=int(rng.integers(0, 2)),
            outcome=outcome,
            token_times=chunks,
        )
    )


def _turned_away(schedule: Schedule, rng: np.random.Generator) -> None:
    arrival = float(rng.uniform(0, 0.5))
    number, name = len(schedule.requests) * 3 + 1, schedule.replicas[0].deployment
    ended = arrival + float(rng.choice([0.0, 0.01]))
    record = RequestRecord(number, name, -1, 0, arrival, None, None, None, ended, 10, 0, 0, 0, "backpressure")
    schedule.requests.append(record)


schedules = st.builds(
    build,
    seed=st.integers(0, 2**32 - 1),
    replicas=st.integers(1, 3),
    batches=st.integers(0, 3),
    deployments=st.integers(1, 2),
)
