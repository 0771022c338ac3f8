"""The model catalogue: presets, and shapes read from a Hugging Face `config.json`; counts are in `config.shapes`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rakka_sim.config.catalogue import suggest
from rakka_sim.config.shapes import DTYPE_BYTES, ModelSpec, dtype_bytes
from rakka_sim.errors import InputError, UnknownName

__all__ = ["DTYPE_BYTES", "PRESETS", "ModelSpec", "dtype_bytes", "from_hf", "hf_config", "model_spec"]

_LLAMA_3 = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-05,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}
_QWEN_3 = {"vocab_size": 151936, "max_position_embeddings": 40960, "head_dim": 128, "rope_theta": 1000000.0}

# The fields of each model's config.json that its cost, and what it computes, depend on.
PRESETS: dict[str, dict[str, Any]] = {
    "Llama-3.1-8B": _LLAMA_3
    | {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
    "Llama-3.1-70B": _LLAMA_3
    | {
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
    },
    "Qwen3-0.6B": _QWEN_3
    | {
        "architectures": ["Qwen3ForCausalLM"],
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "tie_word_embeddings": True,
    },
    "Qwen3-8B": _QWEN_3
    | {
        "architectures": ["Qwen3ForCausalLM"],
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
    "Qwen3-32B": _QWEN_3
    | {
        "architectures": ["Qwen3ForCausalLM"],
        "hidden_size": 5120,
        "intermediate_size": 25600,
        "num_hidden_layers": 64,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
    },
    "Qwen3-30B-A3B": _QWEN_3
    | {
        "architectures": ["Qwen3MoeForCausalLM"],
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "moe_intermediate_size": 768,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "num_hidden_layers": 48,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
    },
    # Of no model: small enough to compute on any CPU, for tests and first steps.
    "Tiny": {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 512,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
        "initializer_range": 0.2,
    },
    "Mistral-7B": {
        "architectures": ["MistralForCausalLM"],
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 32768,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-05,
        "rope_theta": 1000000.0,
        "sliding_window": None,
    },
}

# Hub ids of other weights in the same shapes. Qwen3 and Mistral need none: the organisation and suffix fall away.
_ALIASES = {"metallama318b": "Llama-3.1-8B", "metallama3170b": "Llama-3.1-70B", "mistral7bv03": "Mistral-7B"}


def _key(name: str) -> str:
    last = name.rsplit("/", 1)[-1].lower()
    return re.sub(r"[^a-z0-9]", "", re.sub(r"-(instruct|base)(?=-|$)", "", last))


_BY_KEY = {_key(name): name for name in PRESETS} | _ALIASES


def model_spec(name: str) -> ModelSpec:
    """The shapes of a preset (by name or hub id, base or instruct), of a `config.json`, or of a folder that holds one.

    Raises UnknownName, or InputError for a config that cannot be used.
    """
    config, _ = hf_config(name)
    preset = _preset(name)
    return _from_mapping(config, preset, f"preset {preset}") if preset else from_hf(Path(name).expanduser())


def hf_config(name: str) -> tuple[Mapping[str, Any], Path | None]:
    """The Hugging Face config that a model's name stands for, and the folder it is in (None: a preset, no weights).

    Raises UnknownName, or InputError for a file that cannot be read.
    """
    preset = _preset(name)
    if preset is not None:
        return PRESETS[preset], None
    path = Path(name).expanduser()
    if path.exists():
        return _read(path), path if path.is_dir() else path.parent
    known = suggest(_key(name), _BY_KEY)
    raise UnknownName("model", name, f"{known}, or the path of a folder with a config.json")


def _preset(name: str) -> str | None:
    return None if name.startswith(("/", ".", "~")) else _BY_KEY.get(_key(name))


def from_hf(config: Mapping[str, Any] | str | Path, name: str | None = None) -> ModelSpec:
    """Read a Hugging Face config: a mapping, a `config.json`, or a folder that holds one. Raises InputError."""
    if isinstance(config, Mapping):
        return _from_mapping(config, name or str(config.get("_name_or_path") or "model"), "config.json")
    path = Path(config)
    path = path / "config.json" if path.is_dir() else path
    return _from_mapping(_read(path), name or path.parent.name or "model", str(path))


def _read(path: Path) -> dict[str, Any]:
    path = path / "config.json" if path.is_dir() else path
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError("model", str(path), f"a readable config.json ({error.strerror})") from error
    except ValueError as error:
        raise InputError(str(path), str(error), "JSON text") from error
    if not isinstance(loaded, dict):
        raise InputError(str(path), type(loaded).__name__, "a JSON object")
    return loaded


class _Keys:
    """Typed reading of a config's keys; every fault names the file and the key."""

    def __init__(self, config: Mapping[str, Any], where: str) -> None:
        self.config, self.where = config, where

    def count(self, key: str, default: int | None = None) -> int:
        value = self.config.get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InputError(f"{self.where}: {key}", value, "a positive integer (required)")
        return value

    def flag(self, key: str, default: bool = False) -> bool:
        value = self.config.get(key, default)
        if not isinstance(value, bool):
            raise InputError(f"{self.where}: {key}", value, "true or false")
        return value

    def layers(self, key: str, layers: int) -> list[int]:
        value = self.config.get(key) or []
        if not isinstance(value, list) or not all(isinstance(n, int) and 0 <= n < layers for n in value):
            raise InputError(f"{self.where}: {key}", value, f"a list of layers 0..{layers - 1}")
        return value


