"""From a scenario to living actors on a given system; no clock is chosen and nothing is run here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rakka_sim.actors.ahead import AheadEngineCore
from rakka_sim.actors.coordinator import DpCoordinator
from rakka_sim.actors.demands import demand_of
from rakka_sim.actors.engine import EngineCore
from rakka_sim.actors.gateway import ApiGateway
from rakka_sim.actors.identity import Identity
from rakka_sim.actors.loader import WeightLoader
from rakka_sim.actors.manager import DeploymentManager
from rakka_sim.actors.metrics import Metrics
from rakka_sim.actors.placement import DeploymentPlacementActor
from rakka_sim.actors.resizer import Resizer
from rakka_sim.actors.worker import Launch, Runner
from rakka_sim.config.gpus import GIB
from rakka_sim.config.models import hf_config, model_spec
from rakka_sim.config.scenario import TimeModel
from rakka_sim.core.ahead import AheadBatcher
from rakka_sim.core.batching import Batcher, BatchingLimits
from rakka_sim.core.feed import TokenFeed
from rakka_sim.core.kv import KvCache
from rakka_sim.core.pipelined import PipelinedBatcher
from rakka_sim.core.placing import NodeBook, NodeFacts
from rakka_sim.core.placing import make_policy as make_placing
from rakka_sim.core.routing import make_policy
from rakka_sim.engines.modelled import ModelledRunner
from rakka_sim.engines.recipe import Recipe
from rakka_sim.engines.sizing import kv_block_count
from rakka_sim.errors import NotBuilt
from rakka_sim.hardware.clusters import cluster_topology
from rakka_sim.hardware.mig import MigState, slice_spec
from rakka_sim.hardware.routes import Routes, Weights
from rakka_sim.hardware.shape import DomainFabric, MachineShape
from rakka_sim.records import EventLog, ReplicaFacts, ReplicaPart
from rakka_sim.timing.constants import HOST_OVERHEAD_S
from rakka_sim.timing.factory import make_time_model
from rakka_sim.timing.graphs import capture_sizes
from rakka_sim.values import TransportKind

if TYPE_CHECKING:
    from rakka_sim.config.cluster import Cluster, Node
    from rakka_sim.config.deployment import Deployment
    from rakka_sim.config.gpus import GpuSpec
    from rakka_sim.config.scenario import Scenario
    from rakka_sim.config.shapes import ModelSpec
    from rakka_sim.hardware.collectives import Group
    from rakka_sim.hardware.topology import ClusterTopology
    from rakka_sim.runtime.api import Actor, Ref, System
    from rakka_sim.values import NodeAssignment, Part


@dataclass(frozen=True, slots=True)
class EnginePlan:
    """What an engine of a deployment is on GPUs of a node: resolved from the catalogues, and in words."""

    model: ModelSpec
    limits: BatchingLimits
    kv_blocks: int
    text: str
    device: GpuSpec  # a GPU, or a slice of one
    group: Group | None = None  # how its GPUs reach each other; None: as in the machine they are usually in
    gpus: tuple[int, ...] = ()  # of the node, by ordinal
    others: tuple[Part, ...] = ()  # what it has of further nodes


def engine_plan(
    deployment: Deployment,
    node: Node,
    topology: ClusterTopology | None = None,
    assignment: NodeAssignment | None = None,
) -> EnginePlan:
    """Resolve what a scenario leaves open; raises InputError if the model does not fit the node's GPUs.

    With an `assignment` in a `topology` it is the plan for those very GPUs, or for that slice.
    """
    engine, model = deployment.engine, model_spec(deployment.model)
    profile, group = deployment.placement.mig, None
    device = slice_spec(node.spec, profile) if profile else node.spec
    gpus, others = ((), ()) if assignment is None else (assignment.gpus, assignment.others)
    places = [] if assignment is None else [(name, gpu) for name, share in assignment.parts for gpu in share]
    if topology is not None and len(places) > 1:
        group = topology.group(places)
    trained = model.max_position_embeddings
    limits = BatchingLimits(
        max_num_seqs=engine.max_num_seqs,
        max_num_batched_tokens=engine.max_num_batched_tokens,
        max_model_len=engine.max_model_len or trained,
        long_prefill_token_threshold=engine.long_prefill_token_threshold,
        chunked_prefill=engine.enable_chunked_prefill,
    )
    where = f"{deployment.name} on {deployment.gpus_per_replica} x {device.name}"
    if engine.num_gpu_blocks is not None:
        text = f"{where}: {engine.num_gpu_blocks} KV blocks, as set"
        return EnginePlan(model, limits, engine.num_gpu_blocks, text, device, group, gpus, others)
    sizing = kv_block_count(model, device, engine, tp=deployment.gpus_per_replica)
    return EnginePlan(model, limits, sizing.blocks, f"{where}: {sizing.text}", device, group, gpus, others)


def modelled(
    deployment: Deployment, node: Node, plan: EnginePlan, time_model: TimeModel | None = None
) -> Callable[[], ModelledRunner]:
    """A runner whose steps take the time that the scenario's time model says; roofline where none is given."""
    engine = deployment.engine
    times = make_time_model(
        time_model or TimeModel(), plan.model, plan.device, engine, deployment.gpus_per_replica, plan.group
    )
    overhead = HOST_OVERHEAD_S if engine.host_overhead_us is None else engine.host_overhead_us * 1e-6
    graph = capture_sizes(engine.max_num_seqs, engine.max_num_batched_tokens)[-1]
    return lambda: ModelledRunner(times, overhead, graph if engine.async_scheduling else 0)


