"""From a scenario to living actors on a given system; no clock is chosen and nothing is run here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from rakka_sim.actors.coordinator import DpCoordinator
from rakka_sim.actors.engine import EngineCore, Identity
from rakka_sim.actors.gateway import ApiGateway
from rakka_sim.actors.manager import DeploymentManager
from rakka_sim.actors.metrics import Metrics
from rakka_sim.actors.placement import DeploymentPlacementActor
from rakka_sim.actors.worker import Launch, Runner
from rakka_sim.config.models import hf_config, model_spec
from rakka_sim.core.batching import Batcher, BatchingLimits
from rakka_sim.core.feed import TokenFeed
from rakka_sim.core.kv import KvCache
from rakka_sim.core.routing import make_policy
from rakka_sim.engines.modelled import ModelledRunner
from rakka_sim.engines.recipe import Recipe
from rakka_sim.engines.sizing import kv_block_count
from rakka_sim.records import EventLog, ReplicaFacts
from rakka_sim.timing.roofline import HOST_OVERHEAD_S, Roofline

if TYPE_CHECKING:
    from rakka_sim.config.cluster import Node
    from rakka_sim.config.deployment import Deployment
    from rakka_sim.config.scenario import Scenario
    from rakka_sim.config.shapes import ModelSpec
    from rakka_sim.runtime.api import Actor, Ref, System
    from rakka_sim.values import NodeAssignment


@dataclass(frozen=True, slots=True)
class EnginePlan:
    """What an engine of a deployment is on GPUs of a node: resolved from the catalogues, and in words."""

    model: ModelSpec
    limits: BatchingLimits
    kv_blocks: int
    text: str
    gpus: tuple[int, ...] = ()  # of the node, by ordinal


def engine_plan(deployment: Deployment, node: Node) -> EnginePlan:
    """Resolve what a scenario leaves open; raises InputError if the model does not fit the node's GPUs."""
    engine, model = deployment.engine, model_spec(deployment.model)
    trained = model.max_position_embeddings
    limits = BatchingLimits(
        max_num_seqs=engine.max_num_seqs,
        max_num_batched_tokens=engine.max_num_batched_tokens,
        max_model_len=engine.max_model_len or trained,
        long_prefill_token_threshold=engine.long_prefill_token_threshold,
        chunked_prefill=engine.enable_chunked_prefill,
    )
    where = f"{deployment.name} on {deployment.gpus_per_replica} x {node.gpu}"
    if engine.num_gpu_blocks is not None:
        return EnginePlan(model, limits, engine.num_gpu_blocks, f"{where}: {engine.num_gpu_blocks} KV blocks, as set")
    sizing = kv_block_count(model, node.spec, engine, tp=deployment.gpus_per_replica)
    return EnginePlan(model, limits, sizing.blocks, f"{where}: {sizing.text}")


def modelled(deployment: Deployment, node: Node, plan: EnginePlan) -> Callable[[], ModelledRunner]:
    """A runner whose steps take the time that the roofline model says."""
    engine = deployment.engine
    times = Roofline(
        plan.model, node.spec, tp=deployment.gpus_per_replica, dtype=engine.dtype, kv_dtype=engine.kv_cache_dtype
    )
    overhead = HOST_OVERHEAD_S if engine.host_overhead_us is None else engine.host_overhead_us * 1e-6
    return lambda: ModelledRunner(times, overhead)


def lockstep(deployment: Deployment, node: Node, plan: EnginePlan) -> Callable[[], Runner]:
    """A runner whose steps take the same time, and compute real tokens."""
    from rakka_sim.engines.torch.architecture import architecture_of
    from rakka_sim.engines.torch.building import make_runner
    from rakka_sim.engines.torch.lockstep import LockstepRunner

    recipe = replace(Recipe.of(deployment, plan.limits.max_model_len, plan.kv_blocks), tp=1)
    architecture_of(recipe)  # a model that cannot be built is to be told here, not by a worker
    times = modelled(deployment, node, plan)
    return lambda: LockstepRunner(times(), make_runner(recipe))


