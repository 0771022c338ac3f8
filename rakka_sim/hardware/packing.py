"""How many rings the links among some GPUs bear at once; what a link carries is not known here.

A set of n is an n x n symmetric matrix of whole links. Parts of rings count: NCCL has many channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import permutations
from typing import Any

import numpy as np

from rakka_sim.errors import InvariantBroken

Links = Sequence[Sequence[int]]
Array = np.ndarray[Any, Any]

EXACT = 8
_MOST_PIVOTS = 10_000
_PATIENCE = 40  # pivots after which the choice that cannot go round in circles takes over
_NOTHING = 1e-9


def packed_rings(links: Links) -> float:
    """The most rings that whole links bear at once, parts of rings allowed; 0.0 where no ring has a link at each step.

    Each ring takes one link at each of its steps, and no step has more than it has. Up to `EXACT` GPUs.
    """
    n = len(links)
    if n <= 3:
        fewest = min((links[i][j] for i in range(n) for j in range(i)), default=0)
        return fewest / 2 if n == 2 else float(fewest)  # there and back between two are two links, not two steps
    if n == 4:
        return of_four(*(min(links[0][a], links[b][c]) for a, b, c in ((1, 2, 3), (2, 1, 3), (3, 1, 2))))
    # GPUs of equal links to all others come in the order of these, so that many sets are one question.
    order = sorted(range(n), key=lambda i: sorted(links[i], reverse=True))
    return _packed(tuple(tuple(links[i][j] for j in order) for i in order))


def of_four(a: int, b: int, c: int) -> float:
    """The most rings among four GPUs, given the fewer links of each of their three pairs of opposite steps.

    A ring is two of these pairs, so it is three numbers x + y <= a, x + z <= b, y + z <= c whose sum is to be largest.
    """
    return min((a + b + c) / 2, a + b, a + c, b + c)


@lru_cache(maxsize=4096)
def _packed(links: tuple[tuple[int, ...], ...]) -> float:
    n = len(links)
    width = np.array(links, dtype=float)[np.triu_indices(n, 1)]
    rings = _rings(n)
    rings = rings[:, ~rings[width == 0].any(axis=0)]  # those that have a link at each step
    used = rings.any(axis=1)
    # A count of links is a small fraction; what is left behind the sixth digit would only break ties.
    return round(_most(rings[used].astype(float), width[used]), 6) if rings.size else 0.0


@lru_cache(maxsize=EXACT + 1)
def _rings(n: int) -> Array:
    """Every ring through n GPUs, a column each: whether it takes the step of that row (of the upper triangle)."""
    orders = np.array([(0, *rest, 0) for rest in permutations(range(1, n)) if rest[0] < rest[-1]])
    row_of = np.zeros((n, n), dtype=int)
    row_of[np.triu_indices(n, 1)] = np.arange(n * (n - 1) // 2)
    row_of += row_of.T
    rings = np.zeros((n * (n - 1) // 2, len(orders)), dtype=bool)
    rings[row_of[orders[:, :-1], orders[:, 1:]].T, np.arange(len(orders))] = True
    return rings


def _most(takes: Array, has: Array) -> float:
    """The largest sum of x >= 0 with takes @ x <= has: the simplex method on a full table, from x = 0 on.

    A solver's call costs more than a table of 28 rows; scipy's import alone costs more than all that is asked here.
    """
    rows, columns = takes.shape
    table = np.zeros((rows + 1, columns + rows + 1))
    table[:rows, :columns], table[:rows, columns:-1], table[:rows, -1] = takes, np.eye(rows), has
    table[-1, :columns] = -1
    basis = np.arange(columns, columns + rows)
    for pivot in range(_MOST_PIVOTS):
        gain = table[-1, :-1]
        # The steepest way first; then Bland's rule (lowest column, lowest variable to leave), which always ends.
        column = int(gain.argmin()) if pivot < _PATIENCE else int((gain < -_NOTHING).argmax())
        if gain[column] >= -_NOTHING:
            return float(table[-1, -1])
        rising = table[:rows, column]
        ratio = np.full(rows, np.inf)
        np.divide(table[:rows, -1], rising, out=ratio, where=rising > _NOTHING)
        tied = np.flatnonzero(ratio <= ratio.min() + _NOTHING)
        row = int(tied[basis[tied].argmin()])
        table[row] /= table[row, column]
        factors = table[:, column].copy()
        factors[row] = 0
        table -= factors[:, None] * table[row]
        basis[row] = column
    raise InvariantBroken("packing of rings", f"no end after {_MOST_PIVOTS} pivots")
