"""What a worker and its context receive and tell their engine: plans to run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rakka_sim.values import Progress, StepFeed, StepPlan, value

if TYPE_CHECKING:
    from rakka_sim.runtime.api import Ref


@value
class Execute:
    """Run this plan; `Stepped` or `StepFailed` goes to `reply_to`. Whoever runs it notes its job in `progress`.

    `feed` is for runners with real tokens.
    """

    plan: StepPlan
    reply_to: Ref[Any]
    feed: StepFeed | None = None
    progress: Progress | None = None


@value
class ExecuteNext:
    """Run this plan when the one under way has ended, at once and unasked, if that ends as planned.

    The outcome of the one under way says which (`StepOutcome.goes_on`); if it does not go on, this plan is dropped.
    """

    plan: StepPlan
    feed: StepFeed


@value
class EndRun:
    """End the run of steps under way at its next boundary; nothing follows it unasked."""


@value
class WeightsLoaded:
    """The loader's answer to `LoadWeights`: the weights are on their GPUs."""


@value
class WorkerReady:
    """To the engine: the context is built (again); steps may come, at its own address or through the worker.

    It was begun at `began` (s) and had its weights at `loaded`.
    """

    context: Ref[Any]
    began: float
    loaded: float
