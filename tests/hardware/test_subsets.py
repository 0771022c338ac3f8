"""Tables over all sets of GPUs against plain enumeration, and the packing of rings against a solver."""

from __future__ import annotations

from itertools import combinations, pairwise, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from rakka_sim.errors import InvariantBroken
from rakka_sim.hardware import packing
from rakka_sim.hardware.packing import packed_many, packed_rings
from rakka_sim.hardware.subsets import holding, least, ring_through, ringed, sets_of, star_bounds

Matrix = tuple[tuple[int, ...], ...]


@st.composite
def links(draw: st.DrawFn, least: int, most: int) -> Matrix:
    """Symmetric whole numbers, of few kinds."""
    n, widest = draw(st.integers(least, most)), draw(st.sampled_from([1, 2, 6]))
    rows = [[0] * n for _ in range(n)]
    for a, b in combinations(range(n), 2):
        rows[a][b] = rows[b][a] = draw(st.integers(0, widest))
    return tuple(map(tuple, rows))


def near_of(rows: Matrix) -> tuple[int, ...]:
    return tuple(sum(1 << b for b, count in enumerate(row) if count) for row in rows)


def members(mask: int) -> list[int]:
    return [gpu for gpu in range(mask.bit_length()) if mask >> gpu & 1]


def has_ring(rows: Matrix, gpus: list[int]) -> bool:
    first, *rest = gpus
    return any(all(rows[a][b] for a, b in pairwise((first, *way, first))) for way in permutations(rest))


@pytest.mark.parametrize("count", [1, 2, 5, 9])
def test_sets_come_in_the_order_of_their_ordinals(count: int) -> None:
    for size in range(1, count + 1):
        expected = [sum(1 << gpu for gpu in gpus) for gpus in combinations(range(count), size)]
        assert sets_of(count, size).tolist() == expected


@given(links(1, 7))
def test_a_ring_runs_through_a_set_if_one_is_found_by_trying_them_all(rows: Matrix) -> None:
    for size in range(2, len(rows) + 1):
        masks = sets_of(len(rows), size)
        found = ringed(near_of(rows), masks, size)
        assert found.tolist() == [has_ring(rows, members(int(mask))) for mask in masks]


@given(links(3, 7))
def test_the_ring_itself(rows: Matrix) -> None:
    ring = ring_through(near_of(rows))
    assert (ring is not None) == has_ring(rows, list(range(len(rows))))
    if ring is not None:
        assert sorted(ring) == list(range(len(rows)))
        assert all(rows[a][b] for a, b in pairwise((*ring, ring[0])))


@settings(max_examples=20)
@given(st.permutations(range(16)), st.data())
def test_sixteen_gpus_with_a_ring_among_few_links(order: list[int], data: st.DataObject) -> None:
    rows = [[0] * 16 for _ in range(16)]
    for a, b in [*pairwise((*order, order[0])), *data.draw(st.lists(st.tuples(*[st.integers(0, 15)] * 2), max_size=9))]:
        rows[a][b] = rows[b][a] = int(a != b)
    everything = np.array([(1 << 16) - 1])
    near = near_of(tuple(map(tuple, rows)))
    assert ringed(near, everything, 16).all()
    cut = [list(row) for row in rows]  # a GPU that hangs from one other has no ring through it
    for other in members(near[order[3]])[1:]:
        cut[order[3]][other] = cut[other][order[3]] = 0
    assert not ringed(near_of(tuple(map(tuple, cut))), everything, 16).any()


@given(st.lists(st.integers(0, 20), min_size=1, max_size=6), st.sets(st.tuples(*[st.integers(0, 5)] * 2)))
def test_the_least_of_a_set_and_pairs_within_it(values: list[int], pairs: set[tuple[int, int]]) -> None:
    here = [(a, b) for a, b in pairs if max(a, b) < len(values)]
    smallest, held = least(tuple(values)), holding(here, len(values))
    for mask in range(1, 1 << len(values)):
        assert smallest[mask] == min(values[gpu] for gpu in members(mask))
        assert held[mask] == any(a in members(mask) and b in members(mask) for a, b in here)


def solved(rows: Matrix) -> float:
    """The most rings at once, by a solver over all rings that trying finds."""
    n = len(rows)
    around = [((0, *rest), rest) for rest in permutations(range(1, n)) if rest[0] < rest[-1]]
    rings = [{(min(s), max(s)) for s in pairwise((*way, 0))} for way, _ in around]
    rings = [ring for ring in rings if all(rows[a][b] for a, b in ring)]
    if not rings:
        return 0.0
    steps = sorted(set.union(*rings))
    takes = np.array([[step in ring for ring in rings] for step in steps], dtype=float)
    done = linprog(-np.ones(len(rings)), A_ub=takes, b_ub=[rows[a][b] for a, b in steps], method="highs")
    return -float(done.fun)


@settings(max_examples=2 * settings.default.max_examples)
@given(links(4, 7))
def test_rings_are_packed_as_a_solver_packs_them(rows: Matrix) -> None:
    packed = packed_rings(rows)
    assert packed == pytest.approx(solved(rows), abs=1e-5)
    assert packed <= star_bounds(rows)[-1] / 2 + 1e-6


@given(links(4, 7))
def test_the_bound_is_that_of_each_gpu_and_exact_for_three(rows: Matrix) -> None:
    bounds = star_bounds(rows)
    for gpus in [*combinations(range(len(rows)), 3), *combinations(range(len(rows)), 4)]:
        inside = [[rows[a][b] for b in gpus] for a in gpus]
        expected = min(min(sum(row), 2 * (sum(row) - max(row))) for row in inside)
        assert bounds[sum(1 << gpu for gpu in gpus)] == expected
        if len(gpus) == 3:
            assert packed_rings(inside) == expected / 2


def test_a_bound_of_many_links_does_not_run_over() -> None:
    many = 5_000
    rows = tuple(tuple(many * (a != b) for b in range(8)) for a in range(8))
    assert star_bounds(rows)[-1] == 7 * many


@settings(max_examples=20)
@given(st.integers(5, 7).flatmap(lambda n: st.lists(links(n, n), min_size=1, max_size=5)))
def test_many_sets_at_once_are_each_packed_in_turn(several: list[Matrix]) -> None:
    n = len(several[0])
    several = several + [tuple(tuple(row[i] for i in order) for row in (rows[i] for i in order))
                         for rows in several for order in [list(range(n))[::-1]]]  # fmt: skip
    packed = packed_many(np.array(several))
    assert packed.tolist() == [packed_rings(rows) for rows in several]
    assert packed[: len(several) // 2].tolist() == packed[len(several) // 2 :].tolist()


def test_a_packing_that_does_not_end_is_a_bug_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "_MOST_PIVOTS", 1)
    packing._packed.cache_clear()
    with pytest.raises(InvariantBroken, match="1 pivots"):
        packed_rings([[int(a != b) for b in range(7)] for a in range(7)])
