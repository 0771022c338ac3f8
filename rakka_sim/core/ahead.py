"""The plan that follows the one in flight, made before that one has ended; nothing is changed here, nothing is guessed.

If a plan ends as planned (all of its steps are computed, and nobody ends by surprise), whatever the next one depends on
is known before. So the next one is made by the batcher's own rules, on views of what it holds (`core.foresight`) that
are thrown away: dropping it costs nothing and leaves no trace. If the plan has ended so, both are done in earnest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import islice

from rakka_sim.core.batching import NOBODY, Batcher, BatchingLimits, Event
from rakka_sim.core.foresight import KvAhead, WaitingAhead
from rakka_sim.core.kv import KvCache
from rakka_sim.core.runs import ANY, promised_blocks
from rakka_sim.core.sequence import Preempted, Sequence
from rakka_sim.core.waiting import WaitingQueue
from rakka_sim.errors import InvariantBroken
from rakka_sim.values import FinishReason, StepPlan


class Following:
    """A plan made ahead, and what it takes for granted."""

    __slots__ = ("called", "head", "kv", "looked", "plan", "rows", "seated")

    def __init__(self, plan: StepPlan, rows: list[int], kv: KvCache, seated: list[Sequence]) -> None:
        self.plan = plan
        self.rows = rows  # whose they are, by request
        self.kv = kv  # as it is when that plan begins
        self.seated = seated  # those of them who wait now, as they are called
        self.head: Sequence | None = None  # who is next in the queue then
        self.called = seated  # these are the first `looked` of the queue: others would have been called instead
        self.looked = len(seated)


class AheadBatcher(Batcher):
    """A batcher whose engine may have the next plan under way before it knows what has become of this one.

    Who comes or goes while there is something to follow may be too late for that, which nobody knows before the plan in
    flight has ended. Either nothing follows it, and they are in time; or they count as if they had come after what
    follows was planned.
    """

    def __init__(self, limits: BatchingLimits, kv: KvCache, runs: bool = True) -> None:
        super().__init__(limits, kv, runs)
        self._following: Following | None = None
        self._late: list[int] = []  # who has been cancelled since that was made, and has a part in it or in this plan

    def cancel(self, request_id: int) -> list[Event]:
        following, seq = self._following, self._sequences.get(request_id)
        if following is None or seq is None or not (seq.running or seq in following.seated):
            return super().cancel(request_id)
        self._late.append(request_id)
        return super().cancel(request_id) if seq in self._flight else []

    # --- what follows -------------------------------------------------------------------------------------------

    def ahead(self, most: int = ANY) -> StepPlan | None:
        """What follows the plan in flight if that ends as planned and nobody comes or goes; None for nothing.

        That is sure, but where a row has been cancelled: then the plan is to be cut.
        """
        self._following, plan = None, self._plan
        if plan is None or self._cut:
            return None
        future = self._as_it_is()
        future.commit(plan.steps)
        following = future.plan(most)
        if following is not None:
            self._following = self._known(following, future)
        return following

    def _as_it_is(self) -> Batcher:
        """A batcher like this one, which goes its own way."""
        future = Batcher(self.limits, KvAhead(self._kv), self._runs)
        future._waiting, future._plan = WaitingAhead(self._waiting), self._plan
        for seq in self._running:
            copy = future._sequences[seq.request_id] = seq.copy()
            future._running.append(copy)
            if seq.beat is not None:
                future._decoding.enter(copy)
        future._flight = [future._sequences[seq.request_id] for seq in self._flight]
        return future

    def _known(self, plan: StepPlan, future: Batcher) -> Following:
        """The same, by the sequences of now."""
        rows = [seq.request_id for seq in future._flight]
        known = self._sequences
        made = Following(plan, rows, future._kv, [known[row] for row in rows if not known[row].running])
        head = future._waiting.head()
        made.head = None if head is None else known[head.request_id]
        limits, tokens = self.limits, plan.prefill_tokens + plan.decode_seqs
        seats_left = plan.running < limits.max_num_seqs and tokens < limits.max_num_batched_tokens
        if seats_left and not any(isinstance(event, Preempted) for event in future.take_events()):
            made.looked += 1
            made.called = made.seated if made.head is None else [*made.seated, made.head]
        return made

    def promised_ahead(self) -> dict[int, list[int]]:
        """The blocks that each row gets on top of its table until both plans have ended, in order."""
        following = self._following
        if following is None:
            return {}
        of_run = promised_blocks(following.plan, following.kv)
        return {
            row: [*following.kv.table(row)[len(self._kv.table(row)) :], *of_run.get(row, ())] for row in following.rows
        }

    @property
    def run_must_end(self) -> bool:
        """The same of the plan in flight, a step too, if others than those it knows should have a part in the next."""
        following = self._following
        if super().run_must_end:
            return True
        if following is None:
            return False
        return bool(self._late) or list(islice(self._waiting, following.looked)) != following.called

    # --- what became of it --------------------------------------------------------------------------------------

    def go_on(self) -> tuple[list[Event], list[Event], StepPlan]:
        """The plan in flight has ended as planned, and the one made ahead is in flight; what the one has brought, what
        the other, and that plan."""
        plan, following, late = self._plan, self._following, self._late
        if plan is None or following is None:
            raise InvariantBroken("batcher", "nothing was made ahead")
        self._late = []
        for request_id in late:
            self._sequences[request_id].cancelled = False
        events = super().commit(plan.steps)
        made = self._plan_for_good(following)
        news = self.take_events()
        for request_id in late:
            news += self.cancel(request_id)
        return events, news, made

    def _plan_for_good(self, following: Following) -> StepPlan:
        """What was made ahead, with nobody called but who was called then."""
        everybody, self._waiting = self._waiting, WaitingQueue()
        for seq in following.seated:
            everybody.remove(seq)
            self._waiting.push(seq)
        made = self.plan(following.plan.steps)
        for seq in reversed(list(self._waiting)):  # who has been preempted
            everybody.push_front(seq)
        self._waiting, self._head = everybody, following.head
        if made is None or [seq.request_id for seq in self._flight] != following.rows:
            raise InvariantBroken("batcher", "what was made ahead does not follow")
        self._plan = made = replace(made, waiting=everybody.count)
        return made

    def commit(self, steps_done: int, ended: Mapping[int, FinishReason] = NOBODY) -> list[Event]:
        return super().commit(steps_done, ended) + self._cancel_late()

    def fail(self, steps_done: int = 0) -> list[Event]:
        return super().fail(steps_done) + self._cancel_late()

    def _cancel_late(self) -> list[Event]:
        """Nothing follows: they are in time."""
        late, self._late = self._late, []
        return [event for request_id in late for event in self.cancel(request_id)]

    def _landed(self) -> None:
        super()._landed()
        self._following = None
