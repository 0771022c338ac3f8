"""KV blocks from GPU memory: vLLM's own count, the arithmetic, and a model that does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rakka_sim.config.deployment import EngineConfig
from rakka_sim.config.gpus import GIB, GPUS, GpuSpec, gpu
from rakka_sim.config.models import PRESETS, model_spec
from rakka_sim.engines.sizing import kv_block_count
from rakka_sim.errors import InputError

LLAMA = model_spec("Llama-3.1-8B")


def engine(**settings: object) -> EngineConfig:
    return EngineConfig.model_validate(settings)


def test_vllm_resolved_nearly_as_many_blocks(shared_data: Path) -> None:
    meta = json.loads((shared_data / "vllm_runs" / "RTX4090-Llama-3.1-8B" / "meta.json").read_text("utf-8"))
    cache, settings = meta["kv_cache"], meta["engine_kwargs"]
    found = kv_block_count(
        model_spec(meta["model"]),
        gpu(meta["hardware"]["device_name"]),
        engine(
            block_size=cache["block_size"],
            gpu_memory_utilization=cache["gpu_memory_utilization"],
            max_num_seqs=settings["max_num_seqs"],
            max_num_batched_tokens=settings["max_num_batched_tokens"],
        ),
    )
    print(f"vLLM {cache['num_gpu_blocks']:,} blocks; here {found.text}")
    assert found.blocks == pytest.approx(cache["num_gpu_blocks"], rel=0.005)


def test_a_block_of_llama_8b_is_two_mebibytes() -> None:
    found = kv_block_count(LLAMA, gpu("H200"), engine())
    assert found.block_bytes == 16 * 131_072
    assert found.weight_bytes == 2 * LLAMA.parameters
    assert found.tokens == 16 * found.blocks
    assert 850_000 < found.tokens < 950_000  # about 110 GiB are left


@given(
    st.sampled_from(sorted(PRESETS)),
    st.sampled_from(GPUS),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([1, 16, 32]),
    st.floats(0.3, 1.0),
    st.sampled_from(["bfloat16", "float32"]),
)
def test_the_blocks_fit_and_one_more_would_not(
    name: str, device: GpuSpec, tp: int, block_size: int, share: float, kv_dtype: str
) -> None:
    settings = engine(block_size=block_size, gpu_memory_utilization=share, kv_cache_dtype=kv_dtype)
    try:
        found = kv_block_count(model_spec(name), device, settings, tp)
    except InputError:
        assume(False)
    taken = found.weight_bytes + found.activation_bytes + found.overhead_bytes + found.kv_bytes
    assert taken <= found.usable_bytes < taken + found.block_bytes
    assert found.usable_bytes <= device.memory_bytes


def test_what_takes_memory_takes_blocks() -> None:
    plain = kv_block_count(LLAMA, gpu("H100"), engine())
    assert kv_block_count(LLAMA, gpu("H100"), engine(), cuda_graph_bytes=GIB).blocks == plain.blocks - GIB // (2 << 20)
    for settings in ({"max_num_seqs": 512}, {"max_num_batched_tokens": 32_768}, {"gpu_memory_utilization": 0.8}):
        assert kv_block_count(LLAMA, gpu("H100"), engine(**settings)).blocks < plain.blocks
    assert kv_block_count(LLAMA, gpu("H100"), engine(dtype="fp8")).blocks > plain.blocks


def test_a_smaller_cache_dtype_makes_twice_the_blocks() -> None:
    wide, narrow = (kv_block_count(LLAMA, gpu("H200"), engine(kv_cache_dtype=kv)) for kv in ("bfloat16", "fp8"))
    assert narrow.blocks in (2 * wide.blocks, 2 * wide.blocks + 1)


def test_kv_heads_are_split_until_each_gpu_has_one() -> None:
    sizes = [kv_block_count(LLAMA, gpu("H200"), engine(), tp).block_bytes for tp in (1, 2, 8, 16, 32)]
    assert sizes == [2_097_152, 1_048_576, 262_144, 262_144, 262_144]


def test_the_line_for_people() -> None:
    assert kv_block_count(LLAMA, gpu("RTX 4090"), engine()).text == (
        "2,581 KV blocks of 16 = 41,296 tokens (5.0 GiB of 21.2 usable per GPU; "
        "weights 15.0, activations 1.0, other 0.1)"
    )


@pytest.mark.parametrize(
    ("model", "device", "tp", "remedy"),
    [
        ("Llama-3.1-70B", "H200", 1, "at least 2"),
        ("Llama-3.1-70B", "A100-80", 1, "at least 2"),
        ("Llama-3.1-70B", "RTX 4090", 2, "at least 8"),
        ("Qwen3-30B-A3B", "RTX 4090", 1, "at least 4"),
    ],
)
def test_a_model_that_does_not_fit_says_what_would_do(model: str, device: str, tp: int, remedy: str) -> None:
    with pytest.raises(InputError) as caught:
        kv_block_count(model_spec(model), gpu(device), engine(), tp)
    assert caught.value.where == f"GPUs per replica (tp) for {model} on {device}"
    assert caught.value.value == tp
    assert caught.value.allowed.startswith(remedy)
    least = int(remedy.rsplit(" ", 1)[1])
    assert kv_block_count(model_spec(model), gpu(device), engine(), least).blocks > 0


def test_where_no_number_of_gpus_would_do_it_says_so() -> None:
    with pytest.raises(InputError, match="no number of these GPUs is enough"):
        kv_block_count(LLAMA, gpu("RTX 4090"), engine(gpu_memory_utilization=0.05))


def test_heads_must_divide() -> None:
    with pytest.raises(InputError, match=r"tp of Llama-3\.1-8B: 3"):
        kv_block_count(LLAMA, gpu("H200"), engine(), 3)
