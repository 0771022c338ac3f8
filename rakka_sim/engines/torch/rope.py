"""How a model turns queries and keys by position, as its config says: a class for each published scaling. No torch.

A scaling changes the frequencies (`angles.py`), so that more positions fit into the angles that a model was trained on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rakka_sim.errors import InputError, NotBuilt


@dataclass(frozen=True, slots=True)
class LinearScaling:
    """Positions are divided by `factor`."""

    factor: float


@dataclass(frozen=True, slots=True)
class DynamicScaling:
    """Beyond the trained context, all frequencies depend on a sequence's length (dynamic NTK); up to it, none changes.

    Keys that are cached would have to be turned again with every token, so only the part up to it is built.
    """

    factor: float


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Llama 3.1's longer context: slow rotations are slowed by `factor`, fast ones stay, those between are blended."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True, slots=True)
class YarnScaling:
    """YaRN (Peng et al., 2023): the same idea, blended linearly between the elements that turn `beta_fast` and
    `beta_slow` times over the old context (at whole elements if `truncate`), and cos and sin are scaled by
    `attention_factor`."""

    factor: float
    original_max_position_embeddings: int
    attention_factor: float
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True


Scaling = LinearScaling | DynamicScaling | Llama3Scaling | YarnScaling


def rope_of(config: Mapping[str, Any], name: str) -> tuple[float, Scaling | None]:
    """The base of the frequencies, and their scaling.

    Both spellings: `rope_parameters` of transformers 5, `rope_theta` and `rope_scaling` of those before. Raises
    NotBuilt for a scaling that nothing here computes, InputError for one without its numbers.
    """
    given = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = given.get("rope_theta", config.get("rope_theta", 10_000.0))
    if given.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0)) != 1.0:
        raise NotBuilt(f"partial_rotary_factor of {name}", "built: 1.0")
    kind = given.get("rope_type", given.get("type", "default"))
    if kind == "default":
        return float(theta), None
    if kind not in _READERS:
        raise NotBuilt(f"rope scaling {kind!r} of {name}", f"built: default, {', '.join(_READERS)}")
    read, names = _READERS[kind]
    try:
        # Where YaRN's config does not say so, the old context is the one of the config, as in transformers.
        return float(theta), read({"original_max_position_embeddings": config.get("max_position_embeddings")} | given)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"rope scaling of {name}", dict(given), f"numbers {names}") from error


def _llama3(given: Mapping[str, Any]) -> Llama3Scaling:
    return Llama3Scaling(
        float(given["factor"]),
        float(given["low_freq_factor"]),
        float(given["high_freq_factor"]),
        int(given["original_max_position_embeddings"]),
    )


def _yarn(given: Mapping[str, Any]) -> YarnScaling:
    factor, attention = float(given["factor"]), given.get("attention_factor")
    if attention is None:
        all_dim = given.get("mscale_all_dim")
        scale, over = (given["mscale"], all_dim) if given.get("mscale") and all_dim else (1.0, 0.0)
        attention = _mscale(factor, scale) / _mscale(factor, over)
    return YarnScaling(
        factor,
        int(given["original_max_position_embeddings"]),
        float(attention),
        float(given.get("beta_fast") or 32.0),
        float(given.get("beta_slow") or 1.0),
        bool(given.get("truncate", True)),
    )


def _mscale(factor: float, weight: float) -> float:
    return 1.0 if factor <= 1.0 else 0.1 * weight * math.log(factor) + 1.0


_READERS: dict[str, tuple[Callable[[Mapping[str, Any]], Scaling], str]] = {
    "linear": (lambda given: LinearScaling(float(given["factor"])), "factor"),
    "dynamic": (lambda given: DynamicScaling(float(given["factor"])), "factor"),
    "llama3": (_llama3, "factor, low_freq_factor, high_freq_factor, original_max_position_embeddings"),
    "yarn": (_yarn, "factor, original_max_position_embeddings"),
}
