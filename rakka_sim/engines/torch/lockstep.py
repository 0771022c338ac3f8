"""Real tokens on the virtual clock: a time model says when a plan ends, the decoder what comes of it. No scheduling."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rakka_sim.engines.torch.runner import ModelRunner
from rakka_sim.errors import InvariantBroken
from rakka_sim.values import StepFeed, StepOutcome, StepPlan

if TYPE_CHECKING:
    import numpy as np

    from rakka_sim.engines.modelled import ModelledJob, ModelledRunner


class LockstepJob:
    """A modelled job that computes its tokens when it ends: only then is it known how many of its steps ran."""

    __slots__ = ("_begun", "_feed", "_modelled", "_one_step", "_runner")

    real = False

    def __init__(self, modelled: ModelledJob, runner: ModelRunner, feed: StepFeed) -> None:
        self._modelled, self._runner, self._feed = modelled, runner, feed
        # A stop id would end a run sooner than the clock knows.
        self._one_step = runner.stops(modelled.plan, feed)
        self._begun = False

    def ends_at(self, start: float, rng: np.random.Generator) -> float:
        end = self._modelled.ends_at(start, rng)
        return self._modelled.cut(start) if self._one_step else end

    def cut(self, now: float) -> float:
        return self._modelled.cut(now)

    def execute(self) -> StepOutcome:
        self._begun = True
        outcome = self._modelled.execute()
        computed = self._runner.run(outcome.plan, self._feed, len(outcome.times))
        times = outcome.times[: computed.steps]
        return StepOutcome(outcome.plan, outcome.started, times, computed.tokens, computed.broken)

    def done_by(self, now: float) -> StepOutcome | None:
        """The steps that ended before `now`, with their tokens; None if none did, or if computing them has failed."""
        outcome = None if self._begun else self._modelled.done_by(now)
        if outcome is None:
            return None
        computed = self._runner.run(outcome.plan, self._feed, len(outcome.times))
        steps = computed.steps - bool(computed.broken)  # a step that brings no number is lost like the one under way
        tokens = {request_id: tokens[:steps] for request_id, tokens in computed.tokens.items()}
        return StepOutcome(outcome.plan, outcome.started, outcome.times[:steps], tokens) if steps else None


class LockstepRunner:
    """A time model and a decoder side by side."""

    __slots__ = ("_modelled", "_runner")

    def __init__(self, modelled: ModelledRunner, runner: ModelRunner) -> None:
        self._modelled, self._runner = modelled, runner

    def job(self, plan: StepPlan, feed: StepFeed | None) -> LockstepJob:
        """The work of one plan."""
        if feed is None:
            raise InvariantBroken("lockstep", "a plan came without its tokens")
        return LockstepJob(self._modelled.job(plan), self._runner, feed)

    def close(self) -> None:
        """Its memory goes with it."""
