"""Where the host's time may go in a replay: forms with one constant each, tried on the recorded runs.

A form is a rule by which one time is added to the kernels of a step, or bounds them from below. Each is searched for
its best constant on every run alone and on all; the best of one run is then held against the other, which it was not
fitted to. What time stamps say of single steps, whatever the form, is in `limits`. Used by `accuracy.py`; the form
that the package has is not defined here but tried like the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import numpy as np
import recorded_runs as recorded

from rakka_sim import wiring
from rakka_sim.config.deployment import EngineConfig
from rakka_sim.config.gpus import gpu
from rakka_sim.config.models import model_spec
from rakka_sim.config.scenario import TimeModel
from rakka_sim.timing.api import StepShape, StepTimeModel
from rakka_sim.timing.factory import make_time_model
from rakka_sim.timing.graphs import capture_sizes

Array = np.ndarray[Any, np.dtype[np.float64]]
Errors = Callable[[str], list[float]]  # of one run: per cent, absolute
LEVEL_PCT = 0.1  # mean errors that near to the best are no worse


@dataclass(frozen=True)
class Step:
    """What a form may look at; times in s. `before`: the kernels of the step before it (a run's: of its first step)."""

    shape: StepShape
    largest_graph: int  # tokens
    before: float


@dataclass(frozen=True)
class Form:
    """`apply(kernels, host_s, step)`: how long steps last. `bound` names the limit that host times of it must keep."""

    name: str
    apply: Callable[[Array, float, Step], Array]
    tried_us: tuple[float, ...]
    bound: str | None = None


def _if(met: bool, changed: Array, kernels: Array) -> Array:
    return changed if met else kernels


IN_USE = "added to steps beyond the largest CUDA graph"  # what the package does with `async_scheduling`
FORMS = (
    Form(
        "added to every step",
        lambda s, h, at: s + h,
        (0.0, 100.0, 200.0, 300.0, 400.0, 500.0, 750.0, 1000.0),
    ),
    Form(
        "added to steps with a prompt",
        lambda s, h, at: _if(bool(at.shape.prefill), s + h, s),
        (0.0, 1000.0, 2000.0, 2500.0, 3000.0, 3500.0, 4000.0, 5000.0),
    ),
    Form(
        "added for each prompt in a step",
        lambda s, h, at: s + h * len(at.shape.prefill),
        (0.0, 500.0, 1000.0, 1500.0, 2000.0, 2500.0, 3000.0, 4000.0),
    ),
    Form(
        "added for each token that a step gives out",
        lambda s, h, at: s + h * at.shape.samples,
        (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0),
    ),
    Form(
        IN_USE,
        lambda s, h, at: _if(at.shape.tokens > at.largest_graph, s + h, s),
        (0.0, 1000.0, 2000.0, 2500.0, 3000.0, 3500.0, 4000.0, 5000.0),
    ),
    Form(
        "beside the device: every step lasts as long at least",
        lambda s, h, at: np.maximum(s, h),
        (0.0, 8000.0, 12000.0, 16000.0, 20000.0, 22000.0, 24000.0, 26000.0),
        "step",
    ),
    Form(
        "beside the device: so do steps beyond the largest CUDA graph",
        lambda s, h, at: _if(at.shape.tokens > at.largest_graph, np.maximum(s, h), s),
        (0.0, 20000.0, 30000.0, 40000.0, 50000.0, 60000.0, 65000.0, 70000.0),
        "first token",
    ),
    Form(
        "beside the step before: steps beyond the largest CUDA graph wait for what is left",
        lambda s, h, at: _if(at.shape.tokens > at.largest_graph, s + max(0.0, h - at.before), s),
        (0.0, 10000.0, 15000.0, 20000.0, 25000.0, 28000.0, 30000.0, 35000.0),
        "preparing",
    ),
)


class Formed:
    """A time model of which a form makes another one. It must be asked for steps in the order in which they come."""

    def __init__(self, model: StepTimeModel, form: Form, host_s: float, largest_graph: int) -> None:
        self._model, self._form, self._host_s, self._largest_graph = model, form, host_s, largest_graph
        self._before = 0.0

    def seconds(self, shape: StepShape) -> float:
        """One step."""
        return float(self._formed(np.array((self._model.seconds(shape),)), shape)[0])

    def run_seconds(self, shape: StepShape, steps: int) -> Array:
        """A run of decode steps."""
        return self._formed(self._model.run_seconds(shape, steps), shape)

    def _formed(self, kernels: Array, shape: StepShape) -> Array:
        step = Step(shape, self._largest_graph, self._before)
        self._before = float(kernels[0])
        return self._form.apply(kernels, self._host_s, step)

    def bytes_moved(self, shape: StepShape) -> float:
        """As the model says."""
        return self._model.bytes_moved(shape)

    def flops(self, shape: StepShape) -> float:
        """As the model says."""
        return self._model.flops(shape)


@contextmanager
def formed(form: Form, host_us: float) -> Iterator[None]:
    """Within it, simulations last as the form says; they are to have no overhead of their own."""

    def make(asked: TimeModel, model: Any, device: Any, engine: EngineConfig, *more: Any) -> Formed:
        graph = capture_sizes(engine.max_num_seqs, engine.max_num_batched_tokens)[-1]
        return Formed(make_time_model(asked, model, device, engine, *more), form, host_us * 1e-6, graph)

    with patch.object(wiring, "make_time_model", make):
        yield


def searched(form: Form, runs: tuple[str, ...], errors: Errors) -> dict[str, Any]:
    """The errors of all constants of a form; its best one for each run and what that is worth on the others."""
    rows = []
    for us in form.tried_us:
        with formed(form, us):
            rows.append({gpu: errors(gpu) for gpu in runs})
    means = {gpu: [float(np.mean(row[gpu])) for row in rows] for gpu in runs}
    joint = [float(np.mean([error for of in row.values() for error in of])) for row in rows]
    largest = [max(error for of in row.values() for error in of) for row in rows]
    best = {gpu: int(np.argmin(means[gpu])) for gpu in runs}
    at = int(np.argmin(joint))
    level = [us for us, mean in zip(form.tried_us, joint, strict=True) if mean <= joint[at] + LEVEL_PCT]
    left_out = [means[other][best[gpu]] for gpu in runs for other in runs if other != gpu]
    return {
        "form": form.name,
        "bound": form.bound,
        "host_us": list(form.tried_us),
        "mean_pct": {**means, "all": joint},
        "largest_pct": largest,
        "best": {
            **{gpu: {"host_us": form.tried_us[k], "mean_pct": means[gpu][k]} for gpu, k in best.items()},
            "all": {"host_us": form.tried_us[at], "mean_pct": joint[at], "largest_pct": largest[at]},
        },
        "as_good_us": [level[0], level[-1]],
        "left_out_pct": {gpu: {o: means[o][best[gpu]] for o in runs if o != gpu} for gpu in runs},
        "left_out_mean_pct": float(np.mean(left_out)) if left_out else None,
    }


# --- what single steps say --------------------------------------------------------------------------------------


def fastest_steps(run: recorded.Recorded) -> dict[str, float]:
    """The least mean time of steps between two stamps that are a known number of them apart, in a run that never
    preempts: two requests whose first (or last) tokens came with one step have their last (first) ones as many steps
    apart as one of them has more tokens."""
    found = []
    for shared, other in ((run.first_token, run.last_token), (run.last_token, run.first_token)):
        order = np.lexsort((run.output, shared))
        for a, b in pairwise(order):
            more = int(run.output[b] - run.output[a])
            if shared[a] == shared[b] and more:
                found.append((abs(float(other[b] - other[a])) / more * 1e3, more))
    ms, steps = min(found)
    return {"ms": ms, "steps": steps}


def kernels(run: recorded.Recorded, device: str, asked: Mapping[str, Any]) -> StepTimeModel:
    """The time model of a run's GPU, with the engine's own settings."""
    given = run.meta["engine_kwargs"]
    settings = {name: given[name] for name in ("max_num_seqs", "max_num_batched_tokens")}
    return make_time_model(TimeModel(**asked), model_spec(given["model"]), gpu(device), EngineConfig(**settings))


def limits(run: recorded.Recorded, model: StepTimeModel, preempts: bool) -> dict[str, Any]:
    """What a host's time cannot exceed, in ms; None where the run does not say.

    `step`: of every step. `first token`: of a step that has a prompt, which it is scheduled before. `preparing`: of a
    step with a prompt before its kernels, which at the least are those of that prompt alone.
    """
    budget, shared = run.meta["engine_kwargs"]["max_num_batched_tokens"], recorded.turns()
    waited = (run.first_token - run.scheduled) * 1e3
    left = []
    for number, (prompt, ms) in enumerate(zip(run.prompt, waited, strict=True)):
        cached = shared.get(number, (0, 0))[1]
        if prompt - cached <= budget:
            alone = StepShape(((int(prompt) - cached, cached),), samples=1)
            left.append(float(ms) - model.seconds(alone) * 1e3)
    return {
        "step": None if preempts else fastest_steps(run),
        "first token": {"ms": float(waited.min())},
        "preparing": {"ms": min(left)},
    }
