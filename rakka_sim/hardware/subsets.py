"""All sets of up to 16 GPUs at once: their order, sums and minima over them, and which of them a ring runs through.

A set is a bit mask, GPU i being 1 << i, and a table has a row for each of the 2^n masks. What a GPU or a link is worth
is not known here.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, reduce
from operator import or_
from typing import Any

import numpy as np

MOST = 16
_HALF = 8  # sets of more GPUs are asked for less often, and take as long as all others
Array = np.ndarray[Any, Any]


@lru_cache(maxsize=256)
def sets_of(count: int, size: int) -> Array:
    """The sets of `size` of `count` GPUs, those of lowest ordinals first. Not to be written to."""
    every = _in_order(count)
    found: Array = every[np.bitwise_count(every) == size]
    found.setflags(write=False)
    return found


@lru_cache(maxsize=MOST + 1)
def _in_order(count: int) -> Array:
    """Every mask, sets being compared as tuples of their GPUs as far as they have one size."""
    mirrored = np.zeros(1, dtype=np.int64)
    for gpu in range(count):
        mirrored = np.repeat(mirrored, 2)
        mirrored[1::2] |= 1 << gpu
    return mirrored[::-1]


@lru_cache(maxsize=64)
def least(values: tuple[int, ...]) -> Array:
    """For each mask the least of the values of its GPUs; a large number for the empty one."""
    table = np.full(1 << len(values), np.iinfo(np.int64).max)
    for gpu, value in enumerate(values):
        np.minimum(table[: 1 << gpu], value, out=table[1 << gpu : 2 << gpu])
    return table


def holding(pairs: Sequence[tuple[int, int]], count: int) -> Array:
    """For each mask whether both GPUs of one of the `pairs` are in it."""
    masks = np.arange(1 << count)
    table = np.zeros(1 << count, dtype=bool)
    for a, b in pairs:
        both = 1 << a | 1 << b
        table |= masks & both == both
    return table


@lru_cache(maxsize=64)
def star_bounds(links: tuple[tuple[int, ...], ...]) -> Array:
    """For each mask of three GPUs or more, twice the number of rings that whole links bear at most.

    By the links of each one GPU, of which a ring takes two, of different steps: no more rings than half of them, nor
    than what its steps but the widest have together. Exact for three.
    """
    n, many = len(links), 4 * max(map(sum, links)) + 1  # more than any bound: what a GPU that is not in the set says
    exact = np.int16 if many < 1 << 13 else np.int64  # as narrow as the sums allow
    total, widest = np.zeros((2, 1 << n), dtype=exact)
    fewest = np.full(1 << n, 3 * many, dtype=exact)
    for gpu, row in enumerate(links):
        total[0] = widest[0] = 0
        for other, count in enumerate(row):
            low, high = slice(0, 1 << other), slice(1 << other, 2 << other)
            np.add(total[low], count, out=total[high])
            np.maximum(widest[low], count, out=widest[high])
            if other == gpu:
                total[low] += many
        np.subtract(total, widest, out=widest)
        np.minimum(total, 2 * widest, out=total)
        np.minimum(fewest, total, out=fewest)
    return fewest


def ringed(near: tuple[int, ...], masks: Array, size: int) -> Array:
    """Whether the GPUs of each mask, `size` of each, can be put in a ring by steps to `near` ones. Exact.

    `near[i]` is the mask of those near to GPU i, and `near` is symmetric. Two make a ring if they are near.
    """
    cliques = _cliques(near)
    if cliques is not None:
        inside = [masks & ~clique == 0 for clique in cliques if clique.bit_count() >= size]
        return reduce(or_, inside) if inside else np.zeros(len(masks), dtype=bool)
    return _rings(near).table(size)[masks]


@lru_cache(maxsize=1024)
def _cliques(near: tuple[int, ...]) -> list[int] | None:
    """The parts of a graph all of whose parts are complete; None for any other."""
    closed = [mask | 1 << gpu for gpu, mask in enumerate(near)]
    apart = all(closed[other] == mask for mask, gpu in zip(closed, range(len(near)), strict=True)
                for other in range(len(near)) if near[gpu] >> other & 1)  # fmt: skip
    return sorted(set(closed)) if apart else None


class _Rings:
    """For each mask whether a ring runs through it, of masks as large as was ever asked for."""

    def __init__(self, near: tuple[int, ...]) -> None:
        self._near = near
        self._most = 0
        self._table = np.zeros(0, dtype=bool)

    def table(self, size: int) -> Array:
        """Good for masks of up to `size` GPUs."""
        if size > self._most:
            self._most = _HALF if size <= _HALF else MOST
            found = rings_through(self._near, self._most)
            packed = np.frombuffer(found.to_bytes(max(1, (1 << len(self._near)) // 8), "little"), dtype=np.uint8)
            self._table = np.unpackbits(packed, bitorder="little").astype(bool)
        return self._table


_rings = lru_cache(maxsize=256)(_Rings)


def rings_through(near: tuple[int, ...], most: int) -> int:
    """The masks of up to `most` GPUs that a ring runs through, mask m as bit m of one large integer.

    Paths grow from the highest GPU of their mask, one GPU at a time, for all masks at once: bit m of `paths[v]` says
    that one ends at v and has met just the GPUs of m. (Bellman, Held and Karp, 1962, on whether instead of how long.)
    """
    n = len(near)
    others = [[u for u in range(n) if near[v] >> u & 1] for v in range(n)]
    closing = [reduce(or_, (_block(top) for top in others[v] if top > v), 0) for v in range(n)]
    paths, found = [1 << (1 << v) for v in range(n)], 0
    for _ in range(min(most, n) - 1):
        ends = [reduce(or_, [paths[u] for u in others[v]], 0) & _may_grow(n, v) for v in range(n)]
        paths = [ends[v] << (1 << v) for v in range(n)]
        for v in range(n):
            found |= paths[v] & closing[v]
    return found


@lru_cache(maxsize=MOST)
def _block(top: int) -> int:
    """The masks whose highest GPU is `top`, as bits."""
    return ((1 << (1 << top)) - 1) << (1 << top)


@lru_cache(maxsize=MOST * MOST)
def _may_grow(count: int, gpu: int) -> int:
    """The masks that lack `gpu` and have one above it, as bits."""
    without = (1 << (1 << gpu)) - 1  # bits of masks that lack it, doubled until all GPUs are in
    for other in range(gpu + 1, count):
        without |= without << (1 << other)
    return without & ~((1 << (2 << gpu)) - 1)


def ring_through(near: tuple[int, ...]) -> tuple[int, ...] | None:
    """A ring through all GPUs by steps to `near` ones, from GPU 0 on; None where there is none. More than two GPUs."""
    n = len(near)
    top, layers = n - 1, [[0] * n]
    layers[0][top] = 1 << (1 << top)
    others = [[u for u in range(n) if near[v] >> u & 1] for v in range(n)]
    for _ in range(n - 1):
        paths = layers[-1]
        ends = [reduce(or_, [paths[u] for u in others[v]], 0) & _may_grow(n, v) for v in range(n)]
        layers.append([ends[v] << (1 << v) for v in range(n)])
    mask, ring = (1 << n) - 1, [top]
    for paths in reversed(layers[1:]):
        # From the end of the longest path back: who could have been there, and is next to whom we have.
        step = next((v for v in others[ring[-1]] if paths[v] >> mask & 1), None)
        if step is None:
            return None
        ring.append(step)
        mask &= ~(1 << step)
    at = ring.index(0)
    return tuple(ring[at:] + ring[:at])
