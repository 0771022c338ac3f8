"""Real tokens on the virtual clock: the schedule is the simulated one, and every token is the one it would be alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import Phase, event, given, settings
from hypothesis import strategies as st
from scenarios.stacks import bring_up, serve, sources_of
from scenarios.test_runs_of_steps import cancels, differences, scenarios

import rakka_sim
from rakka_sim.config.loading import load_scenario
from rakka_sim.config.models import PRESETS
from rakka_sim.core.naming import ContentNames
from rakka_sim.engines.modelled import ModelledRunner
from rakka_sim.engines.torch import ops, weights
from rakka_sim.engines.torch.architecture import Architecture
from rakka_sim.engines.torch.kv_pool import KvPool
from rakka_sim.engines.torch.lockstep import LockstepRunner
from rakka_sim.engines.torch.model import Batch, Decoder
from rakka_sim.engines.torch.prompts import Prompts
from rakka_sim.engines.torch.runner import ModelRunner
from rakka_sim.engines.torch.tokenizer import ByteTokenizer
from rakka_sim.errors import ContextPoisoned, OutOfMemory
from rakka_sim.messages import Apply, Submit
from rakka_sim.records import EventLog
from rakka_sim.report.report import Report
from rakka_sim.runtime.api import Actor, Context
from rakka_sim.runtime.sim import SimRuntime
from rakka_sim.values import ExecuteBatch, Sampling, StepOutcome, TokenChunk
from rakka_sim.wiring import build, modelled
from rakka_sim.workload.scribe import Scribe

torch.set_num_threads(1)
ARCHITECTURE = Architecture.of(PRESETS["Tiny"], "Tiny")
VOCAB, POSITIONS, BLOCK = ARCHITECTURE.spec.vocab, 4096, 16


@cache
def decoder() -> Decoder:
    """In double precision: sums in another order must not change which token is the most likely."""
    return weights.random(ARCHITECTURE, POSITIONS, dtype="float64")


def alone(batch: ExecuteBatch, heard: list[int]) -> list[int]:
    """The tokens that the request draws when its whole sequence is computed at once, each after those before it."""
    tokens = [*batch.token_ids, *heard[:-1]]
    count, first = len(tokens), len(batch.token_ids) - 1
    pages = -(-count // BLOCK)
    spec = ARCHITECTURE.spec
    logits = decoder()(
        Batch(
            tokens=torch.tensor(tokens),
            positions=torch.arange(count),
            slots=torch.arange(count) + BLOCK,
            block_tables=torch.arange(1, pages + 1, dtype=torch.int32)[None],
            query_start=torch.tensor([0, count], dtype=torch.int32),
            context_lens=torch.tensor([count], dtype=torch.int32),
            sampled=torch.arange(first, count),
            max_query=count,
        ),
        KvPool(spec.layers, pages, BLOCK, spec.kv_heads, spec.head_dim, torch.float64),
    )
    logits, rows, sampling = logits.clone(), len(logits), batch.sampling
    for place, row in enumerate(logits):
        penalise(row, batch.token_ids, heard[:place], sampling)
    seed = batch.request_id if sampling.seed is None else sampling.seed
    drawn: list[int] = ops.sample(
        logits,
        torch.full((rows,), sampling.temperature, dtype=torch.float32),
        torch.full((rows,), sampling.top_k, dtype=torch.int32),
        torch.full((rows,), sampling.top_p, dtype=torch.float32),
        torch.full((rows,), seed, dtype=torch.int64),
        torch.arange(first + 1, count + 1),
    ).tolist()
    return drawn


def penalise(logits: torch.Tensor, prompt: tuple[int, ...], generated: list[int], sampling: Sampling) -> None:
    """In place, by looking up the ids that are there."""
    if sampling.penalises:
        there = torch.tensor(sorted({*prompt, *generated}))
        counts = torch.bincount(torch.tensor(generated, dtype=torch.int64), minlength=len(logits))[there]
        scores, factor = logits[there], sampling.repetition_penalty
        scores = torch.where(scores > 0, scores / factor, scores * factor)
        logits[there] = scores - sampling.presence_penalty * (counts > 0) - sampling.frequency_penalty * counts


class Notes(Scribe):
    """Keeps what was asked and what was answered."""

    def __init__(self, vocab: int) -> None:
        super().__init__(vocab)
        self.asked: dict[int, ExecuteBatch] = {}
        self.heard: dict[int, list[int]] = {}

    def write(self, batch: ExecuteBatch) -> ExecuteBatch:
        written = super().write(batch)
        self.asked[batch.request_id] = written
        self.heard[batch.request_id] = []
        return written

    def hear(self, chunk: TokenChunk) -> None:
        super().hear(chunk)
        assert len(chunk.tokens) == len(chunk.times)
        self.heard[chunk.request_id] += chunk.tokens


class Faulty:
    """A runner whose n-th pass fails, counted over all replicas and their incarnations, before its work or after."""

    def __init__(self, runner: Any, faults: dict[int, tuple[Exception, bool]], passes: list[None]) -> None:
        self.runner, self.faults, self.passes = runner, faults, passes

    def job(self, plan: Any, feed: Any) -> Any:
        made = self.runner.job(plan, feed)
        self.passes.append(None)
        fault = self.faults.get(len(self.passes))
        return made if fault is None else FaultyJob(made, *fault)

    def close(self) -> None:
        self.runner.close()


class FaultyJob:
    real = False

    def __init__(self, job: Any, error: Exception, late: bool) -> None:
        self.job, self.error, self.late = job, error, late

    def ends_at(self, start: float, rng: np.random.Generator) -> float:
        return self.job.ends_at(start, rng)

    def cut(self, now: float) -> float:
        return self.job.cut(now)

    def execute(self) -> StepOutcome:
        if self.late:
            self.job.execute()
        raise self.error

    def done_by(self, now: float) -> StepOutcome | None:
        """The steps before the one that the fault falls into; none where all were computed and then lost."""
        return None if self.late else self.job.done_by(now)


def play(
    scenario: dict[str, Any],
    when: list[tuple[float, int]],
    faults: dict[int, tuple[Exception, bool]],
    real: bool,
    streamed: str = "none",
) -> tuple[Report, Notes | None]:
    """One run, with tokens or without them."""
    loaded, folder = load_scenario(scenario)
    system, log, passes = SimRuntime(loaded.seed), EventLog(), list[None]()

    def make(deployment: Any, node: Any, plan: Any) -> Callable[[], Any]:
        times: Callable[[], ModelledRunner] = modelled(deployment, node, plan)
        if not real:
            return lambda: Faulty(times(), faults, passes)
        size = deployment.engine.block_size
        return lambda: Faulty(LockstepRunner(times(), ModelRunner(decoder(), plan.kv_blocks, size)), faults, passes)

    notes = Notes(VOCAB) if real else None
    try:
        stack = build(system, loaded, log, make, real_tokens=real)
        bring_up(system, stack, loaded)
        source = sources_of(loaded, folder)
        serve(system, stack, source, loaded.stop_after_s, cancels=when, streamed=streamed, scribe=notes)
    finally:
        system.stop()
    log.check()
    return Report(log, seed=loaded.seed), notes


@st.composite
def real_scenarios(draw: st.DrawFn) -> dict[str, Any]:
    scenario = draw(scenarios())
    scenario["deployment"][0]["model"] = "Tiny"
    for load in scenario["workload"]:
        load["requests"] = min(load["requests"], 12)
        drawing = st.sampled_from(
            [{}, {"temperature": 1.0}, {"temperature": 0.7, "top_k": 20}, {"temperature": 1.3, "top_p": 0.8}]
        )
        penalties = {"presence_penalty": 0.7, "frequency_penalty": 0.4, "repetition_penalty": 1.3}
        some = draw(st.sets(st.sampled_from(sorted(penalties))))
        load["sampling"] = load.get("sampling", {}) | {name: penalties[name] for name in some}
        load["sampling"] = load.get("sampling", {}) | draw(drawing)
    return scenario


errors = st.sampled_from([ContextPoisoned("test"), OutOfMemory("test"), RuntimeError("the engine dies")])
faults = st.dictionaries(st.integers(1, 40), st.tuples(errors, st.booleans()), max_size=4)


ONE_LONG_RUN = {
    "deployment": [
        {"name": "m", "model": "Tiny", "runtime_config": {"num_gpu_blocks": 48, "max_model_len": 512, "startup_s": 0.0}}
    ],
    "workload": [
        {
            "requests": 1,
            "arrivals": {"kind": "poisson", "rate": 5.0},
            "lengths": {"kind": "fixed", "prompt": 10, "output": 30},
        }
    ],
}


def test_a_fault_at_the_end_of_a_run_leaves_the_tokens_of_the_steps_before_it() -> None:
    """One request: a prefill step, then a run of 29, whose last step fails. It is computed again, and nothing else."""
    real, notes = play(ONE_LONG_RUN, [], {2: (ContextPoisoned("test"), False)}, real=True)
    assert notes is not None
    (request_id,) = notes.asked
    assert notes.heard[request_id] == alone(notes.asked[request_id], notes.heard[request_id])
    assert len(notes.heard[request_id]) == 30
    assert len(real.steps) == 1 + 28 + 1


@pytest.mark.slow
@given(real_scenarios(), cancels, faults, st.sampled_from(["none", "some", "all"]))
@settings(max_examples=40, phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink])
def test_every_token_is_the_one_it_would_be_alone(
    scenario: dict[str, Any], when: list[tuple[float, int]], fails: dict[int, tuple[Exception, bool]], streamed: str
) -> None:
    real, notes = play(scenario, when, fails, real=True, streamed=streamed)
    counted, _ = play(scenario, when, fails, real=False, streamed=streamed)
    assert differences(real, counted) == []
    assert real.digest == counted.digest
    assert notes is not None
    table = real.requests.set_index("request_id")
    for request_id, batch in notes.asked.items():
        heard = notes.heard[request_id]
        assert len(heard) == table.output_tokens[request_id]
        if heard:
            assert heard == alone(batch, heard)
    summary = real.summary()
    event(f"preempted: {summary['preemptions'] > 0}")
    event(f"prefix hits: {bool(table.cached_tokens.sum())}")
    for outcome, count in summary["outcomes"].items():
        event(f"outcome {outcome}: {'some' if count else 'none'}")


def test_the_scenario_for_any_cpu_is_the_same_in_lockstep_and_simulated() -> None:
    lockstep, simulated = (rakka_sim.run("scenarios/tiny_cpu.toml", mode=mode) for mode in ("lockstep", "simulate"))
    assert differences(lockstep, simulated) == []
    assert lockstep.digest == simulated.digest
    assert lockstep.mode == "lockstep"


def test_the_next_turn_of_a_chat_finds_the_turn_before_it_in_the_cache_answer_included() -> None:
    """Real prompts, named by their tokens alone; a stop id ends the first answer where the second turn goes on."""
    system, log = SimRuntime(0), EventLog()
    settings = {"num_gpu_blocks": 100, "max_model_len": 1000, "frontend_overhead_us": 0.0}
    loaded, _ = load_scenario({"deployment": [{"name": "m", "model": "Tiny", "runtime_config": settings}]})

    def make(deployment: Any, node: Any, plan: Any) -> Callable[[], Any]:
        times = modelled(deployment, node, plan)
        return lambda: LockstepRunner(times(), ModelRunner(decoder(), plan.kv_blocks, BLOCK))

    prompts = Prompts("m", ByteTokenizer(), ContentNames(BLOCK))
    chunks: list[TokenChunk] = []

    class Listener(Actor):
        def __init__(self, batch: ExecuteBatch, over: Any) -> None:
            self.batch, self.over = batch, over

        def started(self, ctx: Context) -> None:
            ctx.tell(stack.gateway, Submit(self.batch, ctx.self))

        def receive(self, ctx: Context, msg: Any) -> None:
            if isinstance(msg, TokenChunk):
                chunks.append(msg)
            else:
                ctx.tell(self.over, msg)

    def ask(request_id: int, ids: list[int], sampling: Sampling) -> list[int]:
        chunks.clear()
        batch = prompts.tokens(request_id, ids, sampling)
        over = system.promise(f"answer-{request_id}")
        system.spawn(f"listener-{request_id}", lambda: Listener(batch, over.ref))
        ended = system.wait(over)
        answer = [token for chunk in chunks for token in chunk.tokens]
        assert ended.usage.output == len(answer)
        assert answer == alone(batch, answer)
        text = ByteTokenizer().decode(answer)
        for string in sampling.stop:
            text = text.partition(string)[0]
        assert "".join(chunk.text for chunk in chunks) == text
        prompts.heard(batch, answer)
        return answer

    try:
        stack = build(system, loaded, log, make, real_tokens=True)
        assert system.ask(stack.manager, Apply(loaded.deployment[0]), 1e6).error is None
        question = list(b"What is the length of a piece of string?")
        free = ask(1, question, Sampling(max_tokens=60, temperature=1.0, seed=5))
        stop = next(token for at, token in enumerate(free) if at > 40 and token not in free[:at])
        answer = ask(2, question, Sampling(max_tokens=60, temperature=1.0, seed=5, stop_ids=(stop,)))
        assert answer == free[: free.index(stop) + 1]
        text = ByteTokenizer().decode(free)
        string = text[len(text) // 2 :][:2]
        short = ask(4, question, Sampling(max_tokens=60, temperature=1.0, seed=5, stop=("never", string)))
        assert short == free[: len(short)]
        assert string in ByteTokenizer().decode(short)
        assert string not in ByteTokenizer().decode(short[:-1])
        ask(3, [*question, *answer, *b" And of two?"], Sampling(max_tokens=10))
    finally:
        system.stop()
    cached = Report(log).requests.set_index("request_id").cached_tokens.to_dict()
    assert cached[1] == 0
    assert cached[2] == len(question) // BLOCK * BLOCK
    # All of the first turn but its last token, which was drawn and never computed, and what fills no block.
    assert cached[3] == (len(question) + len(answer) - 1) // BLOCK * BLOCK


def test_a_model_that_is_not_built_is_told_before_anything_runs(tmp_path: Any) -> None:
    import json

    (tmp_path / "config.json").write_text(json.dumps(PRESETS["Tiny"] | {"hidden_act": "gelu"}))
    with pytest.raises(rakka_sim.errors.RakkaError, match="gelu"):
        rakka_sim.run("scenarios/tiny_cpu.toml", mode="lockstep", overrides={"deployment.0.model": str(tmp_path)})
