"""Runners whose steps fail at given times. No test is here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from rakka_sim.engines.modelled import ModelledJob, ModelledRunner
from rakka_sim.errors import ContextPoisoned, OutOfMemory, Unrecoverable
from rakka_sim.timing.api import StepTimeModel
from rakka_sim.values import StepOutcome, StepPlan
from rakka_sim.wiring import MakeRunner, modelled

# What it does to an engine: a new context; the same one goes on; the engine dies; it dies for good.
KINDS: dict[str, Callable[[], Exception]] = {
    "poisoned": lambda: ContextPoisoned("test"),
    "out of memory": lambda: OutOfMemory("test"),
    "unknown": lambda: RuntimeError("test"),
    "unrecoverable": lambda: Unrecoverable("test"),
}

Fault = tuple[float, str, bool]  # when (s), which kind, and whether it shows at once or at the end of its step


class FaultyJob:
    """A modelled job; the step that a fault falls into fails."""

    real = False

    def __init__(self, sound: ModelledJob, faults: list[Fault]) -> None:
        self._sound, self._faults = sound, faults
        self._fault: Fault | None = None
        self.done_by = sound.done_by

    def ends_at(self, start: float, rng: np.random.Generator) -> float:
        end = self._sound.ends_at(start, rng)
        self._fault = next((fault for fault in self._faults if start <= fault[0] < end), None)
        self._ends = end
        return self._cut_short()

    def cut(self, now: float) -> float:
        self._ends = self._sound.cut(now)
        return self._cut_short()

    def _cut_short(self) -> float:
        if self._fault is None or self._fault[0] >= self._ends:
            return self._ends
        at, _, at_once = self._fault
        times = self._sound.times
        return at if at_once else float(times[times.searchsorted(at, side="right")])

    def execute(self) -> StepOutcome:
        if self._fault is not None and self._fault[0] < self._ends:
            self._faults.remove(self._fault)  # it happens once, even where the next step begins at that instant
            raise KINDS[self._fault[1]]()
        return self._sound.execute()


class FaultyRunner:
    """Computes like a modelled runner until a fault is due."""

    def __init__(self, sound: ModelledRunner, faults: list[Fault]) -> None:
        self._sound, self._faults = sound, faults
        self.close = sound.close

    def job(self, plan: StepPlan, *rest: Any) -> FaultyJob:
        return FaultyJob(self._sound.job(plan), self._faults)


def faulty(faults: Iterable[tuple[str, Fault]], times: StepTimeModel | None = None) -> MakeRunner:
    """Modelled engines with faults, each on the node it is given for."""
    by_node: dict[str, list[Fault]] = {}
    for node, fault in sorted(faults):
        by_node.setdefault(node, []).append(fault)

    def make(deployment: Any, node: Any, plan: Any) -> Callable[[], FaultyRunner]:
        def runner() -> FaultyRunner:
            sound = modelled(deployment, node, plan)() if times is None else ModelledRunner(times, 0.0)
            return FaultyRunner(sound, by_node.get(node.name, []))

        return runner

    return make
