"""What each rank does in the tests of tensor parallelism: a module of its own, for a spawned process to import."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from rakka_sim.engines.torch import weights
from rakka_sim.engines.torch.architecture import Architecture
from rakka_sim.engines.torch.group import Group
from rakka_sim.engines.torch.kv_pool import KvPool
from rakka_sim.engines.torch.model import Batch

BLOCK = 16


def compute(
    rank: int, size: int, store: str, folders: dict[str, Path], tokens: list[int], cut: int, answers: Any
) -> None:
    """Every model's logits of one prompt, computed in two chunks; put into `answers` by name, with the rank."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    for name, folder in folders.items():
        about = Architecture.of(json.loads((folder / "config.json").read_text()), name)
        decoder = weights.load(folder, about, 256, dtype="float32", group=Group(rank, size))
        pool = KvPool(about.spec.layers, 8, BLOCK, decoder.shard.kv_heads, decoder.shard.head_dim)
        parts = [decoder(_chunk(tokens, begin, end), pool) for begin, end in ((0, cut), (cut, len(tokens)))]
        answers.put((name, rank, torch.cat(parts).tolist()))
    dist.destroy_process_group()


def _chunk(tokens: list[int], begin: int, end: int) -> Batch:
    pages = torch.arange(1, -(-end // BLOCK) + 1, dtype=torch.int32)
    return Batch(
        tokens=torch.tensor(tokens[begin:end]),
        positions=torch.arange(begin, end),
        slots=torch.arange(begin, end) + BLOCK,
        block_tables=pages[None],
        query_start=torch.tensor([0, end - begin], dtype=torch.int32),
        context_lens=torch.tensor([end], dtype=torch.int32),
        sampled=None,
        max_query=end - begin,
    )
