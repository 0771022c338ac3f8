"""How sure a mean over seeds is: Student's interval; nothing about requests may be here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

LEVEL = 0.95


def interval(values: Sequence[float]) -> float | None:
    """Half the width of the mean's confidence interval; None for fewer than two values."""
    count = len(values)
    if count < 2:
        return None
    error = float(np.std(values, ddof=1)) / count**0.5
    return float(float(stats.t.ppf((1 + LEVEL) / 2, count - 1)) * error)
