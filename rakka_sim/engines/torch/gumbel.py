"""The sampler's noise: a pure function of (seed, position, vocabulary id), in PyTorch. It has no state and no stream.

A token's noise depends on nothing else, so a request draws the same tokens alone or in a batch, after a preemption and
after a restart. The hash is MurmurHash3 (x86, 32 bits) of four words: both halves of the seed, the position, the id.
`kernels/sampling.py` computes the same words in Triton.
"""

from __future__ import annotations

import torch
from torch import Tensor

# MurmurHash3's constants (Austin Appleby, public domain).
C1, C2, C3, F1, F2 = 0xCC9E2D51, 0x1B873593, 0xE6546B64, 0x85EBCA6B, 0xC2B2AE35
WORD = 0xFFFFFFFF


def _rotate(word: Tensor, by: int) -> Tensor:
    return ((word << by) | (word >> (32 - by))) & WORD


def mix(state: Tensor, word: Tensor) -> Tensor:
    """The hash's state after one more word; both int64 that hold 32 unsigned bits."""
    # A product may wrap round int64's sign, but its low 32 bits are right.
    word = (_rotate((word * C1) & WORD, 15) * C2) & WORD
    return (_rotate(state ^ word, 13) * 5 + C3) & WORD


def finish(state: Tensor, length: int) -> Tensor:
    """The hash of a message of `length` bytes, after its last word."""
    state = state ^ length
    state = ((state ^ (state >> 16)) * F1) & WORD
    state = ((state ^ (state >> 13)) * F2) & WORD
    return state ^ (state >> 16)


def hashes(seeds: Tensor, positions: Tensor, ids: Tensor) -> Tensor:
    """[rows, ids] 32-bit hashes as int64, of int64 seeds [rows], positions [rows] and vocabulary ids [ids]."""
    seeds, positions = seeds.to(torch.int64), positions.to(torch.int64)
    state = torch.zeros_like(seeds)
    for word in (seeds & WORD, (seeds >> 32) & WORD, positions & WORD):
        state = mix(state, word)
    return finish(mix(state[:, None], ids.to(torch.int64)[None, :]), 16)


def gumbel(hashed: Tensor) -> Tensor:
    """Standard Gumbel noise in float32 for 32-bit hashes.

    -log(e), with e = -log(1 - u) exponential and u in (0, 1). The winner of a large vocabulary is decided where e is
    small, and there u, hence e, has all of float32's precision; from 1 - u it would have 24 bits at most.
    """
    u = (hashed.to(torch.float32) + 0.5) * 2.0**-32
    series = u * (1.0 + u * (0.5 + u * (1.0 / 3.0 + u * 0.25)))
    # u rounds to 1 in 1 of 2^25 cases; the clamp keeps the noise finite.
    return -torch.log(torch.where(u < 1.0 / 64.0, series, -torch.log((1.0 - u).clamp_min(2.0**-25))))
