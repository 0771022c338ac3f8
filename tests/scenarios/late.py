"""A runner of real tokens on the virtual clock that tells late of what it has done, as a process does. No test here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from rakka_sim.engines.modelled import ModelledJob, ModelledRunner
from rakka_sim.engines.torch.runner import ModelRunner
from rakka_sim.values import StepFeed, StepOutcome, StepPlan


class LateRunner:
    """Goes on with what was to follow as `engines.torch.worker` does, and tells of each plan `lag_s` after its end.

    `faults[n]` is raised by the n-th plan that is computed, over all of `passes`; these say of each how it came, and
    whether there were prompts in it.
    """

    def __init__(
        self,
        times: ModelledRunner,
        runner: ModelRunner,
        lag_s: float,
        faults: dict[int, Exception],
        passes: list[str],
        clock: Callable[[], float],
    ) -> None:
        self.times, self.runner, self.lag_s, self.faults, self.passes = times, runner, lag_s, faults, passes
        self.clock = clock
        self.newest: LateJob | None = None
        self.ended = -np.inf

    def job(self, plan: StepPlan, feed: StepFeed | None) -> LateJob:
        self.newest = LateJob(self, plan, feed)
        return self.newest

    def follow(self, plan: StepPlan, feed: StepFeed) -> LateJob:
        assert self.newest is not None
        before, self.newest = self.newest, LateJob(self, plan, feed, True)
        before.next = True
        return self.newest

    def close(self) -> None:
        self.runner = None  # its memory goes with it


class LateJob:
    real = False

    def __init__(self, runner: LateRunner, plan: StepPlan, feed: Any, unasked: bool = False) -> None:
        self.runner, self.plan, self.feed, self.unasked = runner, plan, feed, unasked
        self.modelled: ModelledJob = runner.times.job(plan)
        self.told_at = runner.clock()
        self.next = False  # something is to follow
        self.was_cut = False
        self.heard_at = 0.0

    def ends_at(self, start: float, rng: np.random.Generator) -> float:
        began = max(self.runner.ended, self.told_at) if self.unasked else start
        self.heard_at = max(start, self.modelled.ends_at(began, rng) + self.runner.lag_s)
        return self.heard_at

    def cut(self, now: float) -> float:
        if now < self.modelled.times[-1]:  # else it has ended, and gone on or not
            self.was_cut = True
            self.heard_at = max(now, self.modelled.cut(now) + self.runner.lag_s)
        return self.heard_at

    def execute(self) -> StepOutcome:
        runner = self.runner
        runner.passes.append(
            ("unasked" if self.unasked else "asked") + (", prompts" if self.plan.prefill_tokens else "")
        )
        if error := runner.faults.get(len(runner.passes)):
            raise error
        outcome = self.modelled.execute()
        done = runner.runner.run(self.plan, self.feed, len(outcome.times))
        times = outcome.times[: done.steps]
        runner.ended = float(times[-1])
        planned = done.steps == self.plan.steps and not done.stopped and not self.was_cut
        return StepOutcome(self.plan, outcome.started, times, done.tokens, done.broken, planned and self.next)
