"""The scatter of single steps: the same for a run as for its steps, and as wide as the residuals say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rakka_sim.engines.noise import Noise

RESIDUALS = tuple(np.linspace(-0.1, 0.3, 5).tolist())


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.integers(0, 2**32))
def test_steps_draw_the_same_however_they_are_bundled(bundles: list[int], seed: int) -> None:
    total = sum(bundles)
    at_once = Noise(RESIDUALS).factors(total, np.random.default_rng(seed)).tolist()
    noise, rng, drawn = Noise(RESIDUALS), np.random.default_rng(seed), []
    for steps in bundles:
        planned = noise.factors(steps + 5, rng)  # a run that is cut short
        drawn += planned[:steps].tolist()
        noise.done += steps
    assert drawn == at_once


def test_the_draws_have_the_distribution_of_the_residuals() -> None:
    drawn = Noise(RESIDUALS).factors(50_000, np.random.default_rng(1)) - 1.0
    for p in (1, 25, 50, 75, 99):
        assert np.percentile(drawn, p) == pytest.approx(np.percentile(RESIDUALS, p), abs=5e-3)
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 0.02
