"""The engine steps of one replica, kept as runs of steps and read one row a step; no statistics may be in here."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Any

import numpy as np

from rakka_sim.records.rows import Array, Floats, Rows
from rakka_sim.values import StepOutcome

_FIELDS = {
    "started": "d",
    "context_tokens": "q",
    "crossings": "q",
    "steps": "i",
    "period": "i",
    "prefill_tokens": "i",
    "decode_seqs": "i",
    "max_context": "i",
    "kv_blocks": "i",
    "running": "i",
    "waiting": "i",
    "preempted": "i",
}

MOST_IN_A_BYTE = 255
FEW = 2  # rows make at most 136 different crossings of blocks of 16


class ReplicaSteps:
    """One row per run of steps, in order of append. Of a step only its end is kept: 8 bytes, which its tokens share."""

    __slots__ = ("_crossings", "_ends", "_few", "_rows", "_waiting")

    def __init__(self) -> None:
        self._rows = Rows(_FIELDS)
        self._ends = Floats()  # every step's
        # Of all runs, one behind the other; the first is for where no row takes one. Bytes, as long as they suffice.
        self._crossings = array("B", [0])
        self._few: dict[tuple[int, ...], int] = {}
        self._waiting = Rows({"step": "q", "by": "i"})  # changes within a run, by step in order of append

    def __reduce__(self) -> tuple[Any, ...]:
        return ReplicaSteps, (), (self._rows, self._ends, self._crossings, self._few, self._waiting)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._rows, self._ends, self._crossings, self._few, self._waiting = state

    def __len__(self) -> int:
        return len(self._ends)

    def append(self, outcome: StepOutcome, preempted: int, joined: Iterable[tuple[float, int]]) -> int:
        """The number of the first of these steps."""
        times, plan = outcome.times, outcome.plan
        steps, first = len(times), len(self._ends)
        if steps == 0:
            return first
        self._ends.extend(times)
        if joined:
            self._count_waiting(first, times, plan.waiting, joined)
        crossings, period = 0, 1
        if steps > 1 and plan.crossings:
            period = len(plan.crossings)
            crossings = self._pattern(plan.crossings, plan.decode_seqs)
        self._rows.append(
            outcome.started,
            plan.context_tokens,
            crossings,
            steps,
            period,
            plan.prefill_tokens,
            plan.decode_seqs,
            plan.max_context,
            plan.kv_blocks,
            plan.running,
            plan.waiting,
            preempted,
        )
        return first

    def _pattern(self, crossings: tuple[int, ...], rows: int) -> int:
        """Where it stands among the crossings of all runs; what a few rows can make is kept once."""
        place = self._few.get(crossings) if rows <= FEW else None
        if place is None:
            place = len(self._crossings)
            if max(crossings) > MOST_IN_A_BYTE and self._crossings.typecode == "B":
                self._crossings = array("i", self._crossings)
            self._crossings.extend(crossings)
            if rows <= FEW:
                self._few[crossings] = place
        return place

    def _count_waiting(self, first: int, times: Array, waiting: int, joined: Iterable[tuple[float, int]]) -> None:
        for at, now_waiting in joined:
            step = int(times.searchsorted(at)) + 1  # who comes at a boundary is seen by the step that begins there
            if step >= len(times):
                return
            self._waiting.append(first + step, now_waiting - waiting)
            waiting = now_waiting

    def window(self) -> tuple[float, float]:
        """When the first step began and the last one ended (s); there must be one."""
        return float(self._rows.array()["started"].min()), float(self.ends().max())

    def ends(self) -> Array:
        """When each step ended (s), in order of append."""
        return self._ends.array()

    def some_ends(self, first: int, count: int) -> Array:
        """The same of some steps, the first one's number given."""
        return self._ends.some(first, count)

    def runs(self) -> dict[str, Array]:
        """One row per run of steps: the columns of its first step, `last_end` and `most_blocks` of its last one.

        Within a run only times, contexts, blocks and waiting change; contexts and blocks grow.
        """
        rows = self._rows.array()
        last = np.cumsum(rows["steps"], dtype=np.int64) - 1
        step = rows["steps"] - 1
        # Blocks are taken at the steps after the first: whole periods, and what is left of the last one.
        upto = np.cumsum(np.concatenate([[0], np.array(self._crossings, np.int64)]))
        place, period = rows["crossings"], rows["period"]
        cycles, rest = step // period, step % period
        taken = cycles * (upto[place + period] - upto[place]) + upto[place + rest + 1] - upto[place + 1]
        names = ("prefill_tokens", "decode_seqs", "kv_blocks", "context_tokens", "running", "waiting", "preempted")
        columns = {name: rows[name] for name in names}
        ends = self.ends()
        times = {"start": rows["started"], "end": ends[last - step], "last_end": ends[last]}
        return {**columns, **times, "most_blocks": rows["kv_blocks"] + taken}

    def occupied(self) -> tuple[float, float]:
        """Request-seconds of all steps: of the requests that decode, and of those that run or wait."""
        runs, changes, ends = self._rows.array(), self._waiting.array(), self.ends()
        last = np.cumsum(runs["steps"], dtype=np.int64) - 1
        took = ends[last] - runs["started"]
        present = float(((runs["running"] + runs["waiting"]) * took).sum())
        # Who joins at a step of a run is there from then to the run's end.
        left = ends[last[np.searchsorted(last, changes["step"])]] - ends[changes["step"] - 1]
        return float((runs["decode_seqs"] * took).sum()), present + float((changes["by"] * left).sum())

    def columns(self) -> dict[str, Array]:
        """One row per step, in order of append."""
        runs = self._rows.array()
        head = np.cumsum(runs["steps"], dtype=np.int64) - runs["steps"]
        run = np.repeat(np.arange(len(runs)), runs["steps"])
        step = np.arange(len(run)) - head[run]
        end = self.ends()
        start = np.empty_like(end)
        start[1:] = end[:-1]
        start[head] = runs["started"]
        return {
            "start": start,
            "end": end,
            "prefill_tokens": runs["prefill_tokens"][run],
            "decode_seqs": runs["decode_seqs"][run],
            "kv_blocks": _int32(runs["kv_blocks"][run] + self._blocks_taken(runs, head, run, step)),
            "context_tokens": runs["context_tokens"][run] + step * runs["decode_seqs"][run],
            "max_context": _int32(runs["max_context"][run] + step),
            "running": runs["running"][run],
            "waiting": _int32(runs["waiting"][run] + self._joined(head[run], step)),
            "preempted": np.where(step == 0, runs["preempted"][run], np.int32(0)),
        }

    def _joined(self, first: Array, step: Array) -> Array:
        """How many more wait at a step than at the first one of its run, which is number `first`."""
        changes = self._waiting.array()
        joined = np.zeros(len(step), np.int64)
        np.add.at(joined, changes["step"], changes["by"])
        joined = np.cumsum(joined)
        more: Array = joined[first + step] - joined[first]
        return more

    def _blocks_taken(self, runs: Array, head: Array, run: Array, step: Array) -> Array:
        """Blocks that the rows of each step's run have taken since its first step."""
        place = step % runs["period"][run]
        place += runs["crossings"][run]
        taken = np.cumsum(np.array(self._crossings, np.int32)[place], dtype=np.int64)
        return taken - taken[head][run]


def _int32(column: Array) -> Array:
    return column.astype(np.int32, copy=False)
