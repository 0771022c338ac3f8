"""The whole engine as it is on CUDA, without CUDA: its tokens from interpreted kernels, what it builds for sm_90."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton", reason="Triton is not installed: it is for Linux alone")

from engines.torch.ahead import compiled
from engines.torch.interpreter import Interpreter, interpreter
from engines.torch.models import their_greedy
from engines.torch.on_kernels import interpreted_tokens, one_layer_of, only_built
from engines.torch.test_model import a_prompt

from rakka_sim.engines.torch.runner import ModelRunner
from rakka_sim.values import GREEDY_TO_THE_END, FedSequence, Sampling, StepFeed, StepPlan, StepRow


@pytest.fixture(scope="module")
def kernels() -> Iterator[Interpreter]:
    with interpreter() as made:
        yield made


@pytest.mark.slow
@pytest.mark.parametrize(("name", "graph_rows"), [("llama", 2), ("qwen3", 0)])
def test_tokens_from_kernels_are_those_of_transformers(kernels: Interpreter, name: str, graph_rows: int) -> None:
    """Every index, type and stride between two launches is the engine's own."""
    prompts = [6, 3]
    found = kernels.apply(interpreted_tokens, name, prompts, 4, graph_rows)
    assert found == {n: their_greedy(name, a_prompt(length, seed=n), 4) for n, length in enumerate(prompts)}


def plan_of(rows: list[tuple[int, int]], steps: int = 1) -> StepPlan:
    """Rows of (tokens, context), all of which sample."""
    made = [StepRow(n, tokens, context, True) for n, (tokens, context) in enumerate(rows)]
    decodes = sum(tokens == 1 for tokens, _ in rows)
    return StepPlan(made, steps, 0, decodes, 0, 0, len(rows), 0, 0)


def served(runner: ModelRunner, sampling: Sampling) -> None:
    """What serving brings: a prompt, chunks beside rows that decode, batches of several sizes."""
    pages = 8
    new = tuple(FedSequence(n, (0,) * 100, sampling, n, 100) for n in range(8))
    feed = StepFeed(new, {n: (0, tuple(range(n * pages, (n + 1) * pages))) for n in range(8)}, ())
    for rows, steps in (
        ([(100, 0)], 1),
        ([(1, 99), (33, 0), (3, 40)], 1),
        ([(1, 99)] * 5 + [(70, 20)], 1),
        ([(1, 99)] * 8, 2),
        ([(1, 60)] * 7, 3),
        ([(1, 60)] * 3, 1),
        ([(1, 60)] * 2, 1),
        ([(1, 60)], 1),
    ):
        runner.run(plan_of(rows, steps), feed, steps)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["Llama-3.1-8B", "Qwen3-0.6B"])
def test_a_warm_engine_has_built_what_serving_needs(model: str, tmp_path: Path) -> None:
    """A build takes seconds, in the middle of a step."""
    runner = ModelRunner(one_layer_of(model), 64, 16, graph_rows=8)
    penalised = replace(GREEDY_TO_THE_END, presence_penalty=1.0)
    with only_built(), compiled(90, tmp_path) as built:
        runner.warm_up()
        runner.run(plan_of([(1, 0)] * 8), feed_of_one_each(8), 1)  # the largest graph, which is only recorded on CUDA
        warm = hashes(built)
        served(runner, GREEDY_TO_THE_END)
        served(runner, penalised)
        later = {name for name, made in hashes(built).items() if made - warm[name]}
        assert {"_attention", "_rope_store", "_rms_norm", "_silu_mul", "_cuts", "_best_of_chunk"} <= set(warm)
        assert later == set()
        attention = next(kernel for kernel in built if kernel.metadata.name == "_attention")
    # A pool of more than 2^31 elements: what a page id is multiplied with is 64 bits wide.
    products = [
        line for line in attention.asm["ttir"].splitlines() if "arith.muli" in line and "tensor<64xi64>" in line
    ]
    assert len(products) >= 2


def feed_of_one_each(rows: int) -> StepFeed:
    new = tuple(FedSequence(n, (0,), GREEDY_TO_THE_END, n, 1) for n in range(rows))
    return StepFeed(new, {n: (0, (n,)) for n in range(rows)}, ())


def hashes(built: list[Any]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for kernel in built:
        found.setdefault(kernel.metadata.name, set()).add(kernel.hash)
    return found
