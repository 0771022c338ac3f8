"""Shared links against a naive fluid simulator in exact arithmetic, against queueing theory, and sums by hand."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import simpy
from hypothesis import given
from hypothesis import strategies as st

from rakka_sim.errors import InputError, UnknownName
from rakka_sim.hardware.links import Link, Network, Transfer, seconds_together
from rakka_sim.hardware.sharing import max_min_rates
from rakka_sim.runtime.sim import SimRuntime

NAMES = ("a", "b", "c", "d")
capacities = st.fixed_dictionaries({name: st.integers(1, 50) for name in NAMES})
paths = st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True).map(tuple)


# --- the oracle -------------------------------------------------------------------------------------------------


def water_level(flows: Sequence[tuple[str, ...]], capacity: dict[str, int]) -> list[Fraction]:
    """Max-min rates by raising all that are not stuck at once, until a link is full; exact."""
    rate = [Fraction(0)] * len(flows)
    stuck: set[int] = set()
    while len(stuck) < len(flows):
        rises = []
        for link, most in capacity.items():
            rising = [flow for flow, path in enumerate(flows) if link in path and flow not in stuck]
            if rising:
                used = sum(rate[flow] for flow, path in enumerate(flows) if link in path)
                rises.append((most - used) / len(rising))
        rise = min(rises)
        for flow in range(len(flows)):
            if flow not in stuck:
                rate[flow] += rise
        for link, most in capacity.items():
            on_it = [flow for flow, path in enumerate(flows) if link in path]
            if sum(rate[flow] for flow in on_it) == most:
                stuck |= set(on_it)
    return rate


@dataclass
class Job:
    """One transfer of a script: when it comes, what it is, and how long its sender waits before giving up."""

    at: int
    path: tuple[str, ...]
    size: int
    patience: int | None = None
    left: Fraction = field(default=Fraction(0))
    ended: Fraction | None = None

    @property
    def gives_up(self) -> Fraction | None:
        return None if self.patience is None else Fraction(self.at + self.patience)


def fluid(jobs: Sequence[Job], capacity: dict[str, int]) -> None:
    """Fill in `ended` and `left` of every job, from one change to the next, in exact arithmetic."""
    now, waiting = Fraction(0), sorted(jobs, key=lambda job: job.at)
    active: list[Job] = []
    for job in jobs:
        job.left = Fraction(job.size)
    while waiting or active:
        rates = water_level([job.path for job in active], capacity)
        ends = [now + job.left / rate for job, rate in zip(active, rates, strict=True)]
        stops = [job.gives_up for job in active if job.gives_up is not None]
        then = min([*ends, *stops, *([Fraction(waiting[0].at)] if waiting else [])])
        for job, rate in zip(active, rates, strict=True):
            job.left -= rate * (then - now)
        now = then
        while waiting and waiting[0].at == now:
            active.append(waiting.pop(0))
        for job in list(active):
            if job.left == 0 or job.gives_up == now:
                job.ended = now
                active.remove(job)


jobs_strategy = st.lists(
    st.builds(Job, st.integers(0, 20), paths, st.integers(0, 200), st.one_of(st.none(), st.integers(1, 10))),
    min_size=1,
    max_size=12,
)


# --- rates ------------------------------------------------------------------------------------------------------


@given(capacities, st.lists(paths, max_size=12))
def test_the_rates_are_those_of_the_water_level(capacity: dict[str, int], flows: list[tuple[str, ...]]) -> None:
    rates = max_min_rates(flows, {link: float(most) for link, most in capacity.items()})
    assert rates == pytest.approx([float(rate) for rate in water_level(flows, capacity)], rel=1e-12)


@given(st.fixed_dictionaries({name: st.floats(1e-3, 1e12) for name in NAMES}), st.lists(paths, max_size=30))
def test_every_flow_has_a_full_link_on_which_none_has_more(
    capacity: dict[str, float], flows: list[tuple[str, ...]]
) -> None:
    """The definition of max-min fairness, and no link carries more than it can."""
    rates = max_min_rates(flows, capacity)
    used = {link: sum(rate for rate, path in zip(rates, flows, strict=True) if link in path) for link in capacity}
    assert all(used[link] <= capacity[link] * (1 + 1e-9) for link in capacity)
    for rate, path in zip(rates, flows, strict=True):
        full = [link for link in path if used[link] >= capacity[link] * (1 - 1e-9)]
        assert any(
            all(other <= rate * (1 + 1e-9) for other, there in zip(rates, flows, strict=True) if link in there)
            for link in full
        )


# --- exactness --------------------------------------------------------------------------------------------------


def run(jobs: Sequence[Job], capacity: dict[str, int], env: simpy.Environment) -> tuple[Network, list[Transfer]]:
    network = Network(env, [Link(name, float(most)) for name, most in capacity.items()])
    made: dict[int, Transfer] = {}

    def send(number: int, job: Job) -> Generator[simpy.Event, Any, None]:
        yield env.timeout(job.at)
        moving = made[number] = network.transfer(job.path, job.size)
        network.check()
        if job.patience is None:
            yield moving
        else:
            yield moving | env.timeout(job.patience)
            moving.cancel()
        network.check()

    for number, job in enumerate(jobs):
        env.process(send(number, job))
    env.run()
    return network, [made[number] for number in range(len(jobs))]


@given(jobs_strategy, capacities)
def test_every_end_is_that_of_the_fluid_simulator(jobs: list[Job], capacity: dict[str, int]) -> None:
    fluid(jobs, capacity)
    network, made = run(jobs, capacity, simpy.Environment())
    assert network.active == ()
    for job, moving in zip(jobs, made, strict=True):
        assert job.ended is not None
        assert moving.ended == pytest.approx(float(job.ended), rel=1e-9, abs=1e-9)
        assert moving.moved == pytest.approx(float(job.size - job.left), rel=1e-9, abs=1e-7)
        assert moving.cancelled == (job.left > Fraction(1, 10**7)) or moving.left < 1e-7


@given(jobs_strategy, capacities)
def test_bytes_are_conserved(jobs: list[Job], capacity: dict[str, int]) -> None:
    network, made = run(jobs, capacity, simpy.Environment())
    for link in capacity:
        over_it = sum(moving.moved for moving in made if link in moving.path)
        assert network.carried(link) == pytest.approx(over_it, rel=1e-9, abs=1e-6)
        assert network.carried(link) <= capacity[link] * network.env.now * (1 + 1e-9)
    for moving in made:
        assert 0 <= moving.moved <= moving.size
        assert moving.cancelled or moving.moved == moving.size


@given(jobs_strategy, capacities, st.integers(0, 99))
def test_the_actors_clock_gives_the_same_ends(jobs: list[Job], capacity: dict[str, int], ties: int) -> None:
    _, plain = run(jobs, capacity, simpy.Environment())
    for runtime in (SimRuntime(), SimRuntime(shuffle_ties=ties)):
        _, beside_actors = run(jobs, capacity, runtime.env)
        assert [moving.ended for moving in beside_actors] == [moving.ended for moving in plain]


@given(st.lists(st.integers(1, 10**12), min_size=1, max_size=20), st.integers(1, 10**11))
def test_on_one_link_the_smaller_end_first_and_the_link_is_never_idle(sizes: list[int], rate: int) -> None:
    ends = seconds_together([Link("x", float(rate))], [(("x",), size) for size in sizes])
    assert [size for _, size in sorted(zip(ends, sizes, strict=True))] == sorted(sizes)
    assert max(ends) == pytest.approx(sum(sizes) / rate, rel=1e-9)
    # With n under way, each of the smallest m has moved all it has, and the others as much as the m-th.
    for end, size in zip(ends, sizes, strict=True):
        assert end == pytest.approx(sum(min(size, other) for other in sizes) / rate, rel=1e-9)


# --- by hand ----------------------------------------------------------------------------------------------------


def test_two_of_a_kind_take_twice_as_long() -> None:
    """900 MB over 450 GB/s: 2 ms alone, 4 ms beside another."""
    assert seconds_together([Link("nvlink", 450e9)], [(("nvlink",), 900e6)]) == pytest.approx([2e-3])
    assert seconds_together([Link("nvlink", 450e9)], [(("nvlink",), 900e6)] * 2) == pytest.approx([4e-3, 4e-3])


def test_replicas_of_one_node_share_the_disk_but_not_their_pcie() -> None:
    """16 GB each from a disk of 8 GB/s over PCIe of 55 GB/s: 2 s for one, 8 s for four together; from host memory each
    has its own 16/55 s."""
    links = [Link("disk", 8e9), *(Link(f"pcie{gpu}", 55e9) for gpu in range(4))]
    assert seconds_together(links, [(("disk", "pcie0"), 16e9)]) == pytest.approx([2.0])
    assert seconds_together(links, [(("disk", f"pcie{gpu}"), 16e9) for gpu in range(4)]) == pytest.approx([8.0] * 4)
    assert seconds_together(links, [((f"pcie{gpu}",), 16e9) for gpu in range(4)]) == pytest.approx([16 / 55] * 4)


def test_who_comes_late_and_who_gives_up_change_the_rates_at_once() -> None:
    """10 B/s. First alone for 1 s (10 B), then three share for 3 s (10 B each), then one gives up, two get 5 B/s."""
    env = simpy.Environment()
    network = Network(env, [Link("x", 10.0)])
    first = network.transfer(("x",), 30)
    env.run(until=1)
    second, third = network.transfer(("x",), 100), network.transfer(("x",), 100)
    assert [moving.rate for moving in network.active] == pytest.approx([10 / 3] * 3)
    env.run(until=4)
    assert (first.moved, second.moved) == pytest.approx((20, 10))
    third.cancel()
    assert (third.cancelled, third.triggered, third.ended) == (True, True, 4)
    third.cancel()
    assert third.moved == pytest.approx(10)
    env.run(first)
    assert env.now == pytest.approx(6)
    env.run()
    assert second.ended == pytest.approx(6 + 80 / 10)
    assert network.carried("x") == pytest.approx(30 + 100 + 10)


def test_a_slow_link_frees_the_fast_one_for_others() -> None:
    """a: 10 B/s, b: 1 B/s. What crosses both gets 1 B/s, so the other gets 9, not 5."""
    env = simpy.Environment()
    network = Network(env, [Link("a", 10.0), Link("b", 1.0)])
    both, alone = network.transfer(("a", "b"), 5), network.transfer(("a",), 9)
    assert (both.rate, alone.rate) == (1.0, 9.0)
    env.run()
    assert (both.ended, alone.ended) == (5.0, 1.0)


def test_nothing_arrives_at_once_and_disturbs_nobody() -> None:
    env = simpy.Environment()
    network = Network(env, [Link("x", 10.0)])
    moving, nothing = network.transfer(("x",), 10), network.transfer(("x",), 0)
    assert (nothing.ended, moving.rate) == (0.0, 10.0)
    assert env.run(nothing) is nothing
    assert env.now == 0
    assert env.run(moving) is moving
    assert env.now == 1


def test_an_actor_is_told_when_its_bytes_have_arrived() -> None:
    """The end of a transfer on a `SimRuntime` comes between its messages, at the very instant."""
    system = SimRuntime()
    network = Network(system.env, [Link("x", 8.0)])
    seen: list[float] = []
    network.transfer(("x",), 16).callbacks.append(lambda _: seen.append(system.now))
    system.env.run()
    assert seen == [2.0]


@pytest.mark.parametrize(
    ("path", "size", "message"),
    [
        (("x",), -1, "bytes of a transfer: -1"),
        (("x",), math.nan, "bytes of a transfer: nan"),
        (("x",), math.inf, "bytes of a transfer: inf"),
        ((), 1, r"path of a transfer: \(\)"),
        (("x", "x"), 1, r"path of a transfer: \('x', 'x'\)"),
        (("x", "z"), 1, "link: 'z' is not allowed; allowed: x, y"),
    ],
)
def test_what_cannot_be_sent_is_refused(path: tuple[str, ...], size: float, message: str) -> None:
    network = Network(simpy.Environment(), [Link("x", 1.0), Link("y", 1.0)])
    with pytest.raises((InputError, UnknownName), match=message):
        network.transfer(path, size)
    assert network.active == ()


def test_links_have_names_of_their_own_and_a_rate() -> None:
    with pytest.raises(InputError, match="links: 'x'"):
        Network(simpy.Environment(), [Link("x", 1.0), Link("x", 2.0)])
    for rate in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(InputError, match="bytes/s of link x"):
            Link("x", rate)


# --- theory -----------------------------------------------------------------------------------------------------


def sojourns(rng: np.random.Generator, sizes: np.ndarray[Any, Any], load: float) -> np.ndarray[Any, Any]:
    """Seconds each of `sizes` (mean 1, one link of 1 byte/s) is under way, arrivals being Poisson."""
    env = simpy.Environment()
    network = Network(env, [Link("x", 1.0)])
    made: list[Transfer] = []

    def arrive() -> Generator[simpy.Event, Any, None]:
        for gap, size in zip(rng.exponential(1 / load, len(sizes)), sizes, strict=True):
            yield env.timeout(gap)
            made.append(network.transfer(("x",), size))

    env.process(arrive())
    env.run()
    return np.array([(moving.ended or 0.0) - moving.started for moving in made])


@pytest.mark.parametrize("load", [0.3, 0.6])
@pytest.mark.parametrize("shape", ["constant", "exponential", "hyperexponential"])
def test_the_mean_sojourn_is_that_of_processor_sharing(shape: str, load: float) -> None:
    """M/G/1-PS: E[T] = E[S]/(1 - rho), whatever the distribution of sizes (Kleinrock). Within the 95 % interval of
    batch means of one fixed run."""
    rng = np.random.default_rng(20)
    count, batches = 16_000, 20
    sizes = {
        "constant": np.ones(count),
        "exponential": rng.exponential(1.0, count),
        # A tenth is ten times as long as the rest: squared coefficient of variation 4.6.
        "hyperexponential": rng.exponential(np.where(rng.random(count) < 0.1, 10.0, 1.0) / 1.9),
    }[shape]
    times = sojourns(rng, sizes, load)[count // 10 :]
    means = times[: len(times) // batches * batches].reshape(batches, -1).mean(axis=1)
    half_width = 2.093 * means.std(ddof=1) / math.sqrt(batches)  # Student's t, 19 degrees of freedom
    assert abs(means.mean() - 1 / (1 - load)) < half_width
    assert half_width < 0.2 / (1 - load)  # or the interval would say nothing


def test_a_transfer_waits_in_proportion_to_its_size() -> None:
    """M/G/1-PS: a transfer of x bytes takes x/(1 - rho) on average, so that small ones do not wait for large ones."""
    rng = np.random.default_rng(21)
    sizes = rng.choice([0.25, 1.75], 12_000)
    times = sojourns(rng, sizes, 0.6)[1200:]
    kept = sizes[1200:]
    for size in (0.25, 1.75):
        assert times[kept == size].mean() == pytest.approx(size / 0.4, rel=0.06)
