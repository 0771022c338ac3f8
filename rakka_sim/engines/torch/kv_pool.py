"""The memory behind the KV blocks. Which block is whose is `core.kv`'s business; here blocks are only numbers.

Page 0 is a dummy that no sequence owns, for rows that pad a batch: block b of `core.kv` is page b + 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

FIRST_PAGE = 1


class KvPool:
    """Keys and values of all layers in one tensor, [layers, 2, pages, block_size, kv_heads, head_dim]."""

    def __init__(
        self,
        layers: int,
        blocks: int,
        block_size: int,
        kv_heads: int,
        head_dim: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        shape = (layers, 2, blocks + FIRST_PAGE, block_size, kv_heads, head_dim)
        self.block_size = block_size
        self.memory = torch.zeros(shape, dtype=dtype, device=device)
        self.layers: list[tuple[Tensor, Tensor]] = [(layer[0], layer[1]) for layer in self.memory]
