"""Whole stacks for tests: a scenario through every actor, with step times of the test's own. No test is here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rakka_sim.actors.client import Go, LoadGenerator
from rakka_sim.config.loading import load_scenario
from rakka_sim.config.scenario import Scenario
from rakka_sim.engines.modelled import ModelledRunner
from rakka_sim.errors import RakkaError
from rakka_sim.messages import Apply, CancelRequest
from rakka_sim.records import EventLog
from rakka_sim.report.report import Report
from rakka_sim.runtime.api import Actor, Context, System
from rakka_sim.runtime.sim import SimRuntime
from rakka_sim.timing.api import StepShape, StepTimeModel
from rakka_sim.values import ExecuteBatch
from rakka_sim.wiring import MakeRunner, Stack, build, modelled
from rakka_sim.workload.source import Source, make_source, merge


@dataclass(frozen=True)
class Linear:
    """Step times that one can add up by hand: so many seconds a step and so many more for each of its tokens."""

    step_s: float
    token_s: float = 0.0

    def seconds(self, shape: StepShape) -> float:
        return self.step_s + self.token_s * shape.tokens

    def run_seconds(self, shape: StepShape, steps: int) -> Any:
        return np.full(steps, self.seconds(shape))

    def bytes_moved(self, shape: StepShape) -> float:
        return 1.0

    def flops(self, shape: StepShape) -> float:
        return 1.0


@dataclass
class Script:
    """Requests at given times, in order (`workload.source.Source`)."""

    requests: list[tuple[float, ExecuteBatch]]
    ended_ids: list[int] = field(default_factory=list)
    skipped = 0

    @property
    def total(self) -> int:
        return len(self.requests) + len(self.ended_ids)

    @property
    def exhausted(self) -> bool:
        return not self.requests

    def peek(self) -> float | None:
        return self.requests[0][0] if self.requests else None

    def pop(self) -> ExecuteBatch:
        return self.requests.pop(0)[1]

    def ended(self, request_id: int, now: float, output_tokens: int) -> None:
        self.ended_ids.append(request_id)

    def number(self, first_id: int, stride: int) -> None:
        raise NotImplementedError("a script numbers its requests itself")


class Streaming:
    """A source, of which one request in `every` wants its tokens one by one."""

    def __init__(self, source: Source, every: int) -> None:
        self._source = source
        self._every = every

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def pop(self) -> ExecuteBatch:
        batch = self._source.pop()
        return replace(batch, stream=batch.request_id % self._every == 0)


class Canceller(Actor):
    """A client that changes its mind: cancels requests at given times, whatever has become of them."""

    def __init__(self, gateway: Any, cancels: Iterable[tuple[float, int]]) -> None:
        self._gateway = gateway
        self._cancels = list(cancels)

    def started(self, ctx: Context) -> None:
        for at, request_id in self._cancels:
            ctx.after(at, CancelRequest(request_id))

    def receive(self, ctx: Context, msg: Any) -> None:
        ctx.tell(self._gateway, msg)


def runner_of(times: StepTimeModel) -> MakeRunner:
    """Engines whose steps take what `times` says, and nothing besides."""

    def make(*_: object) -> Callable[[], ModelledRunner]:
        return lambda: ModelledRunner(times, 0.0)

    return make


def bring_up(system: System, stack: Stack, loaded: Scenario) -> None:
    """Every deployment, one after another; raises what keeps one from serving."""
    for deployment in loaded.deployment:
        status = system.ask(stack.manager, Apply(deployment), 1e6)
        if status.error is not None:
            raise status.error


def sources_of(loaded: Scenario, folder: Path) -> Source:
    """The scenario's workloads as one source."""
    rng = np.random.default_rng(loaded.seed)
    sources = [
        make_source(config, model=loaded.target(config).name, rng=rng.spawn(1)[0], base_dir=folder)
        for config in loaded.workload
    ]
    return merge(sources) if len(sources) > 1 else sources[0]


def serve(
    system: System,
    stack: Stack,
    source: Source,
    stop_after_s: float | None,
    *,
    cancels: Iterable[tuple[float, int]] = (),
    streamed: str = "none",
    scribe: Any = None,
) -> None:
    """Send the requests of a source, all of them, half (`some`) or none streamed, cancel by the clock, and wait."""
    if streamed != "none":
        source = Streaming(source, every=1 if streamed == "all" else 2)
    done = system.promise("workload")
    generator = LoadGenerator(source, stack.gateway, done.ref, stop_after_s, scribe)
    client = system.spawn("client", lambda: generator)
    system.spawn("canceller", lambda: Canceller(stack.gateway, cancels))
    system.tell(client, Go())
    system.wait(done)


def play(
    scenario: Mapping[str, Any],
    *,
    times: StepTimeModel | None = None,
    source: Source | None = None,
    cancels: Iterable[tuple[float, int]] = (),
    system: System | None = None,
    overrides: Mapping[str, Any] | None = None,
    base: Path | None = None,
    make_runner: MakeRunner | None = None,
    streamed: str = "none",
) -> Report:
    """As `rakka_sim.run`, with what a scenario cannot say: step times, scripted requests, cancels by the clock."""
    loaded, _ = load_scenario(scenario, overrides)
    system = system or SimRuntime(loaded.seed)
    log = EventLog()
    try:
        stack = build(system, loaded, log, make_runner or (modelled if times is None else runner_of(times)))
        bring_up(system, stack, loaded)
        if source is None:
            source = sources_of(loaded, base or Path.cwd())
        serve(system, stack, source, loaded.stop_after_s, cancels=cancels, streamed=streamed)
    finally:
        system.stop()
    return checked(Report(log, scenario=loaded.model_dump(mode="json", exclude_unset=True), seed=loaded.seed))


def checked(report: Report) -> Report:
    """The report, once its records agree with each other and Little's law holds on them."""
    report.log.check_whole()
    inside, rate_times_stay = report.littles_law()
    assert inside == pytest.approx(rate_times_stay, rel=1e-9)
    return report


def one_engine(workload: Any = (), /, **engine: Any) -> dict[str, Any]:
    """A scenario of one engine that adds no time of its own, with these settings."""
    settings = {
        "num_gpu_blocks": 10_000,
        "enable_prefix_caching": False,
        "host_overhead_us": 0.0,
        "frontend_overhead_us": 0.0,
        "max_model_len": 4096,
        **engine,
    }
    return {
        "deployment": [
            {
                "name": "m",
                "model": "Qwen3-0.6B",
                "runtime_config": settings,
                "serving": {"max_concurrent": 100_000},
            }
        ],
        "workload": workload,
    }


__all__ = [
    "Canceller",
    "Linear",
    "RakkaError",
    "Script",
    "bring_up",
    "checked",
    "one_engine",
    "play",
    "runner_of",
    "serve",
    "sources_of",
]
