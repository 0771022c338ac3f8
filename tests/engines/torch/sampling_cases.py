"""Batches for the sampler. No test is here."""

from __future__ import annotations

import torch


def batch(rows: int, vocabulary: int, seed: int) -> tuple[torch.Tensor, ...]:
    """Logits with ties among them, and every kind of request: greedy, drawn, top-k, top-p, both."""
    make = torch.Generator().manual_seed(seed)
    logits = (torch.randn(rows, vocabulary, generator=make) * 3).mul(2).round().div(2)
    temperature = torch.rand(rows, generator=make) * 2 * (torch.rand(rows, generator=make) < 0.8)
    top_k = torch.randint(1, vocabulary + 3, (rows,), generator=make) * (torch.rand(rows, generator=make) < 0.5)
    top_p = torch.where(torch.rand(rows, generator=make) < 0.5, 1.0, torch.rand(rows, generator=make))
    seeds = torch.randint(-(2**63), 2**63 - 1, (rows,), generator=make)
    return logits, temperature, top_k.int(), top_p, seeds, torch.randint(0, 9_999, (rows,), generator=make)
