"""Continuous batching: what the next step computes, and what follows when it has; no clock and no message may be here.

vLLM V1's scheduler. There are no phases: each sequence has `computed` tokens that chase its `total` ones. A step has a
budget of tokens. Running sequences take their share first, in order; a waiting one is seated while budget, seats and
blocks last. One that finds no block takes the last running one's, which is computed again later.

Decode steps that are sure to be alike are planned as one run (`core.runs`). `plan` and `commit` alternate; who wants
the next plan before the one in flight has ended uses `core.ahead`.
"""

from __future__ import annotations

from collections.abc import Mapping

from rakka_sim.core.kv import KvCache
from rakka_sim.core.places import Places
from rakka_sim.core.plan_rows import MixedRows
from rakka_sim.core.runs import ANY, plan_run, promised_blocks
from rakka_sim.core.sequence import (
    NOBODY,
    BatchingLimits,
    Event,
    Preempted,
    Sampled,
    Sequence,
    SequenceSpec,
    Started,
    check_places,
    last_tokens,
    make_sequence,
    pause_others,
)
from rakka_sim.core.step import Step
from rakka_sim.errors import BadRequest, InvariantBroken
from rakka_sim.values import FinishReason, StepPlan

__all__ = ["ANY", "NOBODY", "Batcher", "BatchingLimits", "Event", "Preempted", "Sampled", "SequenceSpec", "Started"]


