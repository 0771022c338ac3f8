"""The table that queries and keys are turned by: a cosine and a sine for each position and pair of elements.

Pair i of a head turns by position * theta ** (-2 i / head_dim): the first ones fast, the last ones slowly. The scalings
of `rope.py` change these frequencies.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rakka_sim.engines.torch.rope import LinearScaling, Llama3Scaling, Scaling, YarnScaling


def rotations(positions: int, head_dim: int, theta: float, scaling: Scaling | None) -> Tensor:
    """[positions, head_dim] float32: the cosines of each position's head_dim / 2 angles, then their sines."""
    frequencies = 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    size = 1.0
    match scaling:
        case LinearScaling(factor):
            frequencies = frequencies / factor
        case Llama3Scaling():
            frequencies = _llama3(frequencies, scaling)
        case YarnScaling():
            frequencies, size = _yarn(frequencies, scaling, head_dim, theta), scaling.attention_factor
    angles = torch.arange(positions, dtype=torch.float32)[:, None] * frequencies
    return torch.cat([angles.cos() * size, angles.sin() * size], dim=-1)


def _llama3(frequencies: Tensor, scaling: Llama3Scaling) -> Tensor:
    turns = scaling.original_max_position_embeddings * frequencies / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = ((turns - low) / (high - low)).clamp(0.0, 1.0)  # 1: many turns over the old context, keep; 0: few, slow down
    return _blended(frequencies, kept, scaling.factor)


def _yarn(frequencies: Tensor, scaling: YarnScaling, head_dim: int, theta: float) -> Tensor:
    def pair_that_turns(times: float) -> float:
        """Which pair turns so often over the old context; the inverse of the frequencies."""
        over = scaling.original_max_position_embeddings / (2 * math.pi * times)
        return head_dim * math.log(over) / (2 * math.log(theta))

    first, last = pair_that_turns(scaling.beta_fast), pair_that_turns(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, head_dim - 1)
    last += 0.001 if first == last else 0.0
    slowed = ((torch.arange(head_dim // 2, dtype=torch.float32) - first) / (last - first)).clamp(0.0, 1.0)
    return _blended(frequencies, 1.0 - slowed, scaling.factor)


def _blended(frequencies: Tensor, kept: Tensor, factor: float) -> Tensor:
    return kept * frequencies + (1.0 - kept) * frequencies / factor
