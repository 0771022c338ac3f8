"""How an engine waits for an instant to be over before it plans; what it plans may not be here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(slots=True)
class SchedulingPass:
    """No time at all; but a job ends after everything else at its instant, so the plan sees all that arrives in it."""

    real: bool = False

    def ends_at(self, start: float, rng: np.random.Generator) -> float:
        return start

    def cut(self, now: float) -> float:
        return now

    def execute(self) -> None:
        return None


@dataclass(slots=True)
class Schedule:
    """The engine's word to itself: the instant is over, plan."""
