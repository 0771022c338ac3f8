"""What a decoder computes, read from its Hugging Face config: beyond the shapes, all that changes a logit. No torch.

Read `model.py` beside it: every field here is one `if` or one constant there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rakka_sim.config.models import from_hf
from rakka_sim.config.shapes import ModelSpec
from rakka_sim.engines.torch.rope import Scaling, rope_of
from rakka_sim.errors import NotBuilt

if TYPE_CHECKING:
    from rakka_sim.engines.recipe import Recipe

DTYPES = ("float64", "float32", "bfloat16", "float16")
BUILT = (
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "MixtralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "Qwen3MoeForCausalLM",
)
QKV_BIAS, OUT_BIAS = ("Qwen2ForCausalLM",), ("LlamaForCausalLM", "Qwen3ForCausalLM", "Qwen3MoeForCausalLM")


@dataclass(frozen=True, slots=True)
class Architecture:
    """A decoder of `spec`'s shapes. `sparse[n]` says whether layer n is a mixture of experts, `windows[n]` how many
    tokens a query of it sees (None: all).

    `norm_topk_prob`: the weights of the experts chosen for a token add up to one, as Mixtral's always do.
    """

    spec: ModelSpec
    norm_eps: float
    rope_theta: float
    rope_scaling: Scaling | None
    qkv_bias: bool
    out_bias: bool
    sparse: tuple[bool, ...]
    windows: tuple[int | None, ...]
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
        theta, scaling = rope_of(config, name)
        biased = bool(config.get("attention_bias", False)) and spec.architecture in OUT_BIAS
        return cls(
            spec=spec,
            norm_eps=float(config.get("rms_norm_eps", 1e-6)),
            rope_theta=theta,
            rope_scaling=scaling,
            qkv_bias=biased or spec.architecture in QKV_BIAS,
            out_bias=biased,
            sparse=_sparse(config, spec),
            windows=tuple(None if n in spec.full_layers else spec.sliding_window for n in range(spec.layers)),
            norm_topk_prob=bool(config.get("norm_topk_prob", spec.architecture == "MixtralForCausalLM")),
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
