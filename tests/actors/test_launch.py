"""A runner that is built in a thread is closed, once, whatever becomes of who asked for it meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from actors.serving import TenMilliseconds

from rakka_sim.actors.worker import Building, Launch, Runner
from rakka_sim.config.base import parse
from rakka_sim.config.scenario import Scenario
from rakka_sim.engines.modelled import ModelledRunner
from rakka_sim.messages import Apply, GetDeployment, NodeLost, Remove
from rakka_sim.records import EventLog
from rakka_sim.runtime.live import LiveRuntime
from rakka_sim.wiring import build

PATIENCE_S = 60.0
SCENARIO = {
    "deployment": [{"name": "m", "model": "Qwen3-0.6B", "runtime_config": {"num_gpu_blocks": 100}}],
    "cluster": {"nodes": [{"name": "n", "gpu": "H100", "gpus": 1}]},
}


class Counted:
    """A runner that counts how often it is closed."""

    def __init__(self) -> None:
        self.job = ModelledRunner(TenMilliseconds(), 0.0).job
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


class Stack:
    """A deployment whose runner is being built until `go`; `runner` is what was built then."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self.begun: Future[None] = Future()
        self.go: Future[None] = Future()
        self.runner = Counted()
        self.pool, self.system = pool, LiveRuntime(executor=pool)
        scenario = parse(Scenario, SCENARIO, "test scenario")
        self.parts = build(self.system, scenario, EventLog(), lambda *_: self.make, real_launch=True)
        self.ready = self.system.promise("up")
        self.system.tell(self.parts.manager, Apply(scenario.deployment[0], self.ready.ref))
        self.begun.result(PATIENCE_S)

    def make(self) -> Runner:
        self.begun.set_result(None)
        self.go.result(PATIENCE_S)
        return self.runner


@pytest.fixture
def stack() -> Iterator[Stack]:
    with ThreadPoolExecutor(2) as pool:
        made = Stack(pool)
        try:
            yield made
        finally:
            if not made.go.done():
                made.go.set_result(None)
            made.system.stop()


def lose(stack: Stack) -> None:
    stack.system.ask(stack.parts.placement, NodeLost("n"), PATIENCE_S)


def stop(stack: Stack) -> None:
    stack.system.stop()


def remove(stack: Stack) -> None:
    stack.system.ask(stack.parts.manager, Remove("m"), PATIENCE_S)


@pytest.mark.parametrize("end", [lose, stop])
def test_what_is_built_too_late_is_closed_by_its_thread(stack: Stack, end: Callable[[Stack], None]) -> None:
    end(stack)
    assert stack.runner.closed == 0
    stack.go.set_result(None)
    stack.system.stop()
    stack.pool.shutdown()
    assert stack.runner.closed == 1


@pytest.mark.parametrize("end", [lose, stop, remove])
def test_what_is_built_in_time_is_closed_by_its_context(stack: Stack, end: Callable[[Stack], None]) -> None:
    stack.go.set_result(None)
    assert stack.system.wait(stack.ready, PATIENCE_S).ready == 1
    end(stack)
    stack.system.stop()
    assert stack.runner.closed == 1


def test_a_removal_waits_for_what_is_being_built_since_it_has_the_gpus(stack: Stack) -> None:
    removed = stack.system.promise("removed")
    stack.system.tell(stack.parts.manager, Remove("m", removed.ref))
    assert stack.system.ask(stack.parts.manager, GetDeployment("m"), PATIENCE_S).state == "draining"
    assert not removed.done
    stack.go.set_result(None)
    assert stack.system.wait(removed, PATIENCE_S).state == "stopped"
    assert stack.runner.closed == 1


@pytest.mark.parametrize("made_first", [True, False])
def test_whoever_comes_last_closes_it(made_first: bool) -> None:
    runner = Counted()
    building = Building(Launch(lambda: runner, real=True))
    steps = [building.execute, building.give_up]
    for step in steps if made_first else reversed(steps):
        assert runner.closed == 0
        step()
    assert runner.closed == 1
