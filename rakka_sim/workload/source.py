"""What a source of requests is, and how a workload's configuration becomes one; no arrival logic may be here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import repeat, tee
from pathlib import Path
from typing import Protocol

import numpy as np

from rakka_sim.config.workload import Arrivals, Closed, TraceArrivals, TraceLengths, WorkloadConfig
from rakka_sim.values import ExecuteBatch
from rakka_sim.workload.arrivals import arrival_times, pauses
from rakka_sim.workload.conversation import turn_counts
from rakka_sim.workload.feedback import Feedback
from rakka_sim.workload.lengths import Body, bodies
from rakka_sim.workload.merged import Merged
from rakka_sim.workload.open_loop import OpenLoop
from rakka_sim.workload.prefixes import prefix_groups
from rakka_sim.workload.readers.row import Row
from rakka_sim.workload.readers.trace import TraceFile
from rakka_sim.workload.requests import Requests


class Source(Protocol):
    """Requests in order of arrival. It knows no clock: times are seconds from the start of the run."""

    @property
    def total(self) -> int | None:
        """How many requests there will be, for progress; None if unknown."""
        ...

    @property
    def skipped(self) -> int:
        """Rows of a trace left out so far because they are no requests (failures)."""
        ...

    @property
    def exhausted(self) -> bool:
        """No arrival will ever come any more, even after further `ended`."""
        ...

    def peek(self) -> float | None:
        """When the next request arrives; None if none is scheduled now."""
        ...

    def pop(self) -> ExecuteBatch:
        """That request. Raises InvariantBroken if none is scheduled."""
        ...

    def ended(self, request_id: int, now: float, output_tokens: int) -> None:
        """A request of this source has ended, well or not: closed loops and conversations may schedule more."""
        ...

    def number(self, first_id: int, stride: int) -> None:
        """Number requests, conversations and contents ``first_id + n * stride``; only before the first `pop`."""
        ...


def make_source(
    config: WorkloadConfig, *, model: str, rng: np.random.Generator, base_dir: Path, first_id: int = 1
) -> Source:
    """The source that `config` describes; its paths are relative to `base_dir`.

    `rng` is this source's own: a second source made from it draws other values. `first_id` is at least 1, because
    session 0 means no session. Raises InputError, UnknownName, DatasetMissing or TraceError.
    """
    # A stream for each thing drawn, in this order for ever: to change one thing must not shift another.
    arrivals_rng, lengths_rng, prefix_rng, turns_rng, pauses_rng = rng.spawn(5)
    trace = TraceFile(config.trace, base_dir) if config.trace else None
    timed = isinstance(config.arrivals, TraceArrivals)
    total = trace.check(timed, config.requests) if trace else config.requests
    for_starts, for_shapes = tee(trace.rows(timed)) if trace else (iter(()), iter(()))
    shapes: Iterator[Body]
    if isinstance(config.lengths, TraceLengths):
        shapes = (row[:3] for row in for_shapes)
    else:
        shapes = bodies(config.lengths, lengths_rng, base_dir)
    groups = prefix_groups(config.prefix, prefix_rng) if config.prefix else None
    requests = Requests(config, model=model, bodies=shapes, groups=groups)
    starts = _starts(config.arrivals, for_starts, arrivals_rng)
    if config.duration_s is not None or (trace and config.sessions):
        total = None
    source: Source
    if isinstance(config.arrivals, Closed) or config.sessions is not None:
        closed, sessions = config.arrivals, config.sessions
        source = Feedback(
            config,
            requests,
            trace,
            total,
            starts=starts,
            again=pauses(closed.think_time_s, closed.think_cv, arrivals_rng) if isinstance(closed, Closed) else None,
            turns=turn_counts(sessions.turns, turns_rng) if sessions else None,
            pauses=pauses(sessions.think_time_s, sessions.think_cv, pauses_rng) if sessions else repeat(0.0),
        )
    else:
        source = OpenLoop(config, requests, trace, total, times=starts)
    source.number(first_id, 1)
    return source


def merge(sources: Sequence[Source]) -> Source:
    """All of them as one, renumbered so that nothing collides; at one instant the earlier in `sources` comes first."""
    return Merged(sources)


def _starts(arrivals: Arrivals, rows: Iterator[Row], rng: np.random.Generator) -> Iterator[float]:
    if isinstance(arrivals, TraceArrivals):
        return (row.at / arrivals.speedup for row in rows)
    if isinstance(arrivals, Closed):
        return (arrivals.ramp_s * user / arrivals.concurrency for user in range(arrivals.concurrency))
    return arrival_times(arrivals, rng)
