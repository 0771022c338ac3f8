"""How long runs of real steps may be, so that clients hear of their tokens in time; no step is planned here."""

from __future__ import annotations

from rakka_sim.values import StepOutcome


class Pace:
    """Runs of as many steps as fit into `interval_s`, as fast as the last one was."""

    __slots__ = ("_interval_s", "most")

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self.most = 1  # steps; until one has been seen

    def heard(self, outcome: StepOutcome) -> None:
        """A plan has come to this; only decode steps tell how fast decode steps are."""
        if not outcome.plan.prefill_tokens:
            step_s = (float(outcome.times[-1]) - outcome.started) / len(outcome.times)
            self.most = max(1, int(self._interval_s / step_s)) if step_s > 0 else 1
