"""A small serving stack for tests: real actors on the virtual clock, steps that take 10 ms, faults on demand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rakka_sim.actors.worker import Runner
from rakka_sim.config.base import parse
from rakka_sim.config.scenario import Scenario
from rakka_sim.engines.modelled import ModelledJob, ModelledRunner
from rakka_sim.messages import Apply, DeploymentStatus, RequestEnded, Submit
from rakka_sim.records import EventLog
from rakka_sim.runtime.api import Actor, Context, Ref
from rakka_sim.runtime.sim import SimRuntime
from rakka_sim.timing.api import StepShape
from rakka_sim.values import ExecuteBatch, StepOutcome, StepPlan, TokenChunk
from rakka_sim.wiring import Stack, build

STEP_S = 0.010


class TenMilliseconds:
    """Every step takes the same time."""

    def seconds(self, shape: StepShape) -> float:
        return STEP_S

    def run_seconds(self, shape: StepShape, steps: int) -> Any:
        import numpy as np

        return np.full(steps, STEP_S)

    def bytes_moved(self, shape: StepShape) -> float:
        return 1.0

    def flops(self, shape: StepShape) -> float:
        return 1.0


class Faults:
    """Which passes of a replica raise what: counted over all its contexts. Passes are steps or runs of steps."""

    def __init__(self, at: dict[tuple[int, int], Exception] | None = None) -> None:
        self._at = dict(at or {})
        self.passes: dict[int, int] = {}
        self.built: dict[int, int] = {}

    def next_pass(self, replica: int) -> Exception | None:
        self.passes[replica] = self.passes.get(replica, 0) + 1
        return self._at.get((replica, self.passes[replica]))


class FaultyJob(ModelledJob):
    """A modelled step that raises at its end."""

    def fail_with(self, error: Exception) -> FaultyJob:
        self._error = error
        return self

    def execute(self) -> StepOutcome:
        raise self._error


class FaultyRunner(ModelledRunner):
    """Computes like a modelled runner until a fault is due."""

    def watch(self, replica: int, faults: Faults) -> FaultyRunner:
        self._replica, self._faults = replica, faults
        return self

    def job(self, plan: StepPlan, feed: Any = None) -> ModelledJob:
        error = self._faults.next_pass(self._replica)
        made = super().job(plan)
        if error is None:
            return made
        made.__class__ = FaultyJob
        assert isinstance(made, FaultyJob)
        return made.fail_with(error)


class Client(Actor):
    """Keeps what it is told, by request, with the time it came."""

    def __init__(self) -> None:
        self.ended: dict[int, RequestEnded] = {}
        self.ended_at: dict[int, float] = {}
        self.chunks: dict[int, list[TokenChunk]] = {}

    def receive(self, ctx: Context, msg: Any) -> None:
        if isinstance(msg, RequestEnded):
            assert msg.request_id not in self.ended, "a second terminal word"
            self.ended[msg.request_id] = msg
            self.ended_at[msg.request_id] = ctx.now
        elif isinstance(msg, TokenChunk):
            assert msg.request_id not in self.ended, "a token after the end"
            self.chunks.setdefault(msg.request_id, []).append(msg)

    def times(self, request_id: int) -> list[float]:
        return [float(t) for chunk in self.chunks.get(request_id, []) for t in chunk.times]


class Serving:
    """A scenario brought up; `submit`, `at` and `run_until` drive it."""

    def __init__(self, faults: Faults | None = None, seed: int = 0, **scenario: Any) -> None:
        deployment = {"name": "m", "model": "Qwen3-0.6B", "runtime_config": {}, **scenario.pop("deployment", {})}
        deployment["runtime_config"] = {
            "num_gpu_blocks": 100,
            "host_overhead_us": 0.0,
            "frontend_overhead_us": 0.0,
            "max_model_len": 1000,
            **deployment["runtime_config"],
        }
        others = scenario.pop("others", [])
        data = {"deployment": [deployment, *others], **scenario}
        self.scenario = parse(Scenario, data, "test")
        self.system = SimRuntime(seed)
        self.log = EventLog()
        self.faults = faults or Faults()
        self.stack: Stack = build(self.system, self.scenario, self.log, self._runner)
        self.client = Client()
        self.client_ref: Ref[Any] = self.system.spawn("test-client", lambda: self.client)
        self._id = 0

    def _runner(self, deployment: Any, node: Any, plan: Any) -> Callable[[], Runner]:
        replica = self._made = getattr(self, "_made", -1) + 1
        replica %= max(1, deployment.replicas)

        def make() -> Runner:
            self.faults.built[replica] = self.faults.built.get(replica, 0) + 1
            return FaultyRunner(TenMilliseconds(), 0.0).watch(replica, self.faults)

        return make

    def up(self) -> list[DeploymentStatus]:
        """Apply every deployment and wait for the answers."""
        return [self.system.ask(self.stack.manager, Apply(d), 1000.0) for d in self.scenario.deployment]

    def submit(self, prompt: int = 20, output: int = 5, model: str = "m", **fields: Any) -> int:
        """Submit now; the request's id."""
        self._id += 1
        batch = ExecuteBatch(self._id, model, prompt, output, ((self._id, prompt),), **fields)
        self.system.tell(self.stack.gateway, Submit(batch, self.client_ref))
        return self._id

    def run(self, seconds: float) -> None:
        """Let so much time pass."""
        self.system.env.run(until=self.system.now + seconds)

    def check(self) -> None:
        """The log holds together, and every request ended exactly once."""
        self.log.check()
