"""How many rings the links among some GPUs bear at once; what a link carries is not known here.

A set of n is an n x n symmetric matrix of whole links. Parts of rings count: NCCL has many channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
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
        return twice_of_four(*(min(links[0][a], links[b][c]) for a, b, c in ((1, 2, 3), (2, 1, 3), (3, 1, 2)))) / 2
    return float(packed_many(np.array([links]))[0])


def packed_many(links: Array) -> Array:
    """`packed_rings` of many sets of as many GPUs each, five to eight: sets x n x n whole links.

    Sets that differ by the order of their GPUs are one question, as far as a cheap order finds that they do.
    """
    ordered = _in_order(links.astype(np.int64))
    name = _mixed(ordered).reshape(len(links), -1) @ _weights(links.shape[1] ** 2)
    _, first, which = np.unique(name, return_index=True, return_inverse=True)
    if not (ordered[first][which] == ordered).all():  # two sets of one name: never seen, and no harm
        first, which = np.arange(len(links)), np.arange(len(links))
    packed: Array = np.array([_packed(tuple(map(tuple, ordered[at].tolist()))) for at in first])[which]
    return packed


def _in_order(links: Array) -> Array:
    """The same sets, GPUs in the order of what links they have, and of what those have to which they have them."""
    mixed = _mixed(links)
    own = mixed.sum(axis=2)
    for _ in range(2):
        own = own * 31 + (mixed * _mixed(own)[:, None, :]).sum(axis=2)
    order = own.argsort(axis=1, kind="stable")
    rows = np.take_along_axis(links, order[:, :, None], axis=1)
    ordered: Array = np.take_along_axis(rows, order[:, None, :], axis=2)
    return ordered


def _mixed(numbers: Array) -> Array:
    """Numbers of which sums and products of few are hardly ever equal by chance; they may run over."""
    mixed: Array = (numbers + 0x9E3779B9) * (numbers + 0x7F4A7C15) ^ (numbers * 0x85EBCA6B + 1)
    return mixed


@lru_cache(maxsize=64)
def _weights(count: int) -> Array:
    return _mixed(np.arange(count, dtype=np.int64) * 0x2545F491 + 3)


def twice_of_four(a: int, b: int, c: int) -> int:
    """Twice the rings among four GPUs, given the fewer links of each of their three pairs of opposite steps.

    A ring is two of these pairs, so it is three numbers x + y <= a, x + z <= b, y + z <= c whose sum is to be largest.
    """
    return min(a + b + c, 2 * (a + b), 2 * (a + c), 2 * (b + c))


@lru_cache(maxsize=4096)
def _packed(links: tuple[tuple[int, ...], ...]) -> float:
    n = len(links)
    width = np.array(links, dtype=float)[np.triu_indices(n, 1)]
    rings = _rings(n)
    rings = rings[:, ~rings[width == 0].any(axis=0)]  # those that have a link at each step
    used = rings.any(axis=1)
    # A count of links is a small fraction; what is left behind the sixth digit would only break ties.
    enough = min(min(sum(row) / 2, float(sum(row) - max(row))) for row in links)
    return round(_most(rings[used].astype(float), width[used], enough), 6) if rings.size else 0.0


@lru_cache(maxsize=EXACT + 1)
def _rings(n: int) -> Array:
    """Every ring through n GPUs, a column each: whether it takes the step of that row (of the upper triangle)."""
    orders = np.array([[0, 1, 2]])
    for new in range(3, n):  # into each gap of each ring of those before
        orders = np.vstack([np.insert(orders, gap, new, axis=1) for gap in range(1, new + 1)])
    orders = np.hstack([orders, orders[:, :1]])
    row_of = np.zeros((n, n), dtype=int)
    row_of[np.triu_indices(n, 1)] = np.arange(n * (n - 1) // 2)
    row_of += row_of.T
    rings = np.zeros((n * (n - 1) // 2, len(orders)), dtype=bool)
    rings[row_of[orders[:, :-1], orders[:, 1:]].T, np.arange(len(orders))] = True
    return rings


def _most(takes: Array, has: Array, enough: float) -> float:
    """The largest sum of x >= 0 with takes @ x <= has, known to be at most `enough`: the revised simplex method.

    A general solver's call costs more than a basis of 28 rows, and its import more than all that is asked here.
    """
    rows, columns = takes.shape
    # The inverse of the basis with the values of its variables behind it, and below what a unit of each row is worth.
    table = np.zeros((rows + 1, rows + 1))
    table[:rows, :rows], table[:rows, -1] = np.eye(rows), has
    basis = np.arange(columns, columns + rows)  # those beyond the columns are what is left of each row
    for pivot in range(_MOST_PIVOTS):
        worth = table[-1, :rows]
        gain = np.concatenate([worth @ takes - 1, worth])
        # The steepest way first; then Bland's rule (lowest column, lowest variable to leave), which always ends.
        column = int(gain.argmin()) if pivot < _PATIENCE else int((gain < -_NOTHING).argmax())
        if gain[column] >= -_NOTHING or table[-1, -1] >= enough - _NOTHING:
            return float(table[-1, -1])
        way = table[:, column - columns].copy() if column >= columns else table[:, :rows] @ takes[:, column]
        way[-1] = gain[column]
        ratio = np.full(rows, np.inf)
        np.divide(table[:rows, -1], way[:rows], out=ratio, where=way[:rows] > _NOTHING)
        tied = np.flatnonzero(ratio <= ratio.min() + _NOTHING)
        row = int(tied[basis[tied].argmin()])
        table[row] /= way[row]
        way[row] = 0
        table -= way[:, None] * table[row]
        basis[row] = column
    raise InvariantBroken("packing of rings", f"no end after {_MOST_PIVOTS} pivots")
