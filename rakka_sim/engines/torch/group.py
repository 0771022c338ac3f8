"""The ranks of one engine that share its layers (tensor parallelism), and what they say to each other; no policy.

Each rank holds a slice of every matrix: rows of those that read the hidden state, columns of those that write it. So a
layer needs two sums over ranks, and the vocabulary one more sum (embedding) and one collection (logits).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Group:
    """Rank `rank` of `size`; alone, it says nothing."""

    rank: int = 0
    size: int = 1

    def sum(self, partial: Tensor) -> Tensor:
        """The sum of every rank's `partial`, in its place."""
        if self.size > 1:
            dist.all_reduce(partial)
        return partial

    def join(self, shard: Tensor) -> Tensor:
        """Every rank's [rows, n] beside each other: [rows, size * n]."""
        if self.size == 1:
            return shard
        parts = [torch.empty_like(shard) for _ in range(self.size)]
        dist.all_gather(parts, shard.contiguous())
        return torch.cat(parts, dim=-1)

    def agree(self, word: int) -> int:
        """What the first rank says; the others' own words do not count."""
        if self.size == 1:
            return word
        said = torch.tensor([word])
        dist.broadcast(said, src=0)
        return int(said)


ALONE = Group()
