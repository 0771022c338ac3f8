"""Small models of every architecture, made by transformers and saved as it saves them: the oracle. No test is here."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch

from rakka_sim.engines.torch import weights
from rakka_sim.engines.torch.architecture import Architecture
from rakka_sim.engines.torch.group import ALONE, Group
from rakka_sim.engines.torch.model import Decoder

VOCAB, POSITIONS = 320, 256

_SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": POSITIONS,
    "initializer_range": 0.2,
}
_LLAMA_3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_ROPE = {"rope_theta": 10000.0}
_YARN = _ROPE | {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
_YARN_IN_FULL = {"beta_fast": 4.0, "beta_slow": 0.5, "mscale": 0.8, "mscale_all_dim": 0.3, "truncate": False}
# The config class of transformers, and what differs from the shape above.
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {}),
    "llama3-rope": ("LlamaConfig", {"rope_parameters": _LLAMA_3}),
    "llama-biases-tied": ("LlamaConfig", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    "qwen2": ("Qwen2Config", {}),
    "qwen3": ("Qwen3Config", {"head_dim": 32, "tie_word_embeddings": True}),
    "mistral": ("MistralConfig", {"sliding_window": 24}),
    "mixtral": ("MixtralConfig", {"num_local_experts": 5, "num_experts_per_tok": 2, "sliding_window": 30}),
    "linear-rope": ("LlamaConfig", {"rope_parameters": _ROPE | {"rope_type": "linear", "factor": 3.0}}),
    "dynamic-rope": ("LlamaConfig", {"rope_parameters": _ROPE | {"rope_type": "dynamic", "factor": 2.0}}),
    "yarn-rope": ("Qwen2Config", {"rope_parameters": _YARN}),
    "yarn-rope-in-full": ("Qwen3Config", {"rope_parameters": _YARN | _YARN_IN_FULL, "head_dim": 32}),
    "qwen2-windows": ("Qwen2Config", {"use_sliding_window": True, "sliding_window": 20, "max_window_layers": 1}),
    "qwen3-windows": (
        "Qwen3Config",
        {
            "use_sliding_window": True,
            "sliding_window": 20,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
    "qwen3-moe": (
        "Qwen3MoeConfig",
        {
            "head_dim": 16,
            "moe_intermediate_size": 40,
            "num_experts": 6,
            "num_experts_per_tok": 2,
            "norm_topk_prob": True,
            "mlp_only_layers": [1],
        },
    ),
}


@cache
def theirs(name: str) -> Any:
    """The model as transformers computes it, in float32, norms and biases random as well."""
    import transformers

    kind, differs = ARCHITECTURES[name]
    config = getattr(transformers, kind)(**_SHAPE | differs)
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for parameter_name, parameter in model.named_parameters():
        parameter.requires_grad_(False)
        if "norm" in parameter_name:
            parameter.normal_(1.0, 0.2)
        elif "bias" in parameter_name:
            parameter.normal_(0.0, 0.2)
    return model


@cache
def folder(name: str) -> Path:
    """Where transformers has saved it."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    path = Path(mkdtemp(prefix=f"rakka_sim-{name}-"))
    theirs(name).save_pretrained(path)
    return path


@cache
def architecture(name: str) -> Architecture:
    """As our code reads the config that transformers has saved."""
    return Architecture.of(json.loads((folder(name) / "config.json").read_text()), name)


def ours(name: str, dtype: str = "float32", group: Group = ALONE, device: str = "cpu") -> Decoder:
    """The same model, from the saved files, on our decoder."""
    return weights.load(folder(name), architecture(name), POSITIONS, dtype=dtype, group=group, device=device)


def their_logits(name: str, tokens: list[int]) -> torch.Tensor:
    """[tokens, vocab], of one prompt computed at once."""
    with torch.no_grad():
        logits: torch.Tensor = theirs(name)(torch.tensor([tokens])).logits[0]
    return logits


def their_greedy(name: str, prompt: list[int], count: int) -> list[int]:
    """The most likely next tokens, each found by computing everything again."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(their_logits(name, tokens)[-1].argmax()))
    return tokens[len(prompt) :]
