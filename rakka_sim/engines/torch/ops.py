"""The operations of a decoder step; where the tensors are decides which implementation runs. No arithmetic here.

CUDA tensors go to the Triton kernels, all others to `reference`, whose docstrings say what each operation means. Both
write into nothing but the pools of `rope_store`.
"""

from __future__ import annotations

from types import ModuleType

from torch import Tensor

from rakka_sim.engines.torch import reference
from rakka_sim.errors import NotBuilt


def _for(tensor: Tensor) -> ModuleType:
    if not tensor.is_cuda:
        return reference
    try:
        from rakka_sim.engines.torch import kernels
    except ModuleNotFoundError as missing:
        raise NotBuilt("the engine on CUDA without Triton", "install triton, or run on the CPU") from missing
    return kernels


def rms_norm(x: Tensor, weight: Tensor, eps: float, residual: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(norm of x + residual, x + residual), [tokens, hidden] each."""
    done: tuple[Tensor, Tensor] = _for(x).rms_norm(x, weight, eps, residual)
    return done


def silu_mul(gate_up: Tensor) -> Tensor:
    """silu(gate) * up of [tokens, 2 * width]; [tokens, width]."""
    done: Tensor = _for(gate_up).silu_mul(gate_up)
    return done


def rope_store(
    qkv: Tensor,
    positions: Tensor,
    cos_sin: Tensor,
    slots: Tensor,
    k_pool: Tensor,
    v_pool: Tensor,
    *,
    heads: int,
    kv_heads: int,
    head_dim: int,
    q_norm: Tensor | None = None,
    k_norm: Tensor | None = None,
    eps: float = 1e-6,
) -> Tensor:
    """Rotate, store keys and values at `slots` (-1: nowhere); the queries, [tokens, heads, head_dim]."""
    shape = {"heads": heads, "kv_heads": kv_heads, "head_dim": head_dim}
    norms = {"q_norm": q_norm, "k_norm": k_norm, "eps": eps}
    done: Tensor = _for(qkv).rope_store(qkv, positions, cos_sin, slots, k_pool, v_pool, **shape, **norms)
    return done


def paged_attention(
    q: Tensor,
    k_pool: Tensor,
    v_pool: Tensor,
    block_tables: Tensor,
    query_start: Tensor,
    context_lens: Tensor,
    *,
    scale: float,
    window: int | None = None,
    max_query: int,
) -> Tensor:
    """Causal attention of packed queries over the pools; [tokens, heads, head_dim], 0 where a row has no context."""
    rows = (block_tables, query_start, context_lens)
    done: Tensor = _for(q).paged_attention(q, k_pool, v_pool, *rows, scale=scale, window=window, max_query=max_query)
    return done


def sample(
    logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, seeds: Tensor, positions: Tensor
) -> Tensor:
    """One token id a row, int64 [rows], of logits [rows, vocabulary]: greedy at temperature 0, else drawn.
    BROKEN for a row with a logit that is not finite."""
    done: Tensor = _for(logits).sample(logits, temperature, top_k, top_p, seeds, positions)
    return done
