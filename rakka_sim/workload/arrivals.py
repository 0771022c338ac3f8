"""When requests of an open loop arrive, and how long users pause: endless streams of times drawn in chunks.

No lengths may be drawn here, and nothing here knows about requests.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import count, repeat

import numpy as np

from rakka_sim.config.workload import Constant, Gamma, Poisson

CHUNK = 4096


def arrival_times(arrivals: Poisson | Gamma | Constant, rng: np.random.Generator) -> Iterator[float]:
    """Seconds from the start, ascending, without end; the first arrival comes after the first gap."""
    burstiness = arrivals.burstiness if isinstance(arrivals, Gamma) else 1.0
    if isinstance(arrivals, Constant) or math.isinf(burstiness):
        # Not a running sum: the n-th arrival is where it belongs, however long the run.
        return (n / arrivals.rate for n in count(1))
    return _renewals(burstiness, 1.0 / (arrivals.rate * burstiness), rng)


def pauses(mean_s: float, cv: float, rng: np.random.Generator) -> Iterator[float]:
    """Think times in seconds, Gamma with that mean and coefficient of variation, without end."""
    if mean_s == 0 or cv == 0:
        return repeat(mean_s)
    return _gammas(1.0 / cv**2, mean_s * cv**2, rng)


def _gammas(shape: float, scale: float, rng: np.random.Generator) -> Iterator[float]:
    while True:
        yield from rng.gamma(shape, scale, CHUNK).tolist()


def _renewals(shape: float, scale: float, rng: np.random.Generator) -> Iterator[float]:
    now = 0.0
    while True:
        gaps = rng.gamma(shape, scale, CHUNK)
        gaps[0] += now
        times = np.cumsum(gaps).tolist()
        now = times[-1]
        yield from times