def lockstep(
    deployment: Deployment, node: Node, plan: EnginePlan, time_model: TimeModel | None = None
) -> Callable[[], Runner]:
    """A runner whose steps take the same time, and compute real tokens."""
    from rakka_sim.engines.torch.architecture import architecture_of
    from rakka_sim.engines.torch.building import make_runner
    from rakka_sim.engines.torch.lockstep import LockstepRunner

    recipe = replace(Recipe.of(deployment, plan.limits.max_model_len, plan.kv_blocks), tp=1)
    architecture_of(recipe)  # a model that cannot be built is to be told here, not by a worker
    times = modelled(deployment, node, plan, time_model)
    return lambda: LockstepRunner(times(), make_runner(recipe))


def live(
    deployment: Deployment, node: Node, plan: EnginePlan, ways: Counter[str] | None = None
) -> Callable[[], Runner]:
    """A runner in processes of this machine, whose steps take the time that they take; `ways` counts how they ran."""
    if deployment.placement.mig:
        raise NotBuilt(f"live mode on a MIG slice ({deployment.placement.mig})", "choose a whole GPU")
    if plan.others:
        where = " + ".join(str(ReplicaPart(*part)) for part in ((node.name, plan.gpus), *plan.others))
        remedy = "choose gpus that one node has: its processes are started on this machine alone"
        raise NotBuilt(f"live mode with a replica over several nodes ({deployment.name} on {where})", remedy)
    from rakka_sim.engines.processes import ProcessRunner
    from rakka_sim.engines.torch.architecture import architecture_of

    recipe = Recipe.of(deployment, plan.limits.max_model_len, plan.kv_blocks, plan.gpus)
    architecture_of(recipe)
    plan.model.check_tp(recipe.tp)
    return lambda: ProcessRunner.start(recipe, deployment.engine.watchdog_s, ways)


def engine_lines(scenario: Scenario, base: Path) -> list[str]:
    """What each local deployment's engines would be, on every kind of node that may serve it."""
    lines: dict[str, None] = {}
    facts = node_facts(scenario.cluster, cluster_topology(scenario.cluster, base))
    for deployment in scenario.deployment:
        if deployment.transport is TransportKind.REMOTE_NETWORK:
            lines[f"{deployment.name}: at {deployment.runtime_kind}; it can be placed, not served"] = None
            continue
        demand = demand_of(deployment)
        for node, seen in zip(scenario.cluster.nodes, facts, strict=True):
            large_enough = max(node.gpus, scenario.cluster.joined(node)) >= demand.gpus
            if not NodeBook(seen).refusal(demand) and large_enough and node.mig == bool(demand.profile):
                plan = engine_plan(deployment, node)
                modelled(deployment, node, plan, scenario.time_model)  # its data is there
                lines[plan.text] = None
    return list(lines)


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


def node_facts(cluster: Cluster, topology: ClusterTopology) -> list[NodeFacts]:
    """The cluster as placing sees it."""
    facts, spanning = [], topology.nvlink_domains
    for node, place in zip(cluster.nodes, topology.nodes, strict=True):
        sliced = {gpu: MigState(node.gpu) for gpu in range(node.gpus)} if node.mig and node.gpu else {}
        facts.append(
            NodeFacts(
                name=node.name,
                shape=MachineShape(place.machine),
                gpu_model=node.gpu or "",
                memory_gib=node.spec.memory_bytes / GIB if node.gpu else 0.0,
                domain=place.failure_domain,
                region=place.region,
                egress=place.egress,
                egress_slots=node.egress_slots,
                sliced=sliced,
                fabric=DomainFabric(domain, place.machine) if (domain := place.nvlink_domain) in spanning else None,
            )
        )
    return facts


