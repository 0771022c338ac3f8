"""Straight lines between measured points, against numpy's and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rakka_sim.errors import InputError
from rakka_sim.timing.curves import Curve, Grid, doubling, total
from rakka_sim.timing.graphs import Padding, capture_sizes

points = st.dictionaries(st.integers(1, 500), st.floats(1e-6, 1.0), min_size=2, max_size=8)


@given(points, st.lists(st.floats(0.5, 900.0), min_size=1, max_size=20))
def test_one_size_and_many_agree_to_the_last_bit(measured: dict[int, float], sizes: list[float]) -> None:
    curve = Curve(list(measured), list(measured.values()))
    assert [curve.at(size) for size in sizes] == curve.over(np.array(sizes)).tolist()


@given(points)
def test_between_the_points_it_is_what_numpy_interpolates(measured: dict[int, float]) -> None:
    curve, x = Curve(list(measured), list(measured.values())), sorted(measured)
    inside = np.linspace(x[0], x[-1], 17)
    np.testing.assert_allclose(curve.over(inside), np.interp(inside, x, [measured[size] for size in x]), rtol=1e-9)


def test_beyond_the_last_point_the_line_goes_on_and_before_the_first_it_does_not() -> None:
    curve = Curve([10, 20, 40], [1.0, 2.0, 6.0])
    assert curve.at(60) == pytest.approx(10.0)
    assert curve.at(1) == 1.0
    assert Curve([8], [0.5]).at(100) == 0.5


def test_curves_add_up_over_all_their_points() -> None:
    both = total([(Curve([1, 3], [1.0, 3.0]), 2.0), (Curve([2, 4], [10.0, 10.0]), 1.0)])
    assert both.sizes.tolist() == [1, 2, 3, 4]
    assert both.at(2.5) == pytest.approx(2 * 2.5 + 10)


@pytest.mark.parametrize(("x", "y"), [([], []), ([1, 1], [2.0, 3.0])])
def test_a_curve_without_points_or_with_one_twice_is_refused(x: list[float], y: list[float]) -> None:
    with pytest.raises(InputError):
        Curve(x, y)


def test_a_grid_is_exact_for_what_is_linear_in_each_size_and_goes_on_along_the_last() -> None:
    measured: dict[tuple[float, ...], float] = {(a, b): 1 + 2 * a + 3 * b + a * b for a in (1, 2, 4) for b in (1, 2, 4)}
    del measured[4, 4]
    grid = Grid([[1, 2, 4], [1, 2, 4]], measured)
    for a, b in ((1.5, 1.5), (3, 3), (4, 4), (8, 3), (2, 16)):
        assert grid.at(a, b) == pytest.approx(1 + 2 * a + 3 * b + a * b)


def test_a_grid_with_holes_says_how_many() -> None:
    with pytest.raises(InputError, match="1 points are missing"):
        Grid([[1, 2], [1, 2]], {(1.0, 1.0): 1.0, (1.0, 2.0): 1.0, (2.0, 2.0): 1.0})


def test_the_full_grid_of_a_profile_is_what_doubles() -> None:
    assert doubling([0, 16, 24, 32, 36, 64, 81, 128]) == [0, 16, 32, 64, 128]


def test_graphs_are_captured_and_padded_to_as_in_vllm() -> None:
    sizes = capture_sizes(256, 2048)
    assert sizes[:6] == (1, 2, 4, 8, 16, 24)
    assert sizes[-2:] == (496, 512)
    assert capture_sizes(128, 2048)[-1] == 256
    padding = Padding(sizes)
    assert [padding.padded(n) for n in (1, 3, 5, 17, 250, 257, 512, 513)] == [1, 4, 8, 24, 256, 272, 512, 513]
    assert Padding().padded(77) == 77