class Batcher(Places):
    """Plans the steps of one engine. `runs=False` plans every step by itself, to exactly the same effect."""

    def __init__(self, limits: BatchingLimits, kv: KvCache, runs: bool = True) -> None:
        super().__init__(limits, kv)
        self._runs = runs
        self._max_len = min(limits.max_model_len, kv.num_blocks * kv.block_size)
        self._plan: StepPlan | None = None
        self._flight: list[Sequence] = []  # the sequences of that plan's rows
        self._head: Sequence | None = None  # who was next in the queue when it was made
        self._cut = False  # a row of it has been cancelled

    # --- requests come and go -----------------------------------------------------------------------------------

    def add(self, spec: SequenceSpec) -> None:
        """Queue a request; raises BadRequest, or ContextLengthExceeded if it can never fit."""
        if spec.request_id in self._sequences:
            raise BadRequest(f"request id {spec.request_id} is taken")
        seq = make_sequence(spec, self._kv.block_size, self._max_len)
        self._sequences[spec.request_id] = seq
        self._waiting.push(seq)
        self._uncomputed += seq.total

    def cancel(self, request_id: int) -> list[Event]:
        """End a request: now if it has no row in flight, else when that step is committed; unknown ids are harmless.

        Of a run, the tokens of its earlier steps count then and the last one's does not, as if the steps had been
        planned one by one: it must be ended at its next boundary.
        """
        if (seq := self._sequences.get(request_id)) is None:
            return []
        if seq in self._flight:
            seq.cancelled = self._cut = True
            return []
        if seq.beat is not None:
            self._decoding.leave(seq)
        if seq.running:
            self._running.remove(seq)
        else:
            self._waiting.remove(seq)
        self._end(seq, 0, FinishReason.CANCELLED, self._clock)
        return self.take_events()

    def flush(self) -> list[Event]:
        """Report what has been kept back so far of requests that are not streamed."""
        for seq in self._sequences.values():
            self._tell(seq.so_far(self._clock))
        return self.take_events()

    # --- a step, or a run of steps ------------------------------------------------------------------------------

    def plan(self, most: int = ANY) -> StepPlan | None:
        """What to compute next, a step or a run of up to `most`; None when there is nothing to compute."""
        self._must_be_idle()
        if not self._plan_run(most) and (self._running or self._waiting.count):
            self._plan_step()
            self._head = self._waiting.head()
        return self._plan

    def _must_be_idle(self) -> None:
        if self._plan is not None:
            raise InvariantBroken("batcher", "a plan is in flight already")

    def _plan_run(self, most: int) -> bool:
        if self._runs and self._running:
            self._flight, self._head = self._running.copy(), self._waiting.head()
            self._plan = plan_run(self._flight, self._decoding, self._waiting, self.limits, self._kv, most)
        return self._plan is not None

    @property
    def run_must_end(self) -> bool:
        """Whether the run in flight is to end at its next boundary, because of what came or went since it began."""
        return self._plan is not None and self._plan.steps > 1 and self._others_are_due()

    def _others_are_due(self) -> bool:
        """Whether a row has been cancelled, or a seat is free and somebody else is next in the queue."""
        return self._cut or (len(self._running) < self.limits.seats and self._waiting.head() is not self._head)

    def _plan_step(self) -> None:
        step = Step(self.limits.max_num_batched_tokens)
        if self._schedule_running(step):
            self._seat_waiting(step)
        self._flight = step.sequences
        self._plan = step.plan(len(self._running), self._waiting.count, self._kv.blocks_in_use)

    def _schedule_running(self, step: Step) -> bool:
        """Give running sequences their share; whether all found their blocks without preempting any."""
        running, kv = self._running, self._kv
        block_size = kv.block_size
        cap = self.limits.long_prefill_token_threshold or step.budget
        seated, at = len(running), self._schedule_decoding(step) if self._decoding.count else 0
        while at < len(running) and step.budget > 0:
            seq = running[at]
            missing = seq.total - seq.computed
            tokens = min(missing, cap, step.budget) if missing > 1 else 1
            if tokens >= -seq.computed % block_size:  # else the last block takes them all and does not fill up
                while not kv.grow(seq.request_id, seq.computed + tokens):
                    if self._preempt_last() is seq:
                        return False
            step.put(seq, tokens)
            at += 1
        return len(running) == seated

    def _schedule_decoding(self, step: Step) -> int:
        """Give who decodes a row each, if that goes without looking at them one by one; how many rows it gave."""
        decoding, count = self._decoding, self._decoding.count
        # Who is still in its prompt has been seated last, but for priorities.
        in_order = not any([seq.beat is not None for seq in self._running[count:]])
        if not (in_order and count <= step.budget and self._kv.step(1)):
            decoding.dissolve()
            return 0
        step.put_all(decoding, self._running[:count])
        return count

    def _seat_waiting(self, step: Step) -> None:
        limits, kv, waiting = self.limits, self._kv, self._waiting
        while (seq := waiting.head()) and step.budget > 0 and len(self._running) < limits.max_num_seqs:
            total = seq.total
            hits = kv.lookup(seq.keys, total)
            cached = len(hits) * kv.block_size
            tokens = min(total - cached, limits.long_prefill_token_threshold or total)
            if tokens > step.budget and not limits.chunked_prefill:
                break
            tokens = min(tokens, step.budget)
            must_fit = total if limits.scheduler_reserve_full_isl else cached + tokens
            if kv.shortage(must_fit, hits) > 0:
                break
            kv.allocate(seq.request_id, seq.keys, cached + tokens, hits)
            waiting.remove(seq)
            self._seat(seq, cached)
            step.put(seq, tokens)

    def promised_blocks(self, plan: StepPlan) -> dict[int, list[int]]:
        """The blocks that each row of a run gets on top of its table, in order; none for a plan of one step."""
        return promised_blocks(plan, self._kv)

    # --- what became of it --------------------------------------------------------------------------------------

    def commit(self, steps_done: int, ended: Mapping[int, FinishReason] = NOBODY) -> list[Event]:
        """The plan in flight has been computed; of a run, its first `steps_done` steps.

        With the last of them, requests in `ended` have come to an end of their own: STOP by the token it brought, or
        ERROR without one.
        """
        plan = self._plan
        if plan is None or not 1 <= steps_done <= plan.steps:
            raise InvariantBroken("batcher", f"{steps_done} steps are done of {plan and plan.steps}")
        step, self._clock = self._clock, self._clock + steps_done
        if plan.crossings:
            if not self._kv.step(steps_done):
                raise InvariantBroken("batcher", f"a run of {steps_done} steps has no blocks for all of its requests")
            finished = self._commit_decoding(step, steps_done, ended)
        else:
            finished = self._commit_step(plan, step, ended)
        if finished:
            self._running = [seq for seq in self._running if seq.running]
        self._landed()
        return self.take_events()

    def _commit_decoding(self, step: int, count: int, ended: Mapping[int, FinishReason]) -> bool:
        """Who decodes has got `count` tokens; whether some have finished. Only the last step may end one."""
        also: list[Sequence] = []  # that end, besides those who come to their end
        if self._cut or ended:
            also = [seq for seq in self._flight if seq.beat and (seq.cancelled or seq.request_id in ended)]
        ending = self._decoding.advance(count, also)
        for seq in self._flight if self._decoding.streamed else ending:
            if seq.beat is not None:
                self._tell(seq.sampled(0) if seq.streamed else None)
            elif seq in ending:
                seq.compute(count)
                self._uncomputed -= count
                self._end(seq, *last_tokens(seq, count, ended), step)
        return bool(ending)

    def _commit_step(self, plan: StepPlan, step: int, ended: Mapping[int, FinishReason]) -> bool:
        """Number `step` has been computed; whether some sequence has finished."""
        flight, rows, finished = self._flight, plan.rows, False
        if type(rows) is MixedRows:  # `isinstance` would ask its abstract base, which costs more than the whole branch
            flight, rows = flight[len(rows.decoding) :], rows.others
            finished = self._commit_decoding(step, 1, ended)
        uncomputed = 0
        for row, seq in zip(rows, flight, strict=True):
            seq.compute(row.tokens)
            uncomputed -= row.tokens
            if seq.cancelled or (row.samples and (seq.total + 1 == seq.end or seq.request_id in ended)):
                self._end(seq, *last_tokens(seq, 1, ended), step)
                finished = True
            elif row.samples:
                uncomputed += 1
                self._tell(seq.goes_on(step, 1))
                self._decoding.join(seq)
        self._uncomputed += uncomputed
        if len(self._flight) < len(self._running):  # the budget did not last for everybody
            pause_others(self._running, self._flight, step)
        return finished

    def _landed(self) -> None:
        self._plan, self._flight, self._head, self._cut = None, [], None, False

    def fail(self, steps_done: int = 0) -> list[Event]:
        """The device context is lost, with all blocks and any plan in flight: who was running waits again, in order.

        Of a run, its first `steps_done` steps stand. The step after them is lost, and what was to end with it.
        """
        if steps_done:
            if self._plan is None or steps_done >= self._plan.steps:
                raise InvariantBroken("batcher", f"{steps_done} steps stand of {self._plan and self._plan.steps}")
            self._clock += steps_done
            self._decoding.advance(steps_done)
            for seq in self._flight:
                self._tell(seq.sampled(0) if seq.streamed else None)
        self._decoding.dissolve()
        self._landed()
        for seq in [seq for seq in self._running if seq.cancelled]:
            self._end(seq, 0, FinishReason.CANCELLED, self._clock)
        for seq in reversed(self._running):
            if not seq.cancelled:
                self._unseat(seq)
        self._running = []
        self._kv.reset()
        return self.take_events()

    def shrink(self) -> None:
        """A step did not fit into the device's memory: smaller ones. Only after `fail`: there are fewer seats, too."""
        self.limits = self.limits.halved()

    # --- what there is ------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise InvariantBroken unless every request is in one place, within the limits, with the blocks it needs."""
        self._kv.check()
        places = check_places(self._sequences.values(), self._running, self._waiting, self.limits.seats)
        if self._uncomputed != sum(seq.total - seq.computed for seq in places):
            raise InvariantBroken("batcher", f"{self._uncomputed} tokens are counted as not computed")
        self._decoding.check(self._running)
        taken = self._flight if self._plan is not None and not self._plan.crossings else []
        for seq in places:
            blocks = self._kv.blocks_of(seq.request_id)
            seq.check(seq in self._flight, blocks, self._kv.block_size, seq in taken)
