"""A run from outside: scenario in, report out. The actors are wired in `wiring`; what they do is not here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from rakka_sim.actors.client import Go, LoadGenerator
from rakka_sim.actors.placement import DeploymentPlacementActor
from rakka_sim.config.loading import load_scenario
from rakka_sim.config.models import model_spec
from rakka_sim.config.scenario import MODES, Scenario
from rakka_sim.config.slo import resolve_slo
from rakka_sim.core.placing import make_policy
from rakka_sim.errors import InputError, NotBuilt, PlacementError, RakkaError, RunFailed, ScenarioError, UnknownName
from rakka_sim.hardware.clusters import cluster_topology
from rakka_sim.messages import Apply, Place
from rakka_sim.progress import Bar
from rakka_sim.records import EventLog
from rakka_sim.report.ensemble import Ensemble
from rakka_sim.report.placed import Placed
from rakka_sim.report.report import Report
from rakka_sim.runtime.base import checked_seed
from rakka_sim.runtime.garbage import rarely_collected
from rakka_sim.runtime.live import LiveRuntime
from rakka_sim.runtime.replay import Trace, assert_same_trace
from rakka_sim.runtime.sim import SimRuntime
from rakka_sim.runtime.wall import Stopwatch
from rakka_sim.values import TransportKind
from rakka_sim.wiring import Stack, build, engine_lines, live, lockstep, most_engines, node_facts, resizers
from rakka_sim.workload.scribe import Scribe
from rakka_sim.workload.source import Source, make_source, merge

if TYPE_CHECKING:
    from rakka_sim.runtime.api import Promise, System

Given = str | Path | Mapping[str, Any] | Scenario

REAL_TOKENS = ("lockstep", "live")
BRING_UP_S = 3600.0
SPARE_THREADS = 4  # an engine that is being replaced may still have one
WORKLOAD_STREAM = 0x6C6F6164  # keeps the workload's draws apart from those of every actor


@overload
def run(
    scenario: Given,
    *,
    mode: str = ...,
    seed: int | None = ...,
    seeds: Literal[1] = ...,
    progress: bool | None = ...,
    overrides: Mapping[str, Any] | None = ...,
) -> Report: ...


@overload
def run(
    scenario: Given,
    *,
    mode: str = ...,
    seed: int | None = ...,
    seeds: int,
    progress: bool | None = ...,
    overrides: Mapping[str, Any] | None = ...,
) -> Report | Ensemble: ...


def run(
    scenario: Given,
    *,
    mode: str = "simulate",
    seed: int | None = None,
    seeds: int = 1,
    progress: bool | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Report | Ensemble:
    """Run a scenario to its end; with `seeds` above 1 so many times, from `seed` on, for means and their confidence.

    `scenario`: a path, a dict or a `Scenario`. `overrides`: dotted keys. `progress`: None shows a bar where somebody
    may be watching. Raises ScenarioError for bad input and RunFailed, with its cause, for a run that broke.
    """
    loaded, base = _load(scenario, overrides)
    if mode not in MODES:
        raise UnknownName("mode", mode, ", ".join(MODES))
    if mode in REAL_TOKENS and find_spec("torch") is None:
        raise InputError("mode", mode, '"simulate" or "emulate"; or install PyTorch: pip install "rakka_sim[live]"')
    if type(seeds) is not int or seeds < 1:
        raise InputError("seeds", seeds, "an integer, at least 1")
    first = loaded.seed if seed is None else checked_seed(seed)

    def once(root: int) -> Report:
        if mode in ("simulate", "lockstep"):
            return _run_on(SimRuntime(root), loaded, base, mode, root, progress)
        # A thread for each engine: it waits for the engine's processes.
        with ThreadPoolExecutor(most_engines(loaded) + SPARE_THREADS) as waiting:
            return _run_on(LiveRuntime(root, executor=waiting), loaded, base, mode, root, progress)

    return once(first) if seeds == 1 else Ensemble([once(first + more) for more in range(seeds)])


def check(scenario: Given, overrides: Mapping[str, Any] | None = None) -> list[str]:
    """Read a scenario and everything it names, run nothing; what it comes to, in lines for people."""
    loaded, base = _load(scenario, overrides)
    lines = [f"{loaded.name}: {len(loaded.deployment)} deployments on {len(loaded.cluster.nodes)} nodes"]
    lines += engine_lines(loaded, base)
    if loaded.workload:
        source = _source(loaded, base, loaded.seed)
        lines.append(f"workload: {source.total if source.total is not None else 'an unknown number of'} requests")
    else:
        lines.append("workload: none; such a scenario can be checked but not run")
    if loaded.slo is not None:
        resolve_slo(loaded.slo)
    return lines


def place(scenario: Given, overrides: Mapping[str, Any] | None = None) -> Placed:
    """Where a scenario's deployments would go, one after another as a run would place them; nothing else is run.

    The placement actors do it, on a virtual clock. A deployment without a place is told of, and the next one comes.
    """
    loaded, base = load_scenario(scenario, overrides)
    topology = cluster_topology(loaded.cluster, base)
    policy = make_policy(loaded.placement.policy)
    facts = node_facts(loaded.cluster, topology)
    system = SimRuntime(loaded.seed)
    actor = system.spawn("placement", lambda: DeploymentPlacementActor(policy, facts))
    results, refused = [], {}
    try:
        for deployment in loaded.deployment:
            try:
                results.append(system.ask(actor, Place(deployment), 3600.0))
            except PlacementError as error:
                refused[deployment.name] = str(error)
    finally:
        system.stop()
    return Placed(loaded.name, policy.name, topology, tuple(results), refused)


def _check_targets(scenario: Scenario) -> None:
    """Raise ScenarioError without a workload, and NotBuilt for one that would go to a provider."""
    if not scenario.workload:
        allowed = "a [workload] table: without one there is nothing to run"
        problem = InputError("scenario: workload", "(nothing)", allowed)
        raise ScenarioError(problem.where, problem.value, problem.allowed, [problem])
    for load in scenario.workload:
        deployment = scenario.target(load)
        if deployment.transport is TransportKind.REMOTE_NETWORK:
            what = f"the remote tier (a workload for {deployment.name!r}, which runs at {deployment.runtime_kind})"
            raise NotBuilt(what, "let the workload name a local deployment")


def assert_deterministic(
    scenario: Given,
    *,
    seed: int | None = None,
    overrides: Mapping[str, Any] | None = None,
    shuffle_ties: int | None = None,
) -> str:
    """Run twice on the virtual clock and compare every message; the trace's SHA-256.

    Raises NotDeterministic, which names the first message that differs.
    """
    loaded, base = _load(scenario, overrides)
    root = loaded.seed if seed is None else checked_seed(seed)

    def once(trace: Trace) -> None:
        _run_on(SimRuntime(root, shuffle_ties=shuffle_ties, trace=trace), loaded, base, "simulate", root, False)

    return assert_same_trace(once)


def _load(scenario: Given, overrides: Mapping[str, Any] | None) -> tuple[Scenario, Path]:
    """The scenario and the folder that its relative paths count from."""
    loaded, base = load_scenario(scenario, overrides)
    return loaded.model_copy(update={"time_model": loaded.time_model.beside(base)}), base


def _source(scenario: Scenario, base: Path, seed: int) -> Source:
    sources = []
    for index, config in enumerate(scenario.workload):
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(WORKLOAD_STREAM, index)))
        sources.append(make_source(config, model=scenario.target(config).name, rng=rng, base_dir=base))
    return sources[0] if len(sources) == 1 else merge(sources)


def _run_on(system: System, scenario: Scenario, base: Path, mode: str, seed: int, progress: bool | None) -> Report:
    watch, log, ways = Stopwatch(), EventLog(), Counter[str]()
    try:
        _check_targets(scenario)
        slo = None if scenario.slo is None else resolve_slo(scenario.slo)
        source = _source(scenario, base, seed)
        with rarely_collected():
            stack = _build(system, scenario, log, base, mode, ways)
            _bring_up(system, stack, scenario)
            scribe = _scribe(scenario) if mode in REAL_TOKENS else None
            steps = resizers(system, scenario, stack.manager)
            for ref, _ in steps:
                system.tell(ref, Go())
            _serve(system, stack, source, scenario.stop_after_s, progress, scribe)
    finally:
        system.stop()
    log.check_whole()
    facts: dict[str, Any] = {"kv": stack.kv_lines, "dead_letters": dict(system.dead_letters)}
    if ways:
        facts["steps_by_way"] = dict(ways)
    if steps:
        facts["scale"] = [step.outcome() for _, step in steps]
    return Report(
        log,
        scenario=scenario.model_dump(mode="json", exclude_unset=True),
        slo=slo,
        slo_name=scenario.slo if isinstance(scenario.slo, str) else "custom",
        wall_s=watch.seconds,
        seed=seed,
        mode=mode,
        facts=facts,
    )


def _bring_up(system: System, stack: Stack, scenario: Scenario) -> None:
    """Apply every deployment: they are placed one after another, and start together."""
    answers = []
    for deployment in scenario.deployment:
        placed, up = (system.promise(f"{deployment.name} {what}") for what in ("placed", "up"))
        system.tell(stack.manager, Apply(deployment, up.ref, placed.ref))
        _status(system, stack, placed)
        answers.append(up)
    for up in answers:
        _status(system, stack, up)


def _status(system: System, stack: Stack, promise: Promise[Any]) -> None:
    """Wait for a deployment's status; raises the error that stands there."""
    status = _wait(system, stack, lambda: system.wait(promise, BRING_UP_S))
    if status.error is not None:
        raise status.error