def live(deployment: Deployment, node: Node, plan: EnginePlan) -> Callable[[], Runner]:
    """A runner in processes of this machine, whose steps take the time that they take."""
    from rakka_sim.engines.processes import ProcessRunner
    from rakka_sim.engines.torch.architecture import architecture_of

    recipe = Recipe.of(deployment, plan.limits.max_model_len, plan.kv_blocks, plan.gpus)
    architecture_of(recipe)
    plan.model.check_tp(recipe.tp)
    return lambda: ProcessRunner.start(recipe, deployment.engine.watchdog_s)


MakeRunner = Callable[["Deployment", "Node", EnginePlan], Callable[[], "Runner"]]


@dataclass
class Stack:
    """The actors of a scenario, by address."""

    gateway: Ref[Any]
    manager: Ref[Any]
    coordinator: Ref[Any]
    placement: Ref[Any]
    metrics: Ref[Any]
    log: EventLog
    kv_lines: list[str] = field(default_factory=list)


def build(
    system: System,
    scenario: Scenario,
    log: EventLog,
    make_runner: MakeRunner = modelled,
    *,
    real_tokens: bool = False,
    real_launch: bool = False,
) -> Stack:
    """Start every actor that does not depend on a placement; deployments come up by `Apply` to the manager.

    `real_tokens`: engines keep the tokens themselves. `real_launch`: to make a runner is work that takes real time.
    """
    deployments = {deployment.name: deployment for deployment in scenario.deployment}
    policy = scenario.routing.policy
    make_policy(policy)  # a misspelt name is to be told here, not by an actor
    metrics = system.spawn("metrics", Metrics)
    coordinator = system.spawn("coordinator", lambda: DpCoordinator(lambda: make_policy(policy)))
    placing = scenario.placement.policy
    placement = system.spawn("placement", lambda: DeploymentPlacementActor(placing, scenario.cluster.constraints))
    kv_lines: list[str] = []

    def make_engine(deployment: Deployment, assignment: NodeAssignment, manager: Ref[Any]) -> Callable[[], Actor]:
        node = scenario.cluster.node(assignment.node)
        plan = engine_plan(deployment, node)
        if plan.text not in kv_lines:
            kv_lines.append(plan.text)
        me = _identity(deployment, assignment, node, plan, log, coordinator, manager)
        plan = replace(plan, gpus=assignment.gpus)
        launch = Launch(make_runner(deployment, node, plan), deployment.engine.startup_s, real_launch)
        return partial(_engine, me, deployment, plan, launch, log, real_tokens)

    manager = system.spawn("manager", lambda: DeploymentManager(placement, coordinator, make_engine))
    gateway = system.spawn("gateway", lambda: ApiGateway(deployments, coordinator, metrics, log))
    return Stack(gateway, manager, coordinator, placement, metrics, log, kv_lines)


def _identity(
    deployment: Deployment,
    assignment: NodeAssignment,
    node: Node,
    plan: EnginePlan,
    log: EventLog,
    coordinator: Ref[Any],
    manager: Ref[Any],
) -> Identity:
    facts = ReplicaFacts(
        deployment=deployment.name,
        replica=assignment.replica_index,
        node=node.name,
        gpus=assignment.gpus,
        gpu=node.gpu or "",
        kv_blocks=plan.kv_blocks,
        block_size=deployment.engine.block_size,
        usd_per_gpu_hour=node.usd_per_gpu_hour,
    )
    index = log.replica(facts)
    return Identity(deployment.name, assignment.replica_index, index, deployment.serving, coordinator, manager)


def _engine(
    me: Identity, deployment: Deployment, plan: EnginePlan, launch: Launch, log: EventLog, real_tokens: bool
) -> EngineCore:
    engine = deployment.engine
    kv = KvCache(plan.kv_blocks, engine.block_size, engine.enable_prefix_caching)
    batcher = Batcher(plan.limits, kv, runs=engine.runs_of_steps)
    return EngineCore(me, batcher, launch, log, _feed(deployment, plan, kv) if real_tokens else None)


def _feed(deployment: Deployment, plan: EnginePlan, kv: KvCache) -> TokenFeed:
    from rakka_sim.engines.torch.tokenizer import IncrementalText, tokenizer_of

    tokenizer = tokenizer_of(hf_config(deployment.model)[1])
    return TokenFeed(kv, plan.model.vocab, lambda: IncrementalText(tokenizer.decode))
