"""The best ring through a set of GPUs: the Hamiltonian cycle whose slowest step is fastest; no link rate is known here.

A set of n is given as an n x n symmetric matrix of rates. Exact up to `EXACT` GPUs whatever the matrix is, and for any
number where all steps are alike (a switch) or the search ends within its allowance; otherwise a lower bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import permutations

import numpy as np

Rates = Sequence[Sequence[float]]
Links = Sequence[Sequence[int]]

EXACT = 8
_ALLOWANCE = 50_000  # steps of the search for one threshold among more GPUs than that


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
    allowance = [_ALLOWANCE if n > EXACT else -1]
    path, free = [0], (1 << n) - 2

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

    return tuple(path) if extend(free) else None


def packed_rings(links: Links) -> float:
    """The most rings that whole links bear at once, parts of rings allowed; 0.0 where no ring has a link at each step.

    Each ring takes one link at each of its steps, and no step has more than it has. Up to `EXACT` GPUs.
    """
    n = len(links)
    if n <= 3:
        fewest = min((links[i][j] for i in range(n) for j in range(i)), default=0)
        return fewest / 2 if n == 2 else float(fewest)  # there and back between two are two links, not two steps
    rings = [ring for ring in _rings(n) if all(links[a][b] for a, b in ring)]
    if not rings:
        return 0.0
    from scipy.optimize import linprog

    steps = sorted({step for ring in rings for step in ring})
    takes = np.array([[step in ring for ring in rings] for step in steps], dtype=float)
    solved = linprog(-np.ones(len(rings)), A_ub=takes, b_ub=[links[a][b] for a, b in steps], method="highs")
    # A count of links is a small fraction; what the solver leaves behind the sixth digit would only break ties.
    return round(-float(solved.fun or 0.0), 6)


@lru_cache(maxsize=EXACT + 1)
def _rings(n: int) -> tuple[frozenset[tuple[int, int]], ...]:
    """Every ring through n GPUs as the set of its steps, each step the smaller GPU first."""
    orders = ((0, *rest) for rest in permutations(range(1, n)) if rest[0] < rest[-1])
    around = (zip(order, (*order[1:], 0), strict=True) for order in orders)
    return tuple(frozenset((min(step), max(step)) for step in steps) for steps in around)
