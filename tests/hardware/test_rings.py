"""Rings against plain enumeration: the best one, and how many a set of links bears at once."""

from __future__ import annotations

from itertools import combinations, pairwise, permutations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rakka_sim.hardware import rings
from rakka_sim.hardware.packing import packed_rings
from rakka_sim.hardware.presets import preset
from rakka_sim.hardware.rings import best_ring

Matrix = list[list[int]]


@st.composite
def matrices(draw: st.DrawFn, least: int, most: int, values: st.SearchStrategy[int]) -> Matrix:
    """A symmetric matrix of so many rows."""
    n = draw(st.integers(least, most))
    rows = [[0] * n for _ in range(n)]
    for a, b in combinations(range(n), 2):
        rows[a][b] = rows[b][a] = draw(values)
    return rows


def _slowest(rates: Matrix, ring: tuple[int, ...]) -> int:
    return min(rates[a][b] for a, b in pairwise((*ring, ring[0])))


def _brute(rates: Matrix) -> int:
    return max(_slowest(rates, (0, *rest)) for rest in permutations(range(1, len(rates))))


@given(rates=matrices(2, 7, st.integers(1, 4)))
def test_the_best_ring_is_that_of_enumeration(rates: Matrix) -> None:
    slowest, ring = best_ring(rates)
    assert sorted(ring) == list(range(len(rates)))
    assert slowest == _slowest(rates, ring) == _brute(rates)


@given(data=st.data(), n=st.integers(9, 16))
def test_a_ring_that_is_hidden_among_many_gpus_is_found_or_bounded(data: st.DataObject, n: int) -> None:
    order = data.draw(st.permutations(range(n)))
    rates = data.draw(matrices(n, n, st.sampled_from([1, 1, 1, 2])))
    for a, b in pairwise((*order, order[0])):
        rates[a][b] = rates[b][a] = 3
    slowest, ring = best_ring(rates)
    assert sorted(ring) == list(range(n))
    assert slowest == _slowest(rates, ring) == 3


def test_two_cliques_of_eight_and_one_bridge_have_no_fast_ring() -> None:
    n = 16
    rates = [[9 if (a < 8) == (b < 8) else 1 for b in range(n)] for a in range(n)]
    rates[0][8] = rates[8][0] = 9
    slowest, ring = best_ring(rates)
    assert (slowest, sorted(ring)) == (1, list(range(n)))


def test_sixteen_gpus_of_one_switch_are_decided_without_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rings, "_ring_at", lambda *_: pytest.fail("searched"))
    assert best_ring([[5] * 16 for _ in range(16)]) == (5, tuple(range(16)))


def test_one_gpu_and_two() -> None:
    assert best_ring([[7]]) == (0.0, (0,))
    assert best_ring([[0, 4], [4, 0]]) == (4, (0, 1))
    assert packed_rings([[0, 4], [4, 0]]) == 2.0


@given(links=matrices(4, 4, st.integers(0, 4)))
def test_rings_of_four_are_packed_as_by_trying_all_halves(links: Matrix) -> None:
    """Each step is in two of the three rings, so the optimum is in halves."""
    around = [(0, 1, 2, 3), (0, 1, 3, 2), (0, 2, 1, 3)]
    best = 0.0
    for halves in product(range(9), repeat=3):
        used = dict.fromkeys(combinations(range(4), 2), 0)
        for ring, amount in zip(around, halves, strict=True):
            for a, b in pairwise((*ring, ring[0])):
                used[min(a, b), max(a, b)] += amount
        if all(used[a, b] <= 2 * links[a][b] for a, b in used):
            best = max(best, sum(halves) / 2)
    assert packed_rings(links) == pytest.approx(best)


@given(links=matrices(3, 7, st.integers(0, 3)))
def test_packed_rings_are_bounded_by_one_ring_and_by_the_links_of_each_gpu(links: Matrix) -> None:
    packed = packed_rings(links)
    assert packed >= _brute(links) - 1e-6
    assert packed <= min(map(sum, links)) / 2 + 1e-6


def test_the_cube_mesh_uses_all_its_links() -> None:
    assert preset("dgx1-v100").group(range(8)).ring_gb_s == pytest.approx(6 * 20.0)
    assert preset("dgx1-p100").group(range(8)).ring_gb_s == pytest.approx(4 * 18.0)
    assert preset("dgx1-v100").group(range(4)).ring_gb_s == pytest.approx(2 * 2 * 20.0)
    assert preset("dgx1-v100").group((0, 3)).ring_gb_s == pytest.approx(2 * 20.0)
