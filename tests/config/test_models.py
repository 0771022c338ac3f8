"""The model catalogue: counts against known totals, configs of every architecture, and what a faulty one is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rakka_sim.config.models import PRESETS, ModelSpec, from_hf, model_spec
from rakka_sim.errors import InputError, UnknownName

SMALL = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "max_position_embeddings": 2048,
}
QWEN_25_7B = SMALL | {
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "sliding_window": 131072,
    "use_sliding_window": False,
    "max_window_layers": 28,
}
MIXTRAL_8X7B = SMALL | {
    "architectures": ["MixtralForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 32000,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
}
MIXED_MOE = SMALL | {
    "architectures": ["Qwen3MoeForCausalLM"],
    "num_hidden_layers": 5,
    "head_dim": 64,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "decoder_sparse_step": 2,
    "mlp_only_layers": [3],
}
QWEN_3_BIASED = SMALL | {
    "architectures": ["Qwen3ForCausalLM"],
    "head_dim": 64,
    "attention_bias": True,
    "tie_word_embeddings": True,
}


def refused(config: dict[str, Any]) -> InputError:
    with pytest.raises(InputError) as caught:
        from_hf(config)
    return caught.value


# --- counts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("Llama-3.1-8B", 8_030_261_248),
        ("Llama-3.1-70B", 70_553_706_496),
        ("Qwen3-0.6B", 596_049_920),
        ("Qwen3-8B", 8_190_735_360),
        ("Qwen3-32B", 32_762_123_264),
        ("Qwen3-30B-A3B", 30_532_122_624),
        ("Mistral-7B", 7_248_023_552),
        # 512 x 64 tied, 2 x (64 x 16 x 12 + 3 x 64 x 128 + 2 x 64), 64.
        ("Tiny", 106_816),
    ],
)
def test_a_preset_has_the_published_number_of_parameters(name: str, parameters: int) -> None:
    assert model_spec(name).parameters == parameters


def test_every_preset_is_among_them() -> None:
    assert len(PRESETS) == 8


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (PRESETS["Qwen3-0.6B"] | {"tie_word_embeddings": False}, 751_632_384),
        (QWEN_25_7B, 7_615_616_512),
        (MIXTRAL_8X7B, 46_702_792_704),
        (MIXED_MOE, 3_466_624),
        (SMALL | {"attention_bias": True, "mlp_bias": True}, 1_697_024),
        (QWEN_3_BIASED, 1_438_720),
    ],
    ids=["untied", "qkv-bias", "experts", "experts-in-some-layers", "all-biases", "tied-with-biases"],
)
def test_parameters_are_those_that_transformers_counts(config: dict[str, Any], parameters: int) -> None:
    assert from_hf(config).parameters == parameters


def test_bytes_of_llama_8b() -> None:
    llama = model_spec("Llama-3.1-8B")
    assert llama.weight_bytes() == 2 * 8_030_261_248
    assert llama.kv_bytes_per_token() == 2 * 32 * 8 * 128 * 2 == 131_072
    assert llama.kv_bytes_per_token("fp8") == 65_536


def test_fp8_halves_the_layers_and_leaves_embedding_and_head() -> None:
    llama = model_spec("Llama-3.1-8B")
    layers = 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336)
    assert llama.weight_bytes() - llama.weight_bytes("fp8") == layers


def test_a_token_uses_eight_of_128_experts() -> None:
    qwen = model_spec("Qwen3-30B-A3B")
    expert = 3 * 2048 * 768
    assert qwen.parameters - qwen.active_parameters == 48 * 120 * expert
    assert qwen.active_parameters == 3_353_032_704


def test_experts_only_in_the_layers_that_have_them() -> None:
    assert from_hf(MIXED_MOE).sparse_layers == 1  # 1 and 3 by the stride, 3 named as dense


# --- names and files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "preset"),
    [
        ("meta-llama/Llama-3.1-8B", "Llama-3.1-8B"),
        ("meta-llama/Llama-3.1-8B-Instruct", "Llama-3.1-8B"),
        ("meta-llama/Meta-Llama-3.1-70B-Instruct", "Llama-3.1-70B"),
        ("llama-3.1-8b", "Llama-3.1-8B"),
        ("Qwen/Qwen3-30B-A3B", "Qwen3-30B-A3B"),
        ("Qwen/Qwen3-8B-Base", "Qwen3-8B"),
        ("mistralai/Mistral-7B-v0.3", "Mistral-7B"),
        ("mistralai/Mistral-7B-Instruct-v0.3", "Mistral-7B"),
    ],
)
def test_hub_ids_are_known(name: str, preset: str) -> None:
    assert model_spec(name) == model_spec(preset)


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownName) as caught:
        model_spec("Lama-3.1-8B")
    assert "did you mean Llama-3.1-8B" in caught.value.allowed
    assert "config.json" in caught.value.allowed


def test_a_folder_and_a_file_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(SMALL), "utf-8")
    assert model_spec(str(folder)) == model_spec(str(folder / "config.json")) == from_hf(SMALL, "my-model")


def test_a_path_is_a_path_even_where_it_ends_in_a_preset(tmp_path: Path) -> None:
    folder = tmp_path / "Llama-3.1-8B"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(SMALL), "utf-8")
    assert model_spec(str(folder)).hidden == 256


@pytest.mark.parametrize(("text", "allowed"), [("{", "JSON text"), ("[]", "a JSON object"), (None, "readable")])
def test_a_file_that_is_no_config_is_named(tmp_path: Path, text: str | None, allowed: str) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text, "utf-8")
    with pytest.raises(InputError, match=allowed) as caught:
        from_hf(tmp_path)
    assert str(tmp_path) in str(caught.value)


# --- faults -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [key for key in SMALL if key not in ("num_key_value_heads", "architectures")])
@pytest.mark.parametrize("value", [None, 0, -1, 1.5, "many", True])
def test_a_size_that_is_missing_or_no_size_is_named(key: str, value: object) -> None:
    error = refused(SMALL | {key: value})
    assert (error.where, error.value) == (f"config.json: {key}", value)
    assert "positive integer" in error.allowed


@pytest.mark.parametrize("value", [None, [], ["GPT2LMHeadModel"], "LlamaForCausalLM", [7], [["LlamaForCausalLM"]]])
def test_an_architecture_that_is_not_modelled_is_refused(value: object) -> None:
    error = refused(SMALL | {"architectures": value})
    assert error.where == "config.json: architectures"
    assert "LlamaForCausalLM" in error.allowed
    assert "Qwen3MoeForCausalLM" in error.allowed


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
        ({"hidden_size": 254}, "hidden_size"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
        ({"attention_bias": 1}, "attention_bias"),
        (MIXED_MOE | {"num_experts_per_tok": 9}, "num_experts_per_tok"),
        (MIXED_MOE | {"num_experts": None}, "num_experts"),
        (MIXED_MOE | {"mlp_only_layers": [5]}, "mlp_only_layers"),
        (QWEN_25_7B | {"use_sliding_window": True, "layer_types": ["full_attention"] * 3}, "layer_types"),
    ],
)
def test_sizes_that_do_not_go_together_are_named(change: dict[str, Any], where: str) -> None:
    assert refused(SMALL | change).where == f"config.json: {where}"


def test_without_kv_heads_every_head_has_its_own() -> None:
    config = {key: value for key, value in SMALL.items() if key != "num_key_value_heads"}
    assert from_hf(config).kv_heads == 4


# --- windows and parallelism ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "window"),
    [
        (SMALL | {"architectures": ["MistralForCausalLM"], "sliding_window": 4096}, 4096),
        (SMALL | {"architectures": ["MistralForCausalLM"], "sliding_window": None}, None),
        (SMALL | {"sliding_window": 4096}, None),
        (QWEN_25_7B, None),
        (QWEN_25_7B | {"use_sliding_window": True}, None),
        (QWEN_25_7B | {"use_sliding_window": True, "max_window_layers": 0}, 131072),
    ],
    ids=["mistral-0.1", "mistral-0.3", "llama", "qwen-off", "qwen-no-layer", "qwen-all-layers"],
)
def test_a_window_counts_where_the_architecture_uses_it(config: dict[str, Any], window: int | None) -> None:
    assert from_hf(config).sliding_window == window


def test_kv_heads_are_split_then_copied() -> None:
    llama = model_spec("Llama-3.1-8B")  # 32 heads, 8 KV heads
    assert [tp for tp in range(-1, 65) if llama.divides_by(tp)] == [1, 2, 4, 8, 16, 32]
    with pytest.raises(InputError, match=r"tp of Llama-3\.1-8B: 3 is not allowed; allowed: 1, 2, 4, 8, 16, 32"):
        llama.check_tp(3)


def test_a_spec_is_a_value() -> None:
    assert isinstance(model_spec("Qwen3-8B"), ModelSpec)
    assert {model_spec("Qwen3-8B"): 1}[model_spec("Qwen/Qwen3-8B")] == 1


def test_windows_on_some_layers_are_read_in_both_spellings() -> None:
    some = from_hf(QWEN_25_7B | {"use_sliding_window": True, "max_window_layers": 14, "sliding_window": 1000})
    assert (some.sliding_window, some.full_layers) == (1000, tuple(range(14)))
    # The other spelling says it layer by layer.
    kinds = ["full_attention", "sliding_attention"] * 14
    spelt = from_hf(QWEN_25_7B | {"use_sliding_window": True, "layer_types": kinds})
    assert spelt.full_layers == tuple(range(0, 28, 2))
