"""The decoder: token ids in, logits out. Llama, Mistral, Mixtral, Qwen2, Qwen3 and Qwen3-MoE are one class, which an
`Architecture` tells apart: read `architecture.py` beside it.

A step's sequences lie packed one behind the other, [tokens, hidden], whatever each of them computes: a prompt, a chunk
of one, a single token. Only attention asks which token is whose. Shapes below leave tensor parallelism out: with it,
each rank has its share of the heads, of the feed-forward width and of the vocabulary (`group`). Where weights come from
is in `weights`; what the operations do, in `reference`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rakka_sim.engines.torch import ops
from rakka_sim.engines.torch.angles import rotations
from rakka_sim.engines.torch.architecture import Architecture
from rakka_sim.engines.torch.group import ALONE, Group
from rakka_sim.engines.torch.kv_pool import KvPool
from rakka_sim.engines.torch.rope import DynamicScaling
from rakka_sim.errors import NotBuilt


@dataclass(slots=True)
class Batch:
    """The inputs of one step.

    tokens, positions, slots: [tokens]; a slot is where a token's key and value go (`reference.rope_store`).
    block_tables [rows, blocks], query_start [rows + 1], context_lens [rows]: see `reference.paged_attention`.
    sampled: [n], the packed places whose logits are wanted (None: all). max_query: the most tokens that a row computes.
    """

    tokens: Tensor
    positions: Tensor
    slots: Tensor
    block_tables: Tensor
    query_start: Tensor
    context_lens: Tensor
    sampled: Tensor | None
    max_query: int


@dataclass(frozen=True, slots=True)
class Shard:
    """One rank's share of a decoder's widths."""

    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    expert_intermediate: int
    vocab: int  # rounded up, so that every rank has as many rows

    @classmethod
    def of(cls, architecture: Architecture, size: int) -> Shard:
        """Raises InputError unless the heads divide by `size`."""
        spec = architecture.spec
        spec.check_tp(size)
        return cls(
            heads=spec.heads // size,
            kv_heads=max(1, spec.kv_heads // size),  # copied where there are fewer of them than ranks
            head_dim=spec.head_dim,
            intermediate=-(-spec.intermediate // size),
            expert_intermediate=-(-spec.expert_intermediate // size),
            vocab=-(-spec.vocab // size),
        )


def _parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(*shape), requires_grad=False)


class Linear(nn.Module):
    """x W^T + b."""

    def __init__(self, inputs: int, outputs: int, bias: bool = False) -> None:
        super().__init__()
        self.weight = _parameter(outputs, inputs)
        self.bias = _parameter(outputs) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class Attention(nn.Module):
    """Queries, keys and values in one matrix; rotate, store, attend, project.

    What is stored includes this step's own keys and values, so attention reads everything from the pools.
    """

    def __init__(self, architecture: Architecture, shard: Shard, group: Group, window: int | None) -> None:
        super().__init__()
        hidden, dim = architecture.spec.hidden, shard.head_dim
        self.shard, self.group, self.eps = shard, group, architecture.norm_eps
        self.window = window
        self.scale = 1.0 / math.sqrt(dim)
        self.qkv = Linear(hidden, (shard.heads + 2 * shard.kv_heads) * dim, architecture.qkv_bias)
        # A bias is added once, not once a rank.
        self.out = Linear(shard.heads * dim, hidden, architecture.out_bias and group.rank == 0)
        self.q_norm = _parameter(dim) if architecture.spec.qk_norm else None
        self.k_norm = _parameter(dim) if architecture.spec.qk_norm else None

    def forward(self, x: Tensor, batch: Batch, cos_sin: Tensor, k_pool: Tensor, v_pool: Tensor) -> Tensor:
        q = ops.rope_store(
            self.qkv(x),
            batch.positions,
            cos_sin,
            batch.slots,
            k_pool,
            v_pool,
            heads=self.shard.heads,
            kv_heads=self.shard.kv_heads,
            head_dim=self.shard.head_dim,
            q_norm=self.q_norm,
            k_norm=self.k_norm,
            eps=self.eps,
        )
        attended = ops.paged_attention(
            q,
            k_pool,
            v_pool,
            batch.block_tables,
            batch.query_start,
            batch.context_lens,
            scale=self.scale,
            window=self.window,
            max_query=batch.max_query,
        )
        return self.group.sum(self.out(attended.flatten(1)))


class Mlp(nn.Module):
    """down(silu(gate x) * up x), gate and up in one matrix."""

    def __init__(self, hidden: int, width: int, bias: bool, group: Group) -> None:
        super().__init__()
        self.group = group
        self.gate_up = Linear(hidden, 2 * width, bias)
        self.down = Linear(width, hidden, bias and group.rank == 0)

    def forward(self, x: Tensor) -> Tensor:
        return self.group.sum(self.down(ops.silu_mul(self.gate_up(x))))


class Experts(nn.Module):
    """A mixture of experts: each token goes through its best few, weighted by the router's softmax over all of them.

    gate_up: [experts, 2 * width, hidden], down: [experts, hidden, width]. With tensor parallelism every rank has a part
    of every expert, so all route alike.
    """

    def __init__(self, architecture: Architecture, width: int, group: Group) -> None:
        super().__init__()
        spec = architecture.spec
        self.group, self.chosen, self.normalise = group, spec.experts_per_token, architecture.norm_topk_prob
        self.router = Linear(spec.hidden, spec.experts)
        self.gate_up = _parameter(spec.experts, 2 * width, spec.hidden)
        self.down = _parameter(spec.experts, spec.hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        weights, experts = torch.softmax(self.router(x).float(), dim=-1).topk(self.chosen, dim=-1)
        if self.normalise:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        weights, out = weights.to(x.dtype), torch.zeros_like(x)
        # Expert by expert over the tokens that chose it: [tokens, chosen] is searched for each.
        for expert in torch.unique(experts).tolist():
            token, place = torch.where(experts == expert)
            done = F.linear(ops.silu_mul(F.linear(x[token], self.gate_up[expert])), self.down[expert])
            out.index_add_(0, token, done * weights[token, place, None])
        return self.group.sum(out)


class Layer(nn.Module):
    """Attention, then feed-forward, each behind a norm. What is added up on the way is `residual`."""

    def __init__(
        self, architecture: Architecture, shard: Shard, group: Group, sparse: bool, window: int | None
    ) -> None:
        super().__init__()
        spec = architecture.spec
        self.eps = architecture.norm_eps
        self.input_norm = _parameter(spec.hidden)
        self.attention = Attention(architecture, shard, group, window)
        self.post_norm = _parameter(spec.hidden)
        self.mlp: nn.Module = (
            Experts(architecture, shard.expert_intermediate, group)
            if sparse
            else Mlp(spec.hidden, shard.intermediate, spec.mlp_bias, group)
        )

    def forward(
        self, x: Tensor, residual: Tensor | None, batch: Batch, cos_sin: Tensor, k_pool: Tensor, v_pool: Tensor
    ) -> tuple[Tensor, Tensor]:
        x, residual = ops.rms_norm(x, self.input_norm, self.eps, residual)
        x = self.attention(x, batch, cos_sin, k_pool, v_pool)
        x, residual = ops.rms_norm(x, self.post_norm, self.eps, residual)
        return self.mlp(x), residual


class Decoder(nn.Module):
    """Embedding, layers, norm, head. Built empty (`weights` fills it), on the device and in the dtype of the moment."""

    cos_sin: Tensor

    def __init__(self, architecture: Architecture, max_positions: int, group: Group = ALONE) -> None:
        super().__init__()
        spec, scaling = architecture.spec, architecture.rope_scaling
        if isinstance(scaling, DynamicScaling) and max_positions > spec.max_position_embeddings:
            built = f"built: up to its trained context, {spec.max_position_embeddings} tokens"
            raise NotBuilt(f"dynamic rope scaling of {spec.name} for {max_positions} tokens", built)
        self.architecture, self.group = architecture, group
        self.shard = Shard.of(architecture, group.size)
        self.embedding = _parameter(self.shard.vocab, spec.hidden)
        kinds = zip(architecture.sparse, architecture.windows, strict=True)
        self.layers = nn.ModuleList(Layer(architecture, self.shard, group, *kind) for kind in kinds)
        self.norm = _parameter(spec.hidden)
        self.head = self.embedding if spec.tied_embeddings else _parameter(self.shard.vocab, spec.hidden)
        self.max_positions = max_positions
        self.register_buffer("cos_sin", torch.empty(max_positions, spec.head_dim, dtype=torch.float32))

    def set_angles(self) -> None:
        """Fill the table of rotations; like a weight, it has no value before."""
        spec = self.architecture.spec
        table = rotations(
            self.max_positions, spec.head_dim, self.architecture.rope_theta, self.architecture.rope_scaling
        )
        self.cos_sin.copy_(table)

    @torch.inference_mode()
    def forward(self, batch: Batch, pool: KvPool) -> Tensor:
        """Logits [sampled, vocab]; every token's key and value are in `pool` afterwards."""
        x, residual = self._embed(batch.tokens), None
        for layer, (k_pool, v_pool) in zip(self.layers, pool.layers, strict=True):
            x, residual = layer(x, residual, batch, self.cos_sin, k_pool, v_pool)
        if batch.sampled is not None and residual is not None:
            x, residual = x[batch.sampled], residual[batch.sampled]
        x, _ = ops.rms_norm(x, self.norm, self.architecture.norm_eps, residual)
        return self.group.join(F.linear(x, self.head))[:, : self.architecture.spec.vocab]

    def _embed(self, tokens: Tensor) -> Tensor:
        if self.group.size == 1:
            return F.embedding(tokens, self.embedding)
        mine = tokens - self.group.rank * self.shard.vocab
        others = (mine < 0) | (mine >= self.shard.vocab)
        return self.group.sum(F.embedding(mine.masked_fill(others, 0), self.embedding).masked_fill(others[:, None], 0))
