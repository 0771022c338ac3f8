"""The run that follows the plan in flight, made before that one has ended; nothing is changed here, nothing is guessed.

If a plan ends as planned (all of its steps are computed, and nobody ends by surprise), what a batcher holds afterwards
is known before: each row has one token more a step, and who has come to its end is gone. Where all that is left decodes
and nobody can be seated, the next plan is a run. A run takes its blocks when it is committed, so planning one leaves no
trace, and dropping one costs nothing.
"""

from __future__ import annotations

from dataclasses import replace

from rakka_sim.core.batching import Batcher, Event
from rakka_sim.core.kv import KvCache
from rakka_sim.core.plan_rows import DecodeRows
from rakka_sim.core.runs import ANY, promised_blocks, steps_that_fit, taking_order
from rakka_sim.core.sequence import BatchingLimits, Sequence
from rakka_sim.core.waiting import WaitingQueue
from rakka_sim.errors import InvariantBroken
from rakka_sim.values import StepPlan


class AheadBatcher(Batcher):
    """A batcher whose engine may have the next plan under way before it knows what has become of this one."""

    _following: StepPlan | None = None
    _next_head: Sequence | None = None  # who was next in the queue when that was made

    def ahead(self, most: int = ANY) -> StepPlan | None:
        """What follows the plan in flight if that ends as planned and nobody comes or goes; None if it is not sure."""
        self._following, self._next_head = None, self._waiting.head()
        if self._plan is not None and self._runs and not self._cut:
            self._following = plan_ahead(self._plan, self._running, self._waiting, self.limits, self._kv, most)
        return self._following

    def promised_ahead(self) -> dict[int, list[int]]:
        """The blocks that each row gets on top of its table until both plans have ended, in order."""
        if self._plan is None or self._following is None:
            return {}
        return promised_blocks((self._plan, self._following), self._kv)

    @property
    def run_must_end(self) -> bool:
        """The same of the plan in flight, a step too, if nothing is to follow it but what is planned then."""
        following = self._following
        if following is None:
            return super().run_must_end
        seats, head = self.limits.seats, self._waiting.head()
        return self._others_are_due() or (len(following.rows) < seats and head is not self._next_head)

    def go_on(self) -> tuple[list[Event], StepPlan]:
        """The plan in flight has ended as planned, and the one made ahead is in flight; what happened, and that plan.

        Who has been cancelled too late to keep it from having a row there is cancelled in that: until it ends, it
        writes to that request's blocks.
        """
        plan, following, head = self._plan, self._following, self._next_head
        if plan is None or following is None:
            raise InvariantBroken("batcher", "nothing was made ahead")
        rows = {row.request_id for row in following.rows}
        late = [seq for seq in self._flight if seq.cancelled and seq.request_id in rows]
        for seq in late:
            seq.cancelled = False
        events = self.commit(plan.steps)
        if [seq.request_id for seq in self._running] != [row.request_id for row in following.rows]:
            raise InvariantBroken("batcher", "what was made ahead does not follow")
        for seq in late:
            seq.cancelled = True
        self._flight, self._head, self._cut = self._running.copy(), head, bool(late)
        taken = self._kv.blocks_in_use + following.crossings[0]
        self._plan = replace(following, kv_blocks=taken, waiting=self._waiting.count)
        return events, self._plan

    def _landed(self) -> None:
        super()._landed()
        self._following = None


def plan_ahead(
    plan: StepPlan,
    running: list[Sequence],
    waiting: WaitingQueue,
    limits: BatchingLimits,
    kv: KvCache,
    most: int,
) -> StepPlan | None:
    """What follows `plan`, if that ends as planned: a run of up to `most` steps; None if that is not sure.

    Its `kv_blocks` and `waiting` are those of now: it is not known who comes.
    """
    rows = {row.request_id: row for row in plan.rows}
    ids: list[int] = []
    contexts: list[int] = []
    steps = most
    for seq in running:
        row = rows.get(seq.request_id)
        if row is None or not row.samples:
            return None
        left = seq.end - seq.total - plan.steps
        if left > 0:
            ids.append(seq.request_id)
            contexts.append(row.context + row.tokens + plan.steps - 1)
            steps = min(steps, left)
    count = len(ids)
    if not count or (waiting.head() is not None and count < limits.seats):
        return None
    crossings = [0] * kv.block_size
    for context in contexts:
        crossings[-context % kv.block_size] += 1
    # Blocks of those who are gone by then come on top: they may be taken last.
    free = kv.free_blocks - len(taking_order(plan, kv.block_size))
    steps = steps_that_fit(steps, crossings, count, free)
    if steps < 1:
        return None
    return StepPlan(
        rows=DecodeRows(ids, contexts),
        steps=steps,
        prefill_tokens=0,
        decode_seqs=count,
        context_tokens=sum(contexts),
        max_context=max(contexts),
        running=count,
        waiting=waiting.count,
        kv_blocks=kv.blocks_in_use,
        crossings=tuple(crossings),
    )
