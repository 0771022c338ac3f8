"""How long prompts and outputs are: streams of bodies, drawn in chunks. No arrival times may be here."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat
from math import log, sqrt
from pathlib import Path

import numpy as np

from rakka_sim.config.workload import EmpiricalLengths, FixedLengths, LognormalLengths
from rakka_sim.workload.arrivals import CHUNK
from rakka_sim.workload.empirical import Pairs, read_pairs

# Prompt tokens, output tokens, and the hashes of the prompt's blocks where a trace gives them.
Body = tuple[int, int, tuple[int, ...]]


def bodies(
    lengths: FixedLengths | LognormalLengths | EmpiricalLengths, rng: np.random.Generator, base_dir: Path
) -> Iterator[Body]:
    """Bodies without end. Raises InputError or TraceError for an empirical file that cannot be used."""
    if isinstance(lengths, FixedLengths):
        return repeat((lengths.prompt, lengths.output, ()))
    if isinstance(lengths, LognormalLengths):
        return _lognormal(lengths, rng)
    return _resampled(read_pairs(lengths, base_dir), rng)


def _lognormal(lengths: LognormalLengths, rng: np.random.Generator) -> Iterator[Body]:
    sides = (lengths.prompt, lengths.output)
    mu = np.array([log(side.middle) for side in sides])
    sigma = np.array([side.log_sigma for side in sides])
    low, high = [side.min for side in sides], [side.max for side in sides]
    shared, own = lengths.correlation, sqrt(1.0 - lengths.correlation**2)
    while True:
        normal = rng.standard_normal((CHUNK, 2))
        normal[:, 1] = shared * normal[:, 0] + own * normal[:, 1]
        yield from _rows(np.clip(np.rint(np.exp(mu + sigma * normal)), low, high).astype(np.int64))


def _resampled(pairs: Pairs, rng: np.random.Generator) -> Iterator[Body]:
    while True:
        yield from _rows(pairs[rng.integers(len(pairs), size=CHUNK)])


def _rows(pairs: Pairs) -> Iterator[Body]:
    return zip(pairs[:, 0].tolist(), pairs[:, 1].tolist(), repeat(()), strict=False)