def _build(system: System, scenario: Scenario, log: EventLog, base: Path, mode: str, ways: Counter[str]) -> Stack:
    if mode == "live":
        return build(system, scenario, log, partial(live, ways=ways), base, real_tokens=True, real_launch=True)
    if mode == "lockstep":
        make_runner = partial(lockstep, time_model=scenario.time_model)
        return build(system, scenario, log, make_runner, base, real_tokens=True)
    return build(system, scenario, log, base=base)


def _scribe(scenario: Scenario) -> Scribe:
    """Writes what every deployment's vocabulary holds: a request may fall back to another one."""
    return Scribe(min(model_spec(deployment.model).vocab for deployment in scenario.deployment))


def _serve(
    system: System,
    stack: Stack,
    source: Source,
    stop_after_s: float | None,
    progress: bool | None,
    scribe: Scribe | None,
) -> None:
    done = system.promise("workload")
    generator = LoadGenerator(source, stack.gateway, done.ref, stop_after_s, scribe)
    client = system.spawn("client", lambda: generator)
    with Bar(source.total, progress) as bar:
        system.tell(client, Go())
        _wait(system, stack, lambda: system.wait(done, tick=lambda: bar.show(generator.ended)))
        bar.show(generator.ended)


def _wait(system: System, stack: Stack, work: Any) -> Any:
    try:
        return work()
    except InputError:
        raise  # a faulty row that a streaming source came upon: the user's to mend, and it says where
    except RakkaError as error:
        raise RunFailed(str(error) or type(error).__name__, system.now, stack.log.request_count) from error
