"""Continuous batching: what the next step computes, and what follows when it has; no clock and no message may be here.

vLLM V1's scheduler. There are no phases: each sequence has `computed` tokens that chase its `total` ones. A step has a
budget of tokens. Running sequences take their share first, in order; a waiting one is seated while budget, seats and
blocks last. One that finds no block takes the last running one's, which is computed again later.

Decode steps that are sure to be alike are planned as one run (`core.runs`). `plan` and `commit` alternate; who wants
the next plan before the one in flight has ended uses `core.ahead`.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Mapping

from rakka_sim.core.kv import KvCache
from rakka_sim.core.runs import ANY, commit_blocks, plan_run, promised_blocks
from rakka_sim.core.sequence import (
    NOBODY,
    BatchingLimits,
    Event,
    Preempted,
    Sampled,
    Sequence,
    SequenceSpec,
    Started,
    by_priority,
    check_places,
    last_tokens,
    make_sequence,
    pause_others,
)
from rakka_sim.core.step import Step
from rakka_sim.core.waiting import WaitingQueue
from rakka_sim.errors import BadRequest, InvariantBroken
from rakka_sim.values import FinishReason, Load, StepPlan

__all__ = ["ANY", "NOBODY", "Batcher", "BatchingLimits", "Event", "Preempted", "Sampled", "SequenceSpec", "Started"]


class Batcher:
    """Plans the steps of one engine. `runs=False` plans every step by itself, to exactly the same effect."""

    def __init__(self, limits: BatchingLimits, kv: KvCache, runs: bool = True) -> None:
        self.limits = limits
        self._kv = kv
        self._runs = runs
        self._max_len = min(limits.max_model_len, kv.num_blocks * kv.block_size)
        self._sequences: dict[int, Sequence] = {}
        self._waiting = WaitingQueue()
        self._running: list[Sequence] = []  # by priority, then in order of their seating
        self._plan: StepPlan | None = None
        self._flight: list[Sequence] = []  # the sequences of that plan's rows
        self._head: Sequence | None = None  # who was next in the queue when it was made
        self._cut = False  # a row of it has been cancelled
        self._events: list[Event] = []
        self._uncomputed = 0  # the sum of total - computed
        self._clock = 0  # steps committed so far: the number of the next one

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
        if seq.running:
            self._running.remove(seq)
        else:
            self._waiting.remove(seq)
        self._end(seq, 0, FinishReason.CANCELLED, self._clock)
        return self.take_events()

    def _end(self, seq: Sequence, count: int, finish: FinishReason, step: int) -> None:
        self._events.append(seq.ends(step, count, finish))
        self._uncomputed += count - (seq.total - seq.computed)
        del self._sequences[seq.request_id]
        if seq.running:
            seq.running = False
            self._give_back(seq)

    def _give_back(self, seq: Sequence) -> None:
        self._kv.free(seq.request_id)

    def flush(self) -> list[Event]:
        """Report what has been kept back so far of requests that are not streamed."""
        for seq in self._sequences.values():
            self._tell(seq.so_far(self._clock))
        return self.take_events()

    def _tell(self, event: Event | None) -> None:
        if event is not None:
            self._events.append(event)

    def take_events(self) -> list[Event]:
        """What has happened since this was last called, in order; `commit`, `cancel` and `fail` end with it."""
        events, self._events = self._events, []
        return events

    # --- a step, or a run of steps ------------------------------------------------------------------------------

    def plan(self, most: int = ANY) -> StepPlan | None:
        """What to compute next, a step or a run of up to `most`; None when there is nothing to compute."""
        if self._plan is not None:
            raise InvariantBroken("batcher", "a plan is in flight already")
        if not self._plan_run(most) and self._sequences:
            self._plan_step()
            self._head = self._waiting.head()
        return self._plan

    def _plan_run(self, most: int) -> bool:
        if self._runs and self._running:
            self._plan = plan_run(self._running, self._waiting, self.limits, self._kv, most)
            self._flight, self._head = self._running.copy(), self._waiting.head()
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
        self._plan = step.plan(len(self._running), len(self._waiting), self._kv.blocks_in_use)

    def _schedule_running(self, step: Step) -> bool:
        """Give running sequences their share; whether all found their blocks without preempting any."""
        running, kv = self._running, self._kv
        block_size = kv.block_size
        cap = self.limits.long_prefill_token_threshold or step.budget
        seated, at = len(running), 0
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

    def _preempt_last(self) -> Sequence:
        seq = self._running.pop()
        self._unseat(seq)
        self._kv.free(seq.request_id)
        seq.preemptions += 1
        self._events.append(Preempted(seq.request_id))
        return seq

    def _unseat(self, seq: Sequence) -> None:
        seq.running = False
        seq.pause(self._clock)
        self._uncomputed += seq.computed
        seq.computed = 0
        self._waiting.push_front(seq)

    def _seat_waiting(self, step: Step) -> None:
        limits, kv, waiting = self.limits, self._kv, self._waiting
        while (seq := waiting.head()) and step.budget > 0 and len(self._running) < limits.max_num_seqs:
            hits = kv.lookup(seq.keys, seq.total)
            cached = len(hits) * kv.block_size
            tokens = min(seq.total - cached, limits.long_prefill_token_threshold or seq.total)
            if tokens > step.budget and not limits.chunked_prefill:
                break
            tokens = min(tokens, step.budget)
            must_fit = seq.total if limits.scheduler_reserve_full_isl else cached + tokens
            if kv.shortage(must_fit, hits) > 0:
                break
            kv.allocate(seq.request_id, seq.keys, cached + tokens, hits)
            waiting.remove(seq)
            self._seat(seq, cached)
            step.put(seq, tokens)

    def _seat(self, seq: Sequence, cached: int) -> None:
        seq.running = True
        seq.computed = cached
        self._uncomputed -= cached
        insort(self._running, seq, key=by_priority)
        if not seq.started:
            seq.started = True
            self._events.append(Started(seq.request_id, cached))

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
            commit_blocks(self._flight, steps_done, self._kv)
            finished = self._commit_run(step, steps_done, steps_done == plan.steps, ended)
        else:
            finished = self._commit_step(plan, step, ended)
        if finished:
            self._running = [seq for seq in self._running if seq.running]
        self._landed()
        return self.take_events()

    def _commit_run(self, step: int, count: int, whole: bool, ended: Mapping[int, FinishReason]) -> bool:
        """Each row has brought `count` tokens; whether some sequence has finished. Only the last step may end one."""
        finished, may_end = False, whole or self._cut or bool(ended)
        for seq in self._flight:
            seq.computed += count
            if may_end and (seq.cancelled or seq.total + count == seq.end or seq.request_id in ended):
                self._uncomputed -= count
                self._end(seq, *last_tokens(seq, count, ended), step)
                finished = True
            elif seq.since >= 0:  # it is not streamed, and has gone on before: the commonest by far
                seq.total += count
            else:
                self._tell(seq.goes_on(step, count))
        return finished

    def _commit_step(self, plan: StepPlan, step: int, ended: Mapping[int, FinishReason]) -> bool:
        """Number `step` has been computed; whether some sequence has finished."""
        uncomputed, finished = 0, False
        for row, seq in zip(plan.rows, self._flight, strict=True):
            seq.computed += row.tokens
            uncomputed -= row.tokens
            if seq.cancelled or (row.samples and (seq.total + 1 == seq.end or seq.request_id in ended)):
                self._end(seq, *last_tokens(seq, 1, ended), step)
                finished = True
            elif row.samples:
                uncomputed += 1
                if seq.since >= 0:
                    seq.total += 1
                else:
                    self._tell(seq.goes_on(step, 1))
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
            for seq in self._flight:
                seq.computed += steps_done
                self._tell(seq.goes_on(self._clock - steps_done, steps_done))
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

    @property
    def load(self) -> Load:
        """What the engine carries. Of a running sequence, the token it computes next is not queued work."""
        return self.load_with(self.limits.max_num_seqs)

    def load_with(self, capacity: int, waiting: int = 0, tokens: int = 0) -> Load:
        """The same, with another `capacity` and with what waits outside, `tokens` together."""
        running, waiting = len(self._running), waiting + len(self._waiting)
        return Load(running, waiting, capacity, self._kv.usage, max(0, self._uncomputed - running) + tokens)

    @property
    def steps_done(self) -> int:
        """Steps committed so far."""
        return self._clock

    @property
    def waiting(self) -> int:
        """How many sequences have no seat."""
        return len(self._waiting)

    def state(self) -> tuple[object, ...]:
        """All that the future depends on, comparable; only between steps."""
        rows = [(seq.request_id, seq.total, seq.computed, seq.preemptions, seq.started) for seq in self._running]
        queue = [(seq.request_id, seq.total, seq.preemptions, seq.started) for seq in self._waiting]
        return rows, queue, self._uncomputed, self._kv.state()

    def check(self) -> None:
        """Raise InvariantBroken unless every request is in one place, within the limits, with the blocks it needs."""
        self._kv.check()
        places = check_places(self._sequences.values(), self._running, self._waiting, self.limits.seats)
        if self._uncomputed != sum(seq.total - seq.computed for seq in places):
            raise InvariantBroken("batcher", f"{self._uncomputed} tokens are counted as not computed")
        one_step = self._plan is not None and not self._plan.crossings
        for seq in places:
            in_flight = seq in self._flight
            seq.check(in_flight, len(self._kv.table(seq.request_id)), self._kv.block_size, one_step and in_flight)
