"""The engine on a CUDA device: graphs, kernels and memory together, against transformers on the CPU."""

from __future__ import annotations

from contextlib import closing

import pytest
import torch
from engines.torch.models import ARCHITECTURES, ours, their_greedy
from engines.torch.test_model import Engine, a_prompt

from rakka_sim.config.models import hf_config
from rakka_sim.core.batching import BatchingLimits
from rakka_sim.engines.processes import ProcessRunner
from rakka_sim.engines.recipe import Recipe
from rakka_sim.engines.torch.runner import ModelRunner
from rakka_sim.engines.torch.worker import _portable, is_sticky
from rakka_sim.errors import ContextPoisoned, OutOfMemory
from rakka_sim.values import GREEDY_TO_THE_END, FedSequence, StepFeed, StepPlan, StepRow

pytestmark = pytest.mark.gpu
DEVICE = "cuda"


@pytest.mark.parametrize("graph_rows", [0, 8])
@pytest.mark.parametrize("name", [name for name in ARCHITECTURES])
def test_greedy_tokens_are_theirs(name: str, graph_rows: int) -> None:
    decoder = ours(name, device=DEVICE)
    if any(decoder.architecture.sparse) and graph_rows:
        pytest.skip("experts are chosen by the tokens: no graph")
    prompts = [a_prompt(9 + 7 * n, seed=n) for n in range(4)]
    engine = Engine(decoder, BatchingLimits(4, 24, 128, scheduler_reserve_full_isl=False), 8, graph_rows)
    engine.runner.warm_up()
    for n, prompt in enumerate(prompts):
        engine.add(n, prompt, 24)
    engine.finish()
    assert engine.preemptions > 0
    assert engine.tokens == {n: their_greedy(name, prompt, 24) for n, prompt in enumerate(prompts)}
    if graph_rows:
        assert engine.runner._graphs is not None
        assert {8, 4} <= set(engine.runner._graphs.captured)


def prefill(length: int, token: int = 3) -> tuple[StepPlan, StepFeed]:
    plan = StepPlan([StepRow(0, length, 0, True)], 1, length, 0, 0, 0, 1, 0, 0)
    fed = FedSequence(0, (token,) * length, GREEDY_TO_THE_END, 0, length)
    return plan, StepFeed((fed,), {0: (0, tuple(range(-(-length // 16))))}, ())


def test_a_refusal_of_the_allocator_leaves_the_device_sound() -> None:
    decoder = ours("llama", device=DEVICE)
    runner = ModelRunner(decoder, 2048, 16)
    expected = runner.run(*prefill(200), 1).tokens
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (4 << 20)) / total)
    try:
        with pytest.raises(torch.OutOfMemoryError) as refused:
            runner.run(*prefill(32_000), 1)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert not is_sticky(refused.value)
    assert isinstance(_portable(refused.value), OutOfMemory)
    assert runner.run(*prefill(200), 1).tokens == expected


@pytest.mark.slow
def test_an_index_out_of_bounds_ends_the_process_and_the_next_one_is_sound() -> None:
    """The embedding asserts on the device; nothing but a new process can use it then."""
    recipe = Recipe("Tiny", dict(hf_config("Tiny")[0]), None, 256, 64, 16, "float32", max_rows=4, device="cuda")
    with closing(ProcessRunner.start(recipe, 60.0)) as runner:
        expected = runner.job(*prefill(20)).execute().tokens
        with pytest.raises(ContextPoisoned, match=r"exit codes by rank: \[71\]\); its device context was lost"):
            runner.job(*prefill(20, token=10**6)).execute()
    with closing(ProcessRunner.start(recipe, 60.0)) as again:
        assert again.job(*prefill(20)).execute().tokens == expected
