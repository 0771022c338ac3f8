"""The runner whose steps take the time a model gives them and whose tokens are only counted; no device, no policy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rakka_sim.core.plan_rows import MixedRows
from rakka_sim.engines.noise import Noise
from rakka_sim.timing.api import FEW, StepShape, StepTimeModel
from rakka_sim.values import StepFeed, StepOutcome, StepPlan

if TYPE_CHECKING:
    _Array = np.ndarray[Any, np.dtype[np.float64]]


def step_shape(plan: StepPlan) -> StepShape:
    """What the (first) step of a plan costs by. A plan's contexts leave the token itself out, a shape's do not."""
    rows = plan.decode_seqs
    context, longest = plan.context_tokens + rows, plan.max_context + 1 if rows else 0
    if not plan.prefill_tokens:
        return StepShape((), rows, context, longest, rows)
    written = plan.rows.others if type(plan.rows) is MixedRows else plan.rows  # as in the batcher
    prefill = [row for row in written if row.tokens > 1 or not row.samples]
    chunks = tuple([(row.tokens, row.context) for row in prefill])
    return StepShape(chunks, rows, context, longest, rows + sum(row.samples for row in prefill))


class ModelledJob:
    """The steps of one plan. Boundaries are added up one after another, so that a run ends on the very float that its
    steps, done one by one, would end on."""

    __slots__ = ("_host_overhead_s", "_model", "_noise", "plan", "started", "times")

    real = False

    def __init__(
        self, plan: StepPlan, model: StepTimeModel, host_overhead_s: float, noise: Noise | None = None
    ) -> None:
        self.plan = plan
        self._model = model
        self._noise = noise
        self._host_overhead_s = host_overhead_s
        self.started = 0.0
        self.times: _Array  # of its steps' ends, once it has started

    def ends_at(self, start: float, rng: np.random.Generator) -> float:
        self.started = start
        shape, steps = step_shape(self.plan), self.plan.steps
        if steps == 1 and self._noise is None:
            end = start + (self._model.seconds(shape) + self._host_overhead_s)
            self.times = np.array((end,))
            return end
        times = self._model.run_seconds(shape, steps)
        if self._noise is not None:
            times *= self._noise.factors(steps, rng)
        if steps <= FEW:
            return self._add_up(times.tolist(), start)
        times += self._host_overhead_s
        times[0] += start
        self.times = np.add.accumulate(times, out=times)
        return float(times[-1])

    def _add_up(self, seconds: list[float], start: float) -> float:
        """The same number by number."""
        overhead, ends = self._host_overhead_s, [0.0] * len(seconds)
        for step, of_step in enumerate(seconds):
            start += of_step + overhead
            ends[step] = start
        self.times = np.array(ends)
        return start

    def cut(self, now: float) -> float:
        boundary = int(self.times.searchsorted(now)) + 1
        if boundary < len(self.times):
            self.times = self.times[:boundary]
        return float(self.times[-1])

    def execute(self) -> StepOutcome:
        if self._noise is not None:
            self._noise.done += len(self.times)
        return StepOutcome(self.plan, self.started, self.times)

    def done_by(self, now: float) -> StepOutcome | None:
        """The steps that ended before `now`; None if none did."""
        done = int(self.times.searchsorted(now))
        return StepOutcome(self.plan, self.started, self.times[:done]) if done else None


class ModelledRunner:
    """Makes jobs of plans. `host_overhead_s` passes before every step of more tokens than `hidden_tokens`, whatever it
    computes (s); it is hidden in smaller ones, as by a host that is a step ahead of its CUDA graphs."""

    __slots__ = ("_hidden_tokens", "_host_overhead_s", "_model", "_noise")

    def __init__(self, model: StepTimeModel, host_overhead_s: float, hidden_tokens: int = 0) -> None:
        self._model = model
        self._host_overhead_s = host_overhead_s
        self._hidden_tokens = hidden_tokens
        residuals = getattr(model, "residuals", ())  # only a calibrated model knows how single steps scatter
        self._noise = Noise(residuals) if residuals else None

    def job(self, plan: StepPlan, feed: StepFeed | None = None) -> ModelledJob:
        """The work of one plan; which tokens it computes makes no difference."""
        most = self._hidden_tokens
        hidden = most and plan.prefill_tokens + plan.decode_seqs <= most
        return ModelledJob(plan, self._model, 0.0 if hidden else self._host_overhead_s, self._noise)

    def close(self) -> None:
        """There is no device to let go of."""
