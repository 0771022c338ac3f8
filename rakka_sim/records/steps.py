"""The table of engine steps, kept as runs of steps and read one row a step; no statistics may be in here."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

import numpy as np

from rakka_sim.records.rows import Array, Rows, frozen
from rakka_sim.values import StepOutcome

_FIELDS = {
    "started": "d",
    "context_tokens": "q",
    "crossings": "i",
    "steps": "i",
    "replica": "i",
    "prefill_tokens": "i",
    "decode_seqs": "i",
    "max_context": "i",
    "kv_blocks": "i",
    "running": "i",
    "waiting": "i",
    "preempted": "i",
}


_FLOAT = np.dtype("<f8")


class StepTable:
    """One row per run of steps, in order of append; read as one row per step, in order of (start, replica)."""

    __slots__ = ("_count", "_crossings", "_ends", "_rows", "_waiting")

    def __init__(self) -> None:
        self._rows = Rows(_FIELDS)
        self._ends = bytearray()  # float64, every step's
        self._count = 0
        self._crossings: list[tuple[int, ...]] = [(0,)]  # the first is for runs in which no row takes a block
        self._waiting = Rows({"step": "q", "by": "i"})  # changes within a run, by step in order of append

    def append(
        self, replica: int, outcome: StepOutcome, preempted: int, joined: Iterable[tuple[float, int]] = ()
    ) -> None:
        times, plan = outcome.times, outcome.plan
        steps = len(times)
        if steps == 0:
            return
        if times.dtype != _FLOAT:
            times = times.astype(_FLOAT)
        self._ends += times.tobytes()
        self._count_waiting(times, plan.waiting, joined)
        self._count += steps
        crossings = 0
        if steps > 1 and plan.crossings:
            crossings = len(self._crossings)
            self._crossings.append(plan.crossings[:steps])
        self._rows.append(
            outcome.started,
            plan.context_tokens,
            crossings,
            steps,
            replica,
            plan.prefill_tokens,
            plan.decode_seqs,
            plan.max_context,
            plan.kv_blocks,
            plan.running,
            plan.waiting,
            preempted,
        )

    def _count_waiting(self, times: Array, waiting: int, joined: Iterable[tuple[float, int]]) -> None:
        for at, now_waiting in joined:
            step = int(times.searchsorted(at)) + 1  # who comes at a boundary is seen by the step that begins there
            if step >= len(times):
                return
            self._waiting.append(self._count + step, now_waiting - waiting)
            waiting = now_waiting

    def columns(self, rank: Array) -> dict[str, Array]:
        """Times in s; `replica` is `rank[index given at append]`."""
        runs = self._rows.array()
        first_end = np.cumsum(runs["steps"], dtype=np.int64) - runs["steps"]
        # Replica by replica a table is nearly in order of time already, which makes the sort below cheap.
        by_replica = np.argsort(rank[runs["replica"]], kind="stable")
        runs, first_end = runs[by_replica], first_end[by_replica]

        head = np.cumsum(runs["steps"], dtype=np.int64) - runs["steps"]
        run = np.repeat(np.arange(len(runs)), runs["steps"])
        step = np.arange(len(run)) - head[run]
        end = np.frombuffer(self._ends, _FLOAT)[first_end[run] + step]
        start = np.empty_like(end)
        start[1:] = end[:-1]
        start[head] = runs["started"]
        taken = self._blocks_taken(runs, head, run, step)
        joined = self._joined(first_end[run], step)

        order = np.argsort(start, kind="stable")
        run, step = run[order], step[order]
        columns = {
            "start": start[order],
            "end": end[order],
            "replica": rank[runs["replica"]][run],
            "prefill_tokens": runs["prefill_tokens"][run],
            "decode_seqs": runs["decode_seqs"][run],
            "kv_blocks": _int32(runs["kv_blocks"][run] + taken[order]),
            "context_tokens": runs["context_tokens"][run] + step * runs["decode_seqs"][run],
            "max_context": _int32(runs["max_context"][run] + step),
            "running": runs["running"][run],
            "waiting": _int32(runs["waiting"][run] + joined[order]),
            "preempted": np.where(step == 0, runs["preempted"][run], np.int32(0)),
        }
        return {name: frozen(column) for name, column in columns.items()}

    def _joined(self, first: Array, step: Array) -> Array:
        """How many more wait at a step than at the first one of its run, which is number `first` in order of append."""
        changes = self._waiting.array()
        joined = np.zeros(self._count, np.int64)
        np.add.at(joined, changes["step"], changes["by"])
        joined = np.cumsum(joined)
        more: Array = joined[first + step] - joined[first]
        return more

    def _blocks_taken(self, runs: Array, head: Array, run: Array, step: Array) -> Array:
        """Blocks that the rows of each step's run have taken since its first step."""
        period = np.fromiter(map(len, self._crossings), np.int64, len(self._crossings))
        begins = np.cumsum(period) - period
        crossings = np.fromiter(chain.from_iterable(self._crossings), np.int32, int(period.sum()))
        place = step % period[runs["crossings"]][run]
        place += begins[runs["crossings"]][run]
        taken = np.cumsum(crossings[place], dtype=np.int64)
        return taken - taken[head][run]


def _int32(column: Array) -> Array:
    return column.astype(np.int32, copy=False)