def build(
    system: System,
    scenario: Scenario,
    log: EventLog,
    make_runner: MakeRunner | None = None,
    base: Path | None = None,
    *,
    real_tokens: bool = False,
    real_launch: bool = False,
) -> Stack:
    """Start every actor that does not depend on a placement; deployments come up by `Apply` to the manager.

    Topology files are found from `base` on. `real_tokens`: engines keep the tokens themselves. `real_launch`: to make a
    runner is work that takes real time.
    """
    deployments = {deployment.name: deployment for deployment in scenario.deployment}
    policy = scenario.routing.policy
    make_policy(policy)  # a misspelt name is to be told here, not by an actor
    placing = make_placing(scenario.placement.policy)
    topology = cluster_topology(scenario.cluster, base or Path())
    facts = node_facts(scenario.cluster, topology)
    make_runner = make_runner or partial(modelled, time_model=scenario.time_model)
    metrics = system.spawn("metrics", Metrics)
    coordinator = system.spawn("coordinator", lambda: DpCoordinator(lambda: make_policy(policy)))
    placement = system.spawn("placement", lambda: DeploymentPlacementActor(placing, facts))
    kv_lines: list[str] = []
    routes, loader = Routes(topology, scenario.cluster), None
    if scenario.cluster.has_storage and not real_launch:
        loader = system.spawn("loader", lambda: WeightLoader(placement))

    def make_engine(deployment: Deployment, assignment: NodeAssignment, manager: Ref[Any]) -> Callable[[], Actor]:
        node = scenario.cluster.node(assignment.node)
        plan = engine_plan(deployment, node, topology, assignment)
        if plan.text not in kv_lines:
            kv_lines.append(plan.text)
        facts = _facts(deployment, assignment, scenario.cluster, plan)
        replica, index = assignment.replica_index, log.replica(facts)
        me = Identity(deployment.name, replica, index, deployment.serving, coordinator, manager)
        weights = None if loader is None else _weights(deployment, plan, assignment, routes)
        launch = Launch(make_runner(deployment, node, plan), deployment.engine.startup_s, real_launch, weights, loader)
        ahead = real_launch and deployment.engine.async_scheduling is not False
        return partial(_engine, me, deployment, plan, launch, log, real_tokens, ahead)

    manager = system.spawn("manager", lambda: DeploymentManager(placement, coordinator, make_engine, log.holdings))
    gateway = system.spawn("gateway", lambda: ApiGateway(deployments, coordinator, metrics, log))
    return Stack(gateway, manager, coordinator, placement, metrics, log, kv_lines)


def _weights(deployment: Deployment, plan: EnginePlan, assignment: NodeAssignment, routes: Routes) -> Weights | None:
    """What a replica loads before it serves; None where that takes no time."""
    engine = deployment.engine
    if engine.load_format == "dummy":
        return None
    files = f"{deployment.model}, {engine.dtype}"
    size = plan.model.weight_bytes(engine.dtype)
    return routes.weights(assignment.node, assignment.gpus, files, size, assignment.others)


def most_engines(scenario: Scenario) -> int:
    """How many engines there may be at once."""
    most = {deployment.name: deployment.replicas for deployment in scenario.deployment}
    for step in scenario.scale:
        name = scenario.target(step).name
        most[name] = max(most[name], step.replicas)
    return sum(most.values())


def resizers(system: System, scenario: Scenario, manager: Ref[Any]) -> list[tuple[Ref[Any], Resizer]]:
    """An actor for each line of the scenario's schedule; they wait for `Go`."""
    made = []
    for number, step in enumerate(scenario.scale):
        deployment = scenario.target(step).model_copy(update={"replicas": step.replicas})
        actor = Resizer(step.at_s, deployment, manager)
        made.append((system.spawn(f"scale-{number}", partial(_same, actor)), actor))
    return made


def _same(actor: Resizer) -> Resizer:
    return actor


def _facts(deployment: Deployment, assignment: NodeAssignment, cluster: Cluster, plan: EnginePlan) -> ReplicaFacts:
    node = cluster.node(assignment.node)
    price, share = node.usd_per_gpu_hour, plan.device.sms / node.spec.sms  # a slice costs its share of the GPU
    return ReplicaFacts(
        deployment=deployment.name,
        replica=assignment.replica_index,
        node=node.name,
        gpus=assignment.gpus,
        gpu=plan.device.name,
        kv_blocks=plan.kv_blocks,
        block_size=deployment.engine.block_size,
        usd_per_gpu_hour=None if price is None else price * share,
        others=tuple(ReplicaPart(name, gpus, cluster.node(name).usd_per_gpu_hour) for name, gpus in assignment.others),
    )


def _engine(
    me: Identity,
    deployment: Deployment,
    plan: EnginePlan,
    launch: Launch,
    log: EventLog,
    real_tokens: bool,
    ahead: bool,
) -> EngineCore:
    engine = deployment.engine
    kv = KvCache(plan.kv_blocks, engine.block_size, engine.enable_prefix_caching)
    feed = _feed(deployment, plan, kv) if real_tokens else None
    if ahead and feed is not None:
        looking = AheadBatcher(plan.limits, kv, runs=engine.runs_of_steps)
        return AheadEngineCore(me, looking, launch, log, feed, engine.stream_interval_s)
    kind = PipelinedBatcher if engine.async_scheduling else Batcher
    return EngineCore(me, kind(plan.limits, kv, runs=engine.runs_of_steps), launch, log, feed)


def _feed(deployment: Deployment, plan: EnginePlan, kv: KvCache) -> TokenFeed:
    from rakka_sim.engines.torch.tokenizer import IncrementalText, tokenizer_of

    tokenizer = tokenizer_of(hf_config(deployment.model)[1])
    return TokenFeed(kv, plan.model.vocab, lambda: IncrementalText(tokenizer.decode))
