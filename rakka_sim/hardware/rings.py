"""The best ring through a set of GPUs: the Hamiltonian cycle whose slowest step is fastest; no link rate is known here.

A set of n is given as an n x n symmetric matrix of rates. Exact up to `EXACT` GPUs whatever the matrix is, and for any
number where all steps are alike (a switch) or the search ends within its allowance; otherwise a lower bound. How many
rings there are at once is `packing`.
"""

from __future__ import annotations

from collections.abc import Sequence

from rakka_sim.hardware.subsets import MOST, ring_through

Rates = Sequence[Sequence[float]]

EXACT = MOST
# Steps of the search for one threshold: after the first, all paths are looked at (up to `EXACT` GPUs); after the other,
# it is given up.
_SHORT, _LONG = 200, 50_000


def best_ring(rates: Rates) -> tuple[float, tuple[int, ...]]:
    """The slowest step of the best ring, and the ring from 0 on; (0.0, (0,)) for a single GPU."""
    n = len(rates)
    if n == 1:
        return 0.0, (0,)
    if n <= 3:
        return min(rates[i][j] for i in range(n) for j in range(i)), tuple(range(n))
    levels = sorted({rates[i][j] for i in range(n) for j in range(i)})
    # A ring has two steps at each GPU, so none is faster than the second best at the worst GPU.
    bound = min(sorted(row[:i] + row[i + 1 :], reverse=True)[1] for i, row in enumerate(map(tuple, rates)))
    low, high = 0, levels.index(bound)
    if high == 0:
        return levels[0], tuple(range(n))
    found: tuple[int, ...] = tuple(range(n))
    middle = high  # the bound is mostly reached
    while low < high:
        ring = _ring_at(rates, levels[middle])
        if ring:
            low, found = middle, ring
        else:
            high = middle - 1
        middle = (low + high + 1) // 2
    return levels[low], found


def _ring_at(rates: Rates, least: float) -> tuple[int, ...] | None:
    """A ring all of whose steps are at least that fast; None where there is none (or none was found in time)."""
    n = len(rates)
    near = [[j for j in range(n) if j != i and rates[i][j] >= least] for i in range(n)]
    if min(map(len, near)) < 2:
        return None
    allowance = [_SHORT if n <= EXACT else _LONG]
    path = [0]

    def extend(free: int) -> bool:
        allowance[0] -= 1
        if allowance[0] == 0:
            return False
        here = path[-1]
        if not free:
            return 0 in near[here]
        # The GPU with the fewest ways on comes first: what is hard to reach later is reached now.
        ways = sorted((sum(free >> k & 1 for k in near[j]), j) for j in near[here] if free >> j & 1)
        for _, step in ways:
            path.append(step)
            if extend(free & ~(1 << step)):
                return True
            path.pop()
            if allowance[0] == 0:
                return False
        return False

    if extend((1 << n) - 2):
        return tuple(path)
    if allowance[0] > 0 or n > EXACT:
        return None
    return ring_through(tuple(sum(1 << k for k in row) for row in near))