# Who has biases on its attention projections: never, always on q, k and v, or on all four when the config says so.
_ARCHITECTURES = {
    "LlamaForCausalLM": "configured",
    "MistralForCausalLM": "never",
    "MixtralForCausalLM": "never",
    "Qwen2ForCausalLM": "qkv",
    "Qwen3ForCausalLM": "configured",
    "Qwen3MoeForCausalLM": "configured",
}


def _architecture(keys: _Keys) -> str:
    named = keys.config.get("architectures")
    first = named[0] if isinstance(named, list) and named else None
    if not isinstance(first, str) or first not in _ARCHITECTURES:
        raise InputError(f"{keys.where}: architectures", named, f"a list with one of {', '.join(_ARCHITECTURES)}")
    return first


def _window(keys: _Keys, architecture: str, layers: int) -> tuple[int | None, tuple[int, ...]]:
    """The sliding window in tokens, and the layers that have none even so."""
    if keys.config.get("sliding_window") is None or architecture == "LlamaForCausalLM":
        return None, ()
    full: tuple[int, ...] = ()
    if architecture.startswith("Qwen"):
        if not keys.flag("use_sliding_window"):
            return None, ()
        first = keys.count("max_window_layers", layers) if keys.config.get("max_window_layers") != 0 else 0
        kinds = keys.config.get("layer_types") or ["full_attention"] * first + ["sliding_attention"] * (layers - first)
        known = {"full_attention", "sliding_attention"}
        if not isinstance(kinds, list) or len(kinds) != layers or not known.issuperset(kinds):
            raise InputError(f"{keys.where}: layer_types", kinds, f"a list of {layers}: {' or '.join(sorted(known))}")
        full = tuple(n for n, kind in enumerate(kinds) if kind == "full_attention")
        if len(full) >= layers:
            return None, ()
        if full and architecture == "Qwen3MoeForCausalLM":  # transformers gives its layers one kind of attention
            allowed = f"0 or at least num_hidden_layers ({layers})"
            raise InputError(f"{keys.where}: max_window_layers", first, allowed)
    return keys.count("sliding_window"), full


def _experts(keys: _Keys, architecture: str, layers: int, intermediate: int) -> dict[str, int]:
    if architecture == "MixtralForCausalLM":
        sparse, experts, width = layers, keys.count("num_local_experts"), intermediate
    elif architecture == "Qwen3MoeForCausalLM":
        stride, dense = keys.count("decoder_sparse_step", 1), keys.layers("mlp_only_layers", layers)
        sparse = sum((n + 1) % stride == 0 and n not in dense for n in range(layers))
        # transformers 5 saves the same number under Mixtral's name.
        named = "num_local_experts" if "num_local_experts" in keys.config else "num_experts"
        experts, width = keys.count(named), keys.count("moe_intermediate_size")
    else:
        return {}
    used = keys.count("num_experts_per_tok")
    if used > experts:
        raise InputError(f"{keys.where}: num_experts_per_tok", used, f"at most the number of experts ({experts})")
    return {
        "sparse_layers": sparse,
        "experts": experts,
        "experts_per_token": used,
        "expert_intermediate": width,
    }


def _from_mapping(config: Mapping[str, Any], name: str, where: str) -> ModelSpec:
    keys = _Keys(config, where)
    architecture = _architecture(keys)
    layers, hidden = keys.count("num_hidden_layers"), keys.count("hidden_size")
    heads, intermediate = keys.count("num_attention_heads"), keys.count("intermediate_size")
    kv_heads = keys.count("num_key_value_heads", heads)
    if heads % kv_heads:
        raise InputError(f"{where}: num_key_value_heads", kv_heads, f"a divisor of num_attention_heads ({heads})")
    if config.get("head_dim") is None and hidden % heads:
        raise InputError(f"{where}: hidden_size", hidden, f"a multiple of num_attention_heads ({heads}), or head_dim")
    head_dim = keys.count("head_dim", hidden // heads)
    biases = _ARCHITECTURES[architecture]
    qkv = (heads + 2 * kv_heads) * head_dim
    window, full_layers = _window(keys, architecture, layers)
    all_four = biases == "configured" and keys.flag("attention_bias")
    return ModelSpec(
        name=name,
        architecture=architecture,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate=intermediate,
        vocab=keys.count("vocab_size"),
        tied_embeddings=keys.flag("tie_word_embeddings"),
        max_position_embeddings=keys.count("max_position_embeddings"),
        sliding_window=window,
        full_layers=full_layers,
        qk_norm=architecture.startswith("Qwen3"),
        attention_biases=qkv + hidden if all_four else qkv if biases == "qkv" else 0,
        mlp_bias=architecture == "LlamaForCausalLM" and keys.flag("mlp_bias"),
        **_experts(keys, architecture, layers, intermediate),
    )
