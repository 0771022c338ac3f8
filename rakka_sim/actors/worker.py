"""The two-tier worker: a stable Worker and, below it, a Context that may be rebuilt. No scheduling may be here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

from rakka_sim.core.supervision import WORKER_TIER, Directive
from rakka_sim.errors import ContextPoisoned, InputError, OutOfMemory, Unrecoverable
from rakka_sim.messages import (
    CancelLoad,
    EndRun,
    Execute,
    ExecuteNext,
    LoadWeights,
    StepFailed,
    Stepped,
    WeightsLoaded,
    WorkerReady,
)
from rakka_sim.runtime.api import Actor, Context, Job, JobFailed, Ref, Running

if TYPE_CHECKING:
    import numpy as np

    from rakka_sim.hardware.routes import Weights
    from rakka_sim.values import StepFeed, StepOutcome, StepPlan


class Runner(Protocol):
    """What computes steps: a time model, or a model on a device."""

    def job(self, plan: StepPlan, feed: StepFeed | None) -> Job[StepOutcome]:
        """The work of one plan. `feed` is what a runner with real tokens must know besides."""
        ...

    def close(self) -> None:
        """Let go of the device, at once."""
        ...


class AheadRunner(Runner, Protocol):
    """One that can be told of the next plan before it has done with the newest."""

    def follow(self, plan: StepPlan, feed: StepFeed) -> Job[StepOutcome]:
        """The work of what is to follow the newest job; to be run only if that one's outcome says `goes_on`."""
        ...


@dataclass(frozen=True, slots=True)
class Launch:
    """How a context gets its runner: after `seconds` of the clock or, if `real`, when `make` is done.

    Where there are `weights`, the `loader` brings them first.
    """

    make: Callable[[], Runner]
    seconds: float = 0.0
    real: bool = False
    weights: Weights | None = None
    loader: Ref[Any] | None = None


class Building:
    """The making of one runner, as a job. If nobody wants it any more when it is there, it is closed at once.

    A real one is made in a thread, which nothing can stop: its processes would else outlive whoever asked for them.
    """

    __slots__ = ("_given_up", "_launch", "_made", "real")

    def __init__(self, launch: Launch) -> None:
        self._launch, self.real = launch, launch.real
        self._made: list[Runner] = []
        self._given_up = False

    def ends_at(self, start: float, rng: np.random.Generator) -> float:
        return start + self._launch.seconds

    def cut(self, now: float) -> float:
        raise NotImplementedError("building a context has no boundary to stop at")

    def execute(self) -> Runner:
        runner = self._launch.make()
        self._made.append(runner)
        if self._given_up:
            self._close()
        return runner

    def give_up(self) -> None:
        """Nobody takes the runner, or will."""
        self._given_up = True
        self._close()

    def _close(self) -> None:
        # Its thread and the actors' may both come here: a list hands what it holds to one of them alone.
        try:
            runner = self._made.pop()
        except IndexError:
            return
        runner.close()


@dataclass(slots=True)
class Built:
    """The context's word to itself: its runner is ready."""

    runner: Runner


class DeviceContext(Actor):
    """Owns the runner. A fault that poisons the device ends this incarnation; the next one builds a new runner."""

    def __init__(self, launch: Launch, engine: Ref[Any]) -> None:
        self._launch = launch
        self._engine = engine
        self._runner: Runner | None = None
        self._running: Running | None = None
        self._next: Job[StepOutcome] | None = None  # what is to follow that without a pause
        self._began = self._loaded = 0.0  # s; when the weights are there the runner is made
        self._loading = False
        self._building: Building | None = None

    def started(self, ctx: Context) -> None:
        self._began, loader = ctx.now, self._launch.loader
        if self._launch.weights is None or loader is None:
            self._build(ctx)
        else:
            self._loading = True
            ctx.tell(loader, LoadWeights(self._launch.weights, ctx.self))

    def _build(self, ctx: Context) -> None:
        self._loaded, self._loading = ctx.now, False
        self._building = Building(self._launch)
        ctx.run(self._building, Built)

    def receive(self, ctx: Context, msg: Any) -> None:
        match msg:
            case Stepped(outcome):
                following, self._next, self._running = self._next, None, None
                if outcome.goes_on and following is not None:
                    self._running = ctx.run(following, Stepped)
                ctx.tell(self._engine, msg)
            case Execute(plan, _, feed, progress):
                if self._runner is None:
                    ctx.tell(self._engine, StepFailed(RuntimeError("the context is still being built"), True))
                else:
                    job = self._runner.job(plan, feed)
                    self._running = ctx.run(job, Stepped)
                    if progress is not None:
                        progress.look_into(job)
            case ExecuteNext(plan, feed):
                if self._running is not None:  # else it comes too late, and the engine will hear so
                    self._next = cast("AheadRunner", self._runner).follow(plan, feed)
            case EndRun():
                if self._running is not None:
                    self._running.interrupt()
            case JobFailed(error):
                self._running = self._next = None
                if self._runner is None and isinstance(error, OutOfMemory):
                    # For a step this means: go on with the next one. Without a runner there is nothing to go on with.
                    raise ContextPoisoned(f"it could not be built: {error}") from error
                raise error
            case WeightsLoaded() if self._loading:
                self._build(ctx)
            case InputError():
                raise Unrecoverable(f"its weights cannot be loaded: {msg}") from msg
            case Built(runner):
                self._runner = runner
                ctx.tell(self._engine, WorkerReady(ctx.self, self._began, self._loaded))
            case _:
                ctx.unhandled(msg)

    def stopped(self, ctx: Context) -> None:
        if self._loading and self._launch.loader is not None:
            ctx.tell(self._launch.loader, CancelLoad(ctx.self))
        if self._runner is not None:
            self._runner.close()
        elif self._building is not None:
            self._building.give_up()


class Worker(Actor):
    """Stands over a context: what was in flight when one failed is given back to the engine.

    A context keeps its address when it is rebuilt, so steps need not pass through here; those that do are passed on.
    """

    def __init__(self, launch: Launch, engine: Ref[Any]) -> None:
        self._launch = launch
        self._engine = engine
        self._context: Ref[Any] | None = None

    def started(self, ctx: Context) -> None:
        self._context = ctx.spawn("context", lambda: DeviceContext(self._launch, self._engine), WORKER_TIER)

    def receive(self, ctx: Context, msg: Any) -> None:
        if isinstance(msg, Execute | EndRun) and self._context is not None:
            ctx.tell(self._context, msg)
        else:
            ctx.unhandled(msg)

    def child_failed(self, ctx: Context, child: Ref[Any], error: Exception, directive: Directive) -> None:
        if directive is Directive.STOP:
            raise error  # without a context this worker is of no use: the engine must know
        ctx.tell(self._engine, StepFailed(error, directive is Directive.RESTART))
