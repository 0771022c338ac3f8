"""Single steps of a real run, found again from its stamps, and how much longer than their kernels they took.

Three stamps of a request are ends of steps: first token, last token, and (of a busy engine that schedules one step
ahead) being scheduled, which happens when the step before the one in flight has ended. So the batcher is led through
the run: a step ends when its kernels say, or at the nearest stamp within half a step of that; who was scheduled at that
end is in the step after the next one. Where no stamp is near, the kernels' time counts, and steps are not used.
Used by `accuracy.py`; nothing is fitted here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import recorded_runs as recorded

from rakka_sim.core.batching import Batcher, BatchingLimits, Sampled, SequenceSpec
from rakka_sim.core.kv import KvCache
from rakka_sim.engines.modelled import step_shape
from rakka_sim.timing.api import StepShape, StepTimeModel

BEHIND_S = 1e-4  # between the end of a step and what is scheduled at it
BAND = 128  # tokens: tiles of a GEMM are no larger
LONGEST_S = 0.03  # of a step, where half of it is the distance of a stamp


@dataclass
class Led:
    """A batcher on its way through a recorded run."""

    run: recorded.Recorded
    model: StepTimeModel
    batcher: Batcher
    hashes: list[list[int]]
    clock: float = 0.0
    due: list[int] = field(default_factory=list)  # scheduled at the last end
    queue: list[int] = field(default_factory=list)  # not scheduled yet, the next one last
    since: list[tuple[StepShape, float]] = field(default_factory=list)  # steps since the last stamp, with their kernels
    known: bool = False  # whether there was one
    lone: list[tuple[StepShape, float, float]] = field(default_factory=list)  # those kept: shape, kernels, measured

    def add(self, requests: list[int]) -> None:
        for number in requests:
            prompt, output = int(self.run.prompt[number]), int(self.run.output[number])
            size = recorded.BLOCK
            content = tuple((key, min(size, prompt - size * at)) for at, key in enumerate(self.hashes[number]))
            self.batcher.add(SequenceSpec(number, prompt, output, content, max_tokens=output))

    def scheduled_by(self, now: float) -> list[int]:
        found = []
        while self.queue and self.run.scheduled[self.queue[-1]] < now:
            found.append(self.queue.pop())
        return found

    def step(self) -> bool:
        """One step; False when all is done."""
        plan = self.batcher.plan(1)
        due, self.due = self.due, []
        self.add(due)
        if plan is None:
            if not due:
                if not self.queue:
                    return False
                self.clock = float(self.run.scheduled[self.queue[-1]]) + BEHIND_S
                self.since, self.known = [], True
                self.add(self.scheduled_by(self.clock))
            return True
        shape = step_shape(plan)
        kernels = self.model.seconds(shape)
        self.clock += kernels
        self.since.append((shape, kernels))
        self.stamped(self.batcher.commit(1), min(kernels, LONGEST_S) / 2)
        self.due = self.scheduled_by(self.clock + 30 * BEHIND_S)
        return True

    def stamped(self, events: list[Any], near: float) -> None:
        """Set the clock by a stamp, if there is one.

        A step is kept if it was alone since the one before, and one with a prompt also beside one of decode rows alone,
        which is taken for its kernels.
        """
        run = self.run
        told = [event for event in events if isinstance(event, Sampled)]
        stamps = [run.first_token[event.request_id] for event in told if event.first == 0]
        stamps += [run.last_token[event.request_id] for event in told if event.finish is not None]
        at = [float(stamp) for stamp in stamps if abs(stamp - self.clock) < near]
        if not at and self.queue:
            scheduled = float(run.scheduled[self.queue[-1]]) - BEHIND_S
            at = [scheduled] if abs(scheduled - self.clock) < near else []
        if not at:
            return
        best = min(at, key=lambda stamp: abs(stamp - self.clock))
        agreed = all(abs(stamp - best) < BEHIND_S for stamp in stamps)
        prompts = [step for step in self.since if step[0].prefill]
        if self.known and agreed and len(self.since) <= 2 and len(prompts or self.since) == 1:
            shape, kernels = (prompts or self.since)[0]
            self.lone.append((shape, kernels, best - self.clock + kernels))
        self.clock, self.since, self.known = best, [], agreed


def lone_steps(
    run: recorded.Recorded, model: StepTimeModel, blocks: int, hashes: list[list[int]]
) -> list[tuple[StepShape, float, float]]:
    """Steps that stamps set apart: shape, kernels and measured time (s)."""
    given = run.meta["engine_kwargs"]
    limits = BatchingLimits(given["max_num_seqs"], given["max_num_batched_tokens"], given["max_model_len"] or 1 << 17)
    order = np.lexsort((np.arange(len(run.prompt)), run.scheduled))
    led = Led(run, model, Batcher(limits, KvCache(blocks, recorded.BLOCK), runs=False), hashes)
    led.queue = [int(number) for number in order[::-1]]
    while led.step():
        pass
    return led.lone


def bands(steps: list[tuple[StepShape, float, float]]) -> list[dict[str, Any]]:
    """How much longer than their kernels they took, in bands of tokens; steps of decode rows alone are a band."""
    groups: dict[int, list[tuple[float, float]]] = {}
    for shape, kernels, measured in steps:
        band = -(-shape.tokens // BAND) * BAND if shape.prefill else 0
        groups.setdefault(band, []).append((kernels * 1e3, (measured - kernels) * 1e3))
    found = []
    for band, of in sorted(groups.items()):
        kernels_ms, more_ms = np.array(of).T
        row = {"tokens_up_to": band, "steps": len(of), "kernels_ms": float(np.median(kernels_ms))}
        found.append({**row, "longer_ms": float(np.median(more_ms))})
    return found
