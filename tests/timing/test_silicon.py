"""The silicon model against its own tables by hand, and its words for what it has no data for."""

from __future__ import annotations

import numpy as np
import pytest

from rakka_sim.config.deployment import EngineConfig
from rakka_sim.config.gpus import gpu
from rakka_sim.config.models import model_spec
from rakka_sim.config.scenario import TimeModel
from rakka_sim.errors import InputError
from rakka_sim.timing.api import StepShape
from rakka_sim.timing.factory import make_time_model
from rakka_sim.timing.graphs import Padding
from rakka_sim.timing.implied import implied

pytest.importorskip("aiconfigurator_core", reason="the extra silicon is not installed")

from rakka_sim.timing.silicon import SiliconAttention, silicon_model
from rakka_sim.timing.silicon_tables import SYSTEMS, Tables

LLAMA, QWEN = model_spec("Llama-3.1-8B"), model_spec("Qwen3-30B-A3B")
DECODE = StepShape((), 16, 16 * 1024, 1024, 16)
PREFILL = StepShape(((2048, 0),), samples=1)


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_gpu_with_tables_gives_possible_steps(name: str) -> None:
    device = gpu(name)
    model = silicon_model(LLAMA, device, 1, "bfloat16", "auto", Padding())
    for shape in (DECODE, PREFILL):
        rates = implied(model, device, shape)
        assert not rates.impossible
        assert max(rates.bandwidth_share, rates.mfu) > 0.2


def test_a_product_that_was_measured_is_found_and_one_that_was_not_lies_between() -> None:
    gemms = Tables("H100", "vllm").gemm("bfloat16")
    at, beside, above = (gemms.curve(n, 4096) for n in (4096, 5120, 4608))
    tokens = np.array([1.0, 64.0, 2048.0])
    np.testing.assert_allclose(above.over(tokens), (at.over(tokens) + beside.over(tokens)) / 2, rtol=1e-9)


def test_a_chunk_behind_cached_tokens_is_the_prompt_less_its_cached_part() -> None:
    attention = SiliconAttention(Tables("H200", "vllm"), LLAMA, 1, "bfloat16", 0.0)
    whole, first, second, start = (
        attention.with_prefill((row,), 0, 0.0, 0.0) for row in ((2048, 0), (1024, 0), (1024, 1024), (1, 0))
    )
    assert first + second - start == pytest.approx(whole)
    assert first < second


def test_a_run_has_the_very_floats_of_its_steps() -> None:
    model = silicon_model(LLAMA, gpu("H100"), 1, "fp8", "fp8", Padding((1, 2, 4, 8, 16)))
    shape = StepShape((), 7, 7 * 900, 2000, 7)
    single = [model.seconds(StepShape((), 7, 7 * 900 + 7 * j, 2000 + j, 7)) for j in range(300)]
    assert model.run_seconds(shape, 300).tolist() == single


def test_fp8_halves_the_weights_and_the_cache() -> None:
    plain, small, smaller = (
        silicon_model(LLAMA, gpu("H200"), 1, dtype, kv, Padding())
        for dtype, kv in (("bfloat16", "auto"), ("fp8", "auto"), ("fp8", "fp8"))
    )
    full = StepShape((), 128, 128 * 4096, 4096, 128)
    assert smaller.seconds(full) < small.seconds(full) < plain.seconds(full)
    assert small.seconds(PREFILL) < 0.8 * plain.seconds(PREFILL)


def test_experts_are_read_as_a_batch_touches_them() -> None:
    model = silicon_model(QWEN, gpu("H100"), 1, "bfloat16", "auto", Padding())
    one, many = (model.seconds(StepShape((), n, n * 64, 64, n)) for n in (1, 64))
    dense = silicon_model(LLAMA, gpu("H100"), 1, "bfloat16", "auto", Padding())
    assert one < dense.seconds(StepShape((), 1, 64, 64, 1)) * 1.2  # 3 of 30 billion parameters: less than 8 of 8
    assert many > 3 * one  # nearly all 128 experts of each layer


def test_whole_experts_and_split_ones_are_both_measured() -> None:
    split, whole = (
        silicon_model(QWEN, gpu("H200"), 4, "bfloat16", "auto", Padding(), expert_parallel=ep) for ep in (False, True)
    )
    alone = silicon_model(QWEN, gpu("H200"), 1, "bfloat16", "auto", Padding())
    for shape in (DECODE, PREFILL):
        assert split.seconds(shape) != whole.seconds(shape)
        assert max(split.seconds(shape), whole.seconds(shape)) < alone.seconds(shape)


@pytest.mark.parametrize(
    ("name", "model", "dtype", "options", "said"),
    [
        ("RTX 4090", "Llama-3.1-8B", "bfloat16", {}, "RTX 4090.*H100"),
        ("A100-80", "Llama-3.1-8B", "fp8", {}, "A100-80"),
        ("H100", "Llama-3.1-8B", "float32", {}, "float32"),
        ("H100", "Llama-3.1-8B", "bfloat16", {"tp": 3}, "tp"),
    ],
)
def test_what_has_no_data_is_named(name: str, model: str, dtype: str, options: dict[str, int], said: str) -> None:
    with pytest.raises(InputError, match=said):
        silicon_model(model_spec(model), gpu(name), options.get("tp", 1), dtype, "auto", Padding())


def test_a_scenario_can_ask_for_it() -> None:
    asked = TimeModel(kind="silicon", backend="sglang")
    model = make_time_model(asked, LLAMA, gpu("H200"), EngineConfig())
    assert 3e-3 < model.seconds(DECODE) < 10e-3
