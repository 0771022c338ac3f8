"""A small serving stack for tests: real actors on the virtual clock, steps that take 10 ms, faults on demand.

Each replica has a node of its own, `n0`, `n1` and so on, so that a fault can name it whatever its incarnation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from rakka_sim.actors.metrics import Counters
from rakka_sim.actors.worker import Runner
from rakka_sim.config.base import parse
from rakka_sim.config.deployment import Deployment
from rakka_sim.config.scenario import Scenario
from rakka_sim.engines.modelled import ModelledJob, ModelledRunner
from rakka_sim.messages import (
    Apply,
    CancelRequest,
    DeploymentStatus,
    GetDeployment,
    GetMetrics,
    NodeLost,
    NodeReturned,
    Remove,
    RequestEnded,
    Submit,
)
from rakka_sim.records import EventLog
from rakka_sim.runtime.api import Actor, Context, Ref
from rakka_sim.runtime.sim import SimRuntime
from rakka_sim.timing.api import StepShape
from rakka_sim.values import ExecuteBatch, Load, StepOutcome, StepPlan, TokenChunk
from rakka_sim.wiring import build

STEP_S = 0.010


class TenMilliseconds:
    """Every step takes the same time."""

    def seconds(self, shape: StepShape) -> float:
        return STEP_S

    def run_seconds(self, shape: StepShape, steps: int) -> Any:
        return np.full(steps, STEP_S)

    def bytes_moved(self, shape: StepShape) -> float:
        return 1.0

    def flops(self, shape: StepShape) -> float:
        return 1.0


class Faults:
    """What goes wrong on which node: at its n-th pass (a step or a run of steps), or when its n-th runner is built.

    Both are counted from 1 over all incarnations. `next` is for the next pass, whichever it is.
    """

    def __init__(
        self,
        at: dict[tuple[str, int], Exception] | None = None,
        building: dict[tuple[str, int], Exception] | None = None,
    ) -> None:
        self._at, self._building = dict(at or {}), dict(building or {})
        self.next: dict[str, Exception] = {}
        self.passes: dict[str, int] = {}
        self.built: dict[str, int] = {}

    def due(self, node: str) -> Exception | None:
        self.passes[node] = self.passes.get(node, 0) + 1
        return self.next.pop(node, None) or self._at.get((node, self.passes[node]))

    def build(self, node: str) -> None:
        self.built[node] = self.built.get(node, 0) + 1
        if (node, self.built[node]) in self._building:
            raise self._building[node, self.built[node]]


class FaultyJob:
    """A modelled step that raises at its end."""

    real = False

    def __init__(self, sound: ModelledJob, error: Exception) -> None:
        self._error = error
        self.ends_at, self.cut, self.done_by = sound.ends_at, sound.cut, sound.done_by

    def execute(self) -> StepOutcome:
        raise self._error


class FaultyRunner:
    """Computes like a modelled runner until a fault is due."""

    def __init__(self, node: str, faults: Faults) -> None:
        self._sound = ModelledRunner(TenMilliseconds(), 0.0)
        self._node, self._faults = node, faults
        self.close = self._sound.close
        faults.build(node)

    def job(self, plan: StepPlan, feed: Any = None) -> ModelledJob | FaultyJob:
        sound, error = self._sound.job(plan), self._faults.due(self._node)
        return sound if error is None else FaultyJob(sound, error)


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
        """When each token of a request was ready."""
        return [float(t) for chunk in self.chunks.get(request_id, []) for t in chunk.times]


class Serving:
    """A scenario and its actors; `submit`, `cancel` and `run` drive it.

    `deployment` and `engine` are settings of deployment "m"; `others` are further deployments.
    """

    def __init__(
        self,
        faults: Faults | None = None,
        *,
        engine: dict[str, Any] | None = None,
        deployment: dict[str, Any] | None = None,
        others: tuple[dict[str, Any], ...] = (),
        shuffle_ties: int | None = None,
        **scenario: Any,
    ) -> None:
        deployments = [{"name": "m", **(deployment or {})}, *others]
        for given in deployments:
            settings = {
                "num_gpu_blocks": 100,
                "host_overhead_us": 0.0,
                "frontend_overhead_us": 0.0,
                "max_model_len": 1000,
                **(engine or {}),
                **given.get("runtime_config", {}),
            }
            given.update({"model": "Qwen3-0.6B", "runtime_config": settings})
        replicas = sum(given.get("replicas", 1) for given in deployments)
        nodes = [{"name": f"n{i}", "gpu": "H100", "gpus": 1} for i in range(scenario.pop("nodes", replicas))]
        self.scenario = parse(
            Scenario, {"deployment": deployments, "cluster": {"nodes": nodes}, **scenario}, "test scenario"
        )
        self.system = SimRuntime(0, shuffle_ties=shuffle_ties)
        self.log = EventLog()
        self.faults = faults or Faults()
        self.stack = build(self.system, self.scenario, self.log, self._runner)
        self.client = Client()
        self.client_ref: Ref[Any] = self.system.spawn("test-client", lambda: self.client)
        self.submitted = 0
        self.audited = False  # look at the GPUs between any two messages

    def _runner(self, deployment: Any, node: Any, plan: Any) -> Callable[[], Runner]:
        return lambda: FaultyRunner(node.name, self.faults)

    # --- what a test does ---------------------------------------------------------------------------------------

    def up(self) -> list[DeploymentStatus]:
        """Apply every deployment and wait for the answers."""
        return [self.apply(deployment) for deployment in self.scenario.deployment]

    def apply(self, deployment: Deployment) -> DeploymentStatus:
        status: DeploymentStatus = self.system.ask(self.stack.manager, Apply(deployment), 1000.0)
        return status

    def remove(self, name: str = "m") -> DeploymentStatus:
        status: DeploymentStatus = self.system.ask(self.stack.manager, Remove(name), 1000.0)
        return status

    def resized(self, replicas: int, name: str = "m") -> Deployment:
        """A deployment of the scenario with so many replicas."""
        there = next(each for each in self.scenario.deployment if each.name == name)
        return there.model_copy(update={"replicas": replicas})

    def scale(self, replicas: int, name: str = "m") -> Any:
        """Ask for so many replicas; a promise of the answer."""
        answer = self.system.promise(f"{name} x {replicas}")
        self.system.tell(self.stack.manager, Apply(self.resized(replicas, name), answer.ref))
        return answer

    def status(self, name: str = "m") -> DeploymentStatus:
        status: DeploymentStatus = self.system.ask(self.stack.manager, GetDeployment(name), 1.0)
        return status

    def lose(self, node: str) -> None:
        self.system.tell(self.stack.placement, NodeLost(node))

    def bring_back(self, node: str) -> None:
        self.system.tell(self.stack.placement, NodeReturned(node))

    def submit(self, prompt: int = 20, output: int = 5, model: str = "m", **fields: Any) -> int:
        """Submit now; the request's id. Its client is there to hear of it by the next `run`."""
        self.submitted += 1
        batch = ExecuteBatch(self.submitted, model, prompt, output, ((self.submitted, max(0, prompt)),), **fields)
        self.send(batch)
        return self.submitted

    def send(self, batch: ExecuteBatch) -> None:
        self.system.tell(self.stack.gateway, Submit(batch, self.client_ref))

    def cancel(self, request_id: int) -> None:
        self.system.tell(self.stack.gateway, CancelRequest(request_id))

    def run(self, seconds: float) -> None:
        """Let so much time pass."""
        until = self.system.now + seconds
        while self.audited and (self.system.env.peek() < until or self.system.env.peek() == until == self.system.now):
            self.system.env.step()
            self.check_gpus()
        if until > self.system.now:
            self.system.env.run(until=until)

    def finish(self, at_most: float = 1000.0) -> None:
        """Let time pass until every request has ended."""
        deadline = self.system.now + at_most
        while len(self.client.ended) < self.submitted and self.system.now < deadline:
            self.run(STEP_S)
        assert len(self.client.ended) == self.submitted, "a request did not end"

    # --- what a test sees ---------------------------------------------------------------------------------------

    def outcome(self, request_id: int) -> str:
        return self.client.ended[request_id].outcome

    def outcomes(self) -> list[str]:
        """Of all requests, in order of submission."""
        return [self.client.ended[number].outcome for number in sorted(self.client.ended)]

    def engines(self) -> dict[str, Any]:
        """The engines alive, by the name of their actor."""
        children = self.stack.manager.cell.children  # type: ignore[attr-defined]
        return {name: cell.actor for name, cell in children.items()}

    def engine_ref(self, name: str) -> Ref[Any]:
        ref: Ref[Any] = self.stack.manager.cell.children[name].ref  # type: ignore[attr-defined]
        return ref

    def assigned(self) -> dict[tuple[str, int], int]:
        """How many requests the coordinator believes each routable replica to have."""
        routes = self.stack.coordinator.cell.actor._routes  # type: ignore[attr-defined]
        return {(name, number): route.view.assigned for name, of in routes.items() for number, route in of.items()}

    def counters(self) -> dict[str, Counters]:
        counters: dict[str, Counters] = self.system.ask(self.stack.metrics, GetMetrics(), 1.0)
        return counters

    def records(self) -> list[dict[str, Any]]:
        """The log's rows, by request id, names in place of numbers."""
        columns = self.log.request_columns()
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        for row in rows:
            row["deployment"] = self.log.deployments[row["deployment"]]
            row["outcome"] = self.log.outcomes[row["outcome"]]
        return rows

    def held(self) -> dict[str, dict[tuple[str, int], tuple[int, ...]]]:
        """Of each node that lives: the GPUs of every (deployment, replica) there, by the node's own book."""
        members = self.stack.placement.cell.actor._members  # type: ignore[attr-defined]
        alive = {name: getattr(member.ref.cell, "actor", None) for name, member in members.items() if member.ref}
        books = {name: actor._book for name, actor in alive.items() if actor is not None}
        for book in books.values():
            book.check()
        return {
            node: {(name, a.replica_index): a.gpus for name in book.deployments for a in book.assignments(name)}
            for node, book in books.items()
        }

    def check_gpus(self, *, still: bool = False) -> None:
        """Nobody's GPU is another's, and every living engine runs on GPUs that are its own.

        Unless it is `still`, word of a node's loss may be on its way: engines on nodes that have ever been lost may
        be alive without GPUs until it has come.
        """
        held, members = self.held(), self.stack.placement.cell.actor._members  # type: ignore[attr-defined]
        facts = {number: facts for facts, number in self.log._replicas.items()}
        for name, engine in self.engines().items():
            of = facts[engine._identity.log_index]
            if still or (of.node in held and not members[of.node].life):
                assert held[of.node].get((of.deployment, of.replica)) == of.gpus, f"{name} has lost its GPUs"

    def check_engines(self) -> None:
        """Every batcher's own invariants, and the limits of admission (at any moment between two messages)."""
        for engine in self.engines().values():
            engine._batcher.check()
            serving = engine._identity.serving
            assert len(engine._clients) <= serving.max_concurrent
            assert len(engine._queue) <= serving.queue_capacity

    def check_idle(self) -> None:
        """Everything ended exactly once and is accounted for, and nothing is held any more."""
        self.run(STEP_S)  # for the last word to arrive everywhere
        self.log.check_whole()
        assert set(self.client.ended) == set(range(1, self.submitted + 1))
        rows = self.records()
        assert [row["request_id"] for row in rows] == list(range(1, self.submitted + 1))
        for row in rows:
            ended = self.client.ended[row["request_id"]]
            assert row["outcome"] == ended.outcome
            assert row["output_tokens"] == ended.usage.output == len(self.client.times(row["request_id"]))
            assert self.client.times(row["request_id"]) == sorted(self.client.times(row["request_id"]))
        self.check_engines()
        for engine in self.engines().values():
            load = engine._load()
            assert load == Load(0, 0, load.capacity, 0.0, 0)
            assert engine._batcher._kv.blocks_in_use == 0
            assert not engine._clients
            assert not engine._queue
        assert set(self.assigned().values()) <= {0}
        gateway = self.stack.gateway.cell  # type: ignore[attr-defined]
        assert not gateway.actor._under_way
        assert not gateway.children
