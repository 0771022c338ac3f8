"""The engine core of a replica whose worker is not to wait for it: one plan ahead of the one in flight.

While a plan is computed, its successor is made and told to the worker, which goes on with it unasked if the plan ends
as planned. If it does not (a stop, an error, a cancel, somebody to be seated), the successor is dropped before it
has begun, and the engine plans as it would without. Policy is in `core.ahead`; here is only who is told what, and when.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rakka_sim.actors.engine import EngineCore
from rakka_sim.actors.identity import Identity
from rakka_sim.actors.pace import Pace
from rakka_sim.actors.step_log import Times
from rakka_sim.actors.worker import Launch
from rakka_sim.core.ahead import AheadBatcher
from rakka_sim.errors import InvariantBroken
from rakka_sim.messages import ExecuteNext, Stepped
from rakka_sim.runtime.api import Context
from rakka_sim.values import Progress, StepFeed

if TYPE_CHECKING:
    from rakka_sim.core.feed import TokenFeed
    from rakka_sim.records import EventLog

NOTHING = StepFeed((), {}, ())


class AheadEngineCore(EngineCore):
    """Its runner must be an `actors.worker.AheadRunner`.

    A run that ended by the clock would never end as planned, so runs are planned to last about `interval_s`.
    """

    def __init__(
        self,
        identity: Identity,
        batcher: AheadBatcher,
        launch: Launch,
        log: EventLog,
        feed: TokenFeed,
        interval_s: float,
    ) -> None:
        super().__init__(identity, batcher, launch, log, feed)
        self._looking, self._tokens = batcher, feed
        self._pace = Pace(interval_s)
        self._longest_run = self._pace.most
        self._looked_at, self._told = 0.0, NOTHING  # when the worker was told what follows, and what it needs for that

    def _step(self, ctx: Context) -> None:
        idle = self._plan is None
        super()._step(ctx)
        if idle:
            self._look_ahead(ctx)

    def _look_ahead(self, ctx: Context) -> None:
        """Tell the worker what follows the plan in flight, if that is sure."""
        if self._plan is None or self._context is None:
            return
        following = self._looking.ahead(self._longest_run)
        if following is not None:
            self._told = self._tokens.inputs_ahead(following, self._looking.promised_ahead())
            self._looked_at = ctx.now
            ctx.tell(self._context, ExecuteNext(following, self._told))

    def _stepped(self, ctx: Context, times: Times, msg: Stepped) -> None:
        plan, outcome = self._plan, msg.outcome
        if plan is None:
            return
        self._pace.heard(outcome)
        self._longest_run = self._pace.most
        if outcome.plan is not plan:  # made ahead; what it did not know then stands in this one
            outcome = replace(outcome, plan=plan)
        if not outcome.goes_on:
            super()._stepped(ctx, times, Stepped(outcome))
            return
        first = self._record(outcome)
        if self._tokens.took(outcome):
            raise InvariantBroken("engine", "its runner went on though a request had ended")
        events, news, self._plan = self._looking.go_on()
        self._tokens.note(self._told)
        self._emit(ctx, events, times, first)
        self._emit(ctx, news, began=max(self._looked_at, float(times[-1])))
        self._goes_on(ctx)
        self._report(ctx)

    def _goes_on(self, ctx: Context) -> None:
        """The worker is at the plan that was made ahead."""
        if self._plan is not None:
            self._ending, self._progress = False, Progress()
            self._log.begins(self._plan)
            self._admit_queued(ctx)
            self._look_ahead(ctx)
            self._wake(ctx)  # who came too late to keep it from beginning ends it
