"""What a decoder computes, read from its Hugging Face config: beyond the shapes, all that changes a logit. No torch.

Read `model.py` beside it: every field here is one `if` or one constant there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rakka_sim.config.models import from_hf
from rakka_sim.config.shapes import ModelSpec
from rakka_sim.errors import InputError, NotBuilt

if TYPE_CHECKING:
    from rakka_sim.engines.recipe import Recipe

DTYPES = ("float64", "float32", "bfloat16", "float16")
BUILT = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "Qwen3MoeForCausalLM")
QKV_BIAS, OUT_BIAS = ("Qwen2ForCausalLM",), ("LlamaForCausalLM", "Qwen3ForCausalLM", "Qwen3MoeForCausalLM")


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Llama 3.1's longer context: slow rotations are slowed by `factor`, fast ones stay, those between are blended."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True, slots=True)
class Architecture:
    """A decoder of `spec`'s shapes. `sparse[n]` says whether layer n is a mixture of experts.

    `norm_topk_prob`: the weights of the experts chosen for a token are scaled to add up to one.
    """

    spec: ModelSpec
    norm_eps: float
    rope_theta: float
    rope_scaling: Llama3Scaling | None
    qkv_bias: bool
    out_bias: bool
    sparse: tuple[bool, ...]
    norm_topk_prob: bool
    initializer_range: float = 0.02

    @classmethod
    def of(cls, config: Mapping[str, Any], name: str = "model") -> Architecture:
        """Read a config; raises InputError for one that contradicts itself, NotBuilt for what no code here computes."""
        spec = from_hf(config, name)
        if spec.architecture not in BUILT:
            raise NotBuilt(f"{spec.architecture} in the torch engine", f"built: {', '.join(BUILT)}")
        activation = config.get("hidden_act", "silu")
        if activation != "silu":
            raise NotBuilt(f"hidden_act {activation!r} of {name}", "built: 'silu'")
        theta, scaling = _rope(config, name)
        biased = bool(config.get("attention_bias", False)) and spec.architecture in OUT_BIAS
        return cls(
            spec=spec,
            norm_eps=float(config.get("rms_norm_eps", 1e-6)),
            rope_theta=theta,
            rope_scaling=scaling,
            qkv_bias=biased or spec.architecture in QKV_BIAS,
            out_bias=biased,
            sparse=_sparse(config, spec),
            norm_topk_prob=bool(config.get("norm_topk_prob", False)),
            initializer_range=float(config.get("initializer_range", 0.02)),
        )


def architecture_of(recipe: Recipe) -> Architecture:
    """The decoder that is asked for; raises InputError or NotBuilt for one that nothing here can be."""
    if recipe.dtype not in DTYPES:
        raise NotBuilt(f"dtype {recipe.dtype!r} in the torch engine", f"built: {', '.join(DTYPES)}")
    return Architecture.of(recipe.config, recipe.name)


def _sparse(config: Mapping[str, Any], spec: ModelSpec) -> tuple[bool, ...]:
    if not spec.experts:
        return (False,) * spec.layers
    stride, dense = config.get("decoder_sparse_step") or 1, config.get("mlp_only_layers") or ()
    return tuple((layer + 1) % stride == 0 and layer not in dense for layer in range(spec.layers))


def _rope(config: Mapping[str, Any], name: str) -> tuple[float, Llama3Scaling | None]:
    """Both spellings: `rope_parameters` of transformers 5, `rope_theta` and `rope_scaling` of those before."""
    given = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = given.get("rope_theta", config.get("rope_theta", 10_000.0))
    if given.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0)) != 1.0:
        raise NotBuilt(f"partial_rotary_factor of {name}", "built: 1.0")
    kind = given.get("rope_type", given.get("type", "default"))
    if kind == "default":
        return float(theta), None
    if kind != "llama3":
        raise NotBuilt(f"rope scaling {kind!r} of {name}", "built: 'default' and 'llama3'")
    try:
        scaling = Llama3Scaling(
            float(given["factor"]),
            float(given["low_freq_factor"]),
            float(given["high_freq_factor"]),
            int(given["original_max_position_embeddings"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        allowed = "numbers factor, low_freq_factor, high_freq_factor, original_max_position_embeddings"
        raise InputError(f"rope scaling of {name}", dict(given), allowed) from error
    return float(theta), scaling
