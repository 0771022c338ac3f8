"""Which system prompt a request begins with; no tokens of its own may be here."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rakka_sim.config.workload import Prefix
from rakka_sim.workload.arrivals import CHUNK


def prefix_groups(prefix: Prefix, rng: np.random.Generator) -> Iterator[int]:
    """Groups (0 is the likeliest), without end."""
    weights = np.arange(1, prefix.groups + 1, dtype=np.float64) ** -prefix.zipf
    edges = np.cumsum(weights)
    edges /= edges[-1]
    while True:
        yield from np.searchsorted(edges, rng.random(CHUNK), side="right").tolist()
