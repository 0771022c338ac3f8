"""What a worker process and its parent say to each other; plain values, no torch, no process is started here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rakka_sim.values import StepFeed, StepPlan, value

if TYPE_CHECKING:
    import numpy as np

POISONED = 71  # exit code of a process whose device context is unusable


@value
class Work:
    """To a worker: compute this plan. `number` counts up; a run ends early when it is the one in `Shared.cut`.

    `after` is the number of the work that it follows unasked, if that ends as planned (`Done`); else it is dropped.
    0: it follows none, and is to be computed as it comes.
    """

    number: int
    plan: StepPlan
    feed: StepFeed
    after: int = 0


@value
class Ready:
    """From a worker: weights and memory are in place; on which device."""

    device: str


@value
class Done:
    """From a worker: the plan is computed; the end of each step that ran (`runtime.wall.instant`), and its tokens.

    `as_planned`: what was to follow is computed unasked, whether it has come by now or is still on its way.
    `began`: when the worker came to this work (`instant`). `way`: how its steps were computed, as a graph or not.
    """

    times: np.ndarray[Any, Any]
    tokens: dict[int, list[int]]
    broken: tuple[int, ...]
    as_planned: bool = False
    began: float = 0.0
    way: str = ""


@value
class Failed:
    """From a worker: it could not do that. `error` says what follows (see `core.supervision`)."""

    error: Exception


@dataclass(frozen=True, slots=True)
class Shared:
    """Two numbers in memory that parent and worker share: a word each, so no lock.

    `cut`: the number of the work that is to end at its next boundary, set by the parent. `beat`: when the worker last
    got somewhere, which stops moving when it hangs.
    """

    cut: Any
    beat: Any
