"""The live engine under real faults: whatever becomes of its processes, the tokens are those of an undisturbed run."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from scenarios.stacks import Script
from scenarios.test_lockstep import Notes, alone

import rakka_sim
from rakka_sim.actors.client import Go, LoadGenerator
from rakka_sim.config.loading import load_scenario
from rakka_sim.engines.processes import ProcessRunner
from rakka_sim.engines.recipe import Recipe
from rakka_sim.engines.wire import Done, Work
from rakka_sim.errors import Unrecoverable
from rakka_sim.messages import Apply, CancelRequest, NodeLost
from rakka_sim.records import EventLog
from rakka_sim.report.report import Report
from rakka_sim.runtime.live import LiveRuntime
from rakka_sim.values import ExecuteBatch, Sampling, TokenChunk
from rakka_sim.wiring import build

pytestmark = pytest.mark.slow  # each one starts processes that import PyTorch

VOCAB = 512
DRAWN = Sampling(temperature=1.0)


class Live:
    """A deployment of the tiny model, its processes in reach, and a fault for the moment when enough has been heard."""

    def __init__(self, dtype: str = "float64", of_node: int = 2, **deployment: Any) -> None:
        self.dtype = dtype
        settings = {
            "num_gpu_blocks": 64,
            "max_num_seqs": 8,
            "max_num_batched_tokens": 64,
            "max_model_len": 256,
            "frontend_overhead_us": 0.0,
            "device": "cpu",
            "cpu_threads": 1,
            "stream_interval_s": 0.001,
            **deployment.pop("runtime_config", {}),
        }
        given = {"name": "m", "model": "Tiny", "runtime_config": settings, **deployment}
        nodes = [{"name": "n", "gpu": "L40S", "gpus": of_node}]
        self.scenario, _ = load_scenario({"cluster": {"nodes": nodes}, "deployment": [given]})
        self.runners: list[ProcessRunner] = []
        self.log = EventLog()
        self.at_start: Callable[[ProcessRunner], None] = lambda runner: None

    def make(self, deployment: Any, node: Any, plan: Any) -> Callable[[], Any]:
        recipe = Recipe.of(deployment, plan.limits.max_model_len, plan.kv_blocks, plan.gpus)

        def start() -> ProcessRunner:
            runner = ProcessRunner.start(replace(recipe, dtype=self.dtype), deployment.engine.watchdog_s)
            self.runners.append(runner)
            self.at_start(runner)
            return runner

        return start

    def play(
        self,
        requests: list[tuple[int, int]],
        *,
        sampling: Sampling = DRAWN,
        after: int = 0,
        then: Callable[[ProcessRunner], None] | None = None,
        cancel: int | None = None,
    ) -> tuple[Report, Notes]:
        """Serve requests of (prompt, output) tokens, all at once.

        When `after` tokens have been heard, `then` happens to the newest processes, and `cancel` is cancelled.
        """
        deployment = self.scenario.deployment[0]
        batches = [
            ExecuteBatch(n, "m", prompt, output, ((n, prompt),), sampling)
            for n, (prompt, output) in enumerate(requests, 1)
        ]
        with ThreadPoolExecutor(6) as waiting:
            system = LiveRuntime(executor=waiting)
            try:
                stack = build(system, self.scenario, self.log, self.make, real_tokens=True, real_launch=True)
                status = system.ask(stack.manager, Apply(deployment), 300.0)
                assert status.error is None

                def fault() -> None:
                    if then is not None:
                        then(self.runners[-1])
                    if cancel is not None:
                        system.tell(stack.gateway, CancelRequest(cancel))

                notes = Trigger(VOCAB, after, fault)
                done = system.promise("workload")
                source = Script([(0.0, batch) for batch in batches])
                generator = LoadGenerator(source, stack.gateway, done.ref, None, notes)
                client = system.spawn("client", lambda: generator)
                system.tell(client, Go())
                system.wait(done, timeout=100.0)
            finally:
                system.stop()
        self.log.check()
        return Report(self.log), notes


class Trigger(Notes):
    """Does something once, as soon as so many tokens have been heard."""

    def __init__(self, vocab: int, after: int, act: Callable[[], None]) -> None:
        super().__init__(vocab)
        self.left, self.act = after, act

    def hear(self, chunk: TokenChunk) -> None:
        super().hear(chunk)
        before, self.left = self.left, self.left - len(chunk.tokens)
        if before > 0 >= self.left:
            self.act()


def right(notes: Notes) -> None:
    """Every token is the one that the request would draw alone."""
    for request_id, heard in notes.heard.items():
        if heard:
            assert heard == alone(notes.asked[request_id], heard)


REQUESTS = [(20, 40), (33, 40), (7, 40), (50, 40)]


def complete(report: Report, notes: Notes) -> None:
    assert report.summary()["outcomes"] == {"stop": len(REQUESTS)}
    assert [len(heard) for heard in notes.heard.values()] == [output for _, output in REQUESTS]
    right(notes)


def kill(runner: ProcessRunner) -> None:
    os.kill(runner.pids[0], signal.SIGKILL)


def test_an_undisturbed_run() -> None:
    live = Live()
    complete(*live.play(REQUESTS))
    assert len(live.runners) == 1
    assert not any(rank.process.is_alive() for rank in live.runners[0]._ranks)


def test_a_node_that_is_lost_while_its_engine_is_built_leaves_no_process() -> None:
    live = Live()
    begun: Future[None] = Future()
    go: Future[None] = Future()

    def hold(runner: ProcessRunner) -> None:
        begun.set_result(None)
        go.result(100.0)

    live.at_start = hold
    with ThreadPoolExecutor(6) as waiting:
        system = LiveRuntime(executor=waiting)
        try:
            stack = build(system, live.scenario, live.log, live.make, real_tokens=True, real_launch=True)
            system.tell(stack.manager, Apply(live.scenario.deployment[0]))
            begun.result(100.0)
            system.ask(stack.placement, NodeLost("n"), 10.0)
        finally:
            go.set_result(None)
            system.stop()
    assert len(live.runners) == 1
    assert not any(rank.process.is_alive() for rank in live.runners[0]._ranks)


def test_a_process_that_is_killed_in_mid_batch_costs_no_token_and_repeats_none() -> None:
    live = Live()
    complete(*live.play(REQUESTS, after=30, then=kill))
    assert len(live.runners) == 2
    assert live.runners[0].pids != live.runners[1].pids


def test_a_process_that_hangs_is_killed_and_replaced() -> None:
    def freeze(runner: ProcessRunner) -> None:
        os.kill(runner.pids[0], signal.SIGSTOP)

    live = Live(runtime_config={"watchdog_s": 2.0})
    complete(*live.play(REQUESTS, after=30, then=freeze))
    assert len(live.runners) == 2


def test_a_cancel_in_mid_batch_harms_nobody_else() -> None:
    report, notes = Live().play([(20, 200), (20, 200)], after=10, cancel=1)
    assert report.summary()["outcomes"] == {"cancelled": 1, "stop": 1}
    assert len(notes.heard[1]) < 200
    assert len(notes.heard[2]) == 200
    right(notes)


def test_stop_ids_end_an_output_with_the_token_that_stopped_it() -> None:
    _, free = Live().play([(20, 60)])
    at = 25
    stop = free.heard[1][at]
    first = free.heard[1].index(stop)
    report, notes = Live().play([(20, 60)], sampling=replace(DRAWN, stop_ids=(stop,)))
    assert notes.heard[1] == free.heard[1][: first + 1]
    assert report.summary()["outcomes"] == {"stop": 1}


def squeeze(runner: ProcessRunner) -> None:
    """Leave a process 60 MB of address space beyond what it has: a real refusal by the real allocator is to come."""
    pid = runner.pids[0]
    with open(f"/proc/{pid}/statm") as file:
        held = int(file.read().split()[0]) * resource.getpagesize()
    resource.prlimit(pid, resource.RLIMIT_AS, (held + (60 << 20), resource.RLIM_INFINITY))


@pytest.mark.skipif(
    not os.path.exists("/proc/self/statm"), reason="limits the memory of a running process as Linux does"
)
def test_a_step_that_does_not_fit_into_memory_is_tried_again_in_smaller_ones() -> None:
    big = {"max_model_len": 4096, "max_num_batched_tokens": 4096, "num_gpu_blocks": 300}
    live = Live(runtime_config=big)
    live.at_start = squeeze
    report, notes = live.play([(3900, 8), (20, 8)])
    assert report.summary()["outcomes"] == {"stop": 2}
    assert len(live.runners) == 1  # the process is sound
    assert report.steps.prefill_tokens.max() <= 2048
    right(notes)


def test_both_ranks_of_two_compute_what_one_does() -> None:
    live = Live(gpus=2)
    complete(*live.play(REQUESTS))
    assert len(live.runners[0].pids) == 2


@pytest.mark.parametrize("ranks", [1, 2])
def test_ranks_go_on_to_prompts_that_wait_for_their_turn_or_take_several_steps(ranks: int) -> None:
    live = Live(gpus=ranks, runtime_config={"max_num_seqs": 3, "max_num_batched_tokens": 16})
    unasked: list[int] = []

    def watch(runner: ProcessRunner) -> None:
        compute = runner.compute

        def computed(work: Work) -> Done:
            if work.after:
                unasked.append(work.plan.prefill_tokens)
            return compute(work)

        runner.compute = computed  # type: ignore[method-assign]

    live.at_start = watch
    report, notes = live.play([(20 + 7 * number, 4 + number % 3) for number in range(12)])
    assert report.summary()["outcomes"] == {"stop": 12}
    right(notes)
    assert sum(tokens > 0 for tokens in unasked) > 0


def test_a_group_dies_with_any_of_its_ranks() -> None:
    live = Live(gpus=2)
    complete(*live.play(REQUESTS, after=30, then=lambda runner: os.kill(runner.pids[1], signal.SIGKILL)))
    assert len(live.runners) == 2


def test_an_engine_that_cannot_be_built_says_why_at_once() -> None:
    # 4 MiB a block: 38 TiB in all.
    more = {"deployment.0.model": "Llama-3.1-8B", "deployment.0.runtime_config.num_gpu_blocks": 10**7}
    with pytest.raises(Unrecoverable, match=r"num_gpu_blocks: 10000000 is not allowed; allowed: at most \d+ \("):
        rakka_sim.run("scenarios/tiny_cpu.toml", mode="live", overrides=more)


def test_the_scenario_for_any_cpu_runs_live() -> None:
    report = rakka_sim.run("scenarios/tiny_cpu.toml", mode="live", overrides={"workload.requests": 20})
    assert report.summary()["outcomes"] == {"stop": 20}
    assert report.mode == "live"
    assert report.facts["steps_by_way"] == {"eager": report.log.total_steps}
    assert f"{report.log.total_steps:,} eager" in str(report)
