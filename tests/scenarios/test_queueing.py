"""Queueing theory against the whole stack: with step times known, an engine is a queue whose waits are known.

One seat and a constant step make a server whose service is as many steps as a request has output tokens: M/D/1 with
fixed outputs, near M/M/1 with geometric ones. Seats for c make c servers behind one queue, M/D/c, but for one thing:
service begins where a step begins, so it is late by less than a step, and by half a step on average.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import pytest
from scenarios.stacks import Linear, one_engine, play
from scipy import stats

from rakka_sim.report.report import Report

SEEDS = range(6)
REQUESTS, WARM_UP = 1_000, 100
STEP_S = 0.001

Array = np.ndarray
Simulate = Callable[..., Report]


@dataclass(frozen=True)
class Queue:
    """`seats` servers at load `rho`; services take `output` steps each, or are geometric with that mean."""

    seats: int
    rho: float
    output: int
    geometric: bool = False

    def __str__(self) -> str:
        return f"M/{'Geo' if self.geometric else 'D'}/{self.seats} at {self.rho}"

    @cached_property
    def outputs(self) -> Array:
        """Services in steps are drawn from these, with replacement: their moments are exact."""
        if self.geometric:
            return np.random.default_rng(1).geometric(1 / self.output, 20_000)
        return np.array([self.output])

    @property
    def rate(self) -> float:
        return float(self.rho * self.seats / (self.outputs.mean() * STEP_S))

    @property
    def wait_s(self) -> float:
        """The mean wait, were service to begin at any time."""
        service = self.outputs * STEP_S
        if self.seats == 1:  # Pollaczek and Khinchine
            return float(self.rate * (service**2).mean() / (2 * (1 - self.rho)))
        return crommelin(self.seats, self.rho) * float(service.mean())

    def agrees(self, waits: list[float]) -> bool:
        """Whether the 95 % confidence interval of these mean waits (independent runs) meets the theory."""
        half = stats.t.ppf(0.975, len(waits) - 1) * np.std(waits, ddof=1) / np.sqrt(len(waits))
        late = STEP_S / 2 if self.seats > 1 else 0.0
        return bool(np.mean(waits) - half <= self.wait_s + late and self.wait_s <= np.mean(waits) + half)


QUEUES = (
    Queue(seats=1, rho=0.3, output=5),
    Queue(seats=1, rho=0.8, output=5),
    Queue(seats=1, rho=0.6, output=50, geometric=True),
    Queue(seats=4, rho=0.75, output=40),
)


def crommelin(servers: int, rho: float) -> float:
    """The mean wait of M/D/c in units of the service (Crommelin 1932)."""
    w = np.arange(1, 2_000)
    terms = (
        stats.poisson.sf(servers * w - 1, servers * rho * w) - stats.poisson.sf(servers * w, servers * rho * w) / rho
    )
    return float(terms.sum())


@pytest.fixture(scope="module")
def simulate(tmp_path_factory: pytest.TempPathFactory) -> Simulate:
    folder = tmp_path_factory.mktemp("lengths")

    @cache
    def run(queue: Queue, seed: int, slower: float = 1.0) -> Report:
        lengths: dict[str, object] = {"kind": "fixed", "prompt": 1, "output": queue.output}
        if queue.geometric:
            lengths = {"kind": "empirical", "file": "lengths.csv"}
            rows = "".join(f"1,{output}\n" for output in queue.outputs)
            (folder / "lengths.csv").write_text(f"prompt_tokens,output_tokens\n{rows}")
        workload = {"requests": REQUESTS, "arrivals": {"kind": "poisson", "rate": queue.rate}, "lengths": lengths}
        scenario = {**one_engine(workload, max_num_seqs=queue.seats), "seed": seed}
        return play(scenario, times=Linear(STEP_S * slower), base=folder)

    return run


def waits_of(report: Report) -> Array:
    return (report.requests.scheduled_s - report.requests.arrival_s).to_numpy()


def test_theory_agrees_with_itself() -> None:
    for rho in (0.3, 0.8):
        assert crommelin(1, rho) == pytest.approx(rho / (2 * (1 - rho)))
    geometric = next(queue for queue in QUEUES if queue.geometric)
    memoryless = geometric.rho * geometric.output * STEP_S / (1 - geometric.rho)
    assert geometric.wait_s == pytest.approx(memoryless, rel=0.05)


@pytest.mark.parametrize("queue", QUEUES, ids=str)
def test_the_mean_wait_is_the_theorys(queue: Queue, simulate: Simulate) -> None:
    waits = [float(waits_of(simulate(queue, seed))[WARM_UP:].mean()) for seed in SEEDS]
    assert queue.agrees(waits), f"{np.mean(waits):.6f} s simulated, {queue.wait_s:.6f} s in theory"


@pytest.mark.parametrize("queue", QUEUES[1:], ids=str)
def test_a_service_a_tenth_too_slow_is_noticed(queue: Queue, simulate: Simulate) -> None:
    waits = [float(waits_of(simulate(queue, seed, slower=1.1))[WARM_UP:].mean()) for seed in SEEDS]
    assert not queue.agrees(waits)


@pytest.mark.parametrize("queue", QUEUES, ids=str)
def test_every_service_begins_when_a_server_is_free(queue: Queue, simulate: Simulate) -> None:
    """Not on average but each: the n-th begins when it has come and a server of those before it is free."""
    requests = simulate(queue, 0).requests
    arrivals, services = requests.arrival_s.to_numpy(), requests.output_tokens.to_numpy() * STEP_S
    begins, free = np.empty(REQUESTS), np.zeros(queue.seats)
    for n in range(REQUESTS):
        server = int(free.argmin())
        begins[n] = max(arrivals[n], free[server])
        free[server] = begins[n] + services[n]
    late = requests.scheduled_s.to_numpy() - begins
    assert late.min() > -1e-9
    assert late.max() < (STEP_S if queue.seats > 1 else 0.0) + 1e-9


@pytest.mark.parametrize("queue", QUEUES, ids=str)
def test_steps_and_requests_count_the_same_seats(queue: Queue, simulate: Simulate) -> None:
    """Little's law of the servers: seats over time, from the steps' table, are services, from the requests' table."""
    for seed in SEEDS:
        report = simulate(queue, seed)
        served = float(report.requests.output_tokens.sum()) * STEP_S
        assert float((report.steps.running * report.steps.seconds).sum()) == pytest.approx(served)
        assert float((report.requests.last_token_s - report.requests.scheduled_s).sum()) == pytest.approx(served)
