"""The engine's operations in plain PyTorch: how they run on a CPU, and what the Triton kernels are held against.

Meant to be read. Arithmetic is float32 inside and the input's dtype at the edges, as in the kernels. Nothing here may
run inside a CUDA graph: shapes depend on data.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rakka_sim.engines.torch.gumbel import gumbel, hashes

BROKEN = -1  # stands for the token of a row whose logits are no numbers
QUERY_CHUNK = 256  # query tokens per attention call: bounds the mask's memory, and skips keys that no query may see


def rms_norm(x: Tensor, weight: Tensor, eps: float, residual: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(normalised, sum): x + residual, rounded to x's dtype, and its RMS norm over the last axis; [tokens, hidden]."""
    total = x if residual is None else x + residual
    return _normalised(total.float(), weight, eps).to(x.dtype), total


def _normalised(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight.float()


def silu_mul(gate_up: Tensor) -> Tensor:
    """silu(gate) * up of [tokens, 2 * width], gate first; [tokens, width]."""
    gate, up = gate_up.float().chunk(2, dim=-1)
    return (F.silu(gate) * up).to(gate_up.dtype)


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
    """Rotate queries and keys, store keys and values in the pools; the queries, [tokens, heads, head_dim].

    qkv: [tokens, (heads + 2 * kv_heads) * head_dim], query heads first, then keys, then values.
    positions: [tokens]. cos_sin: [max_position, head_dim], the cosines of the head_dim / 2 angles, then their sines.
    slots: [tokens], block * block_size + offset in the pools [blocks, block_size, kv_heads, head_dim]; -1: nowhere.
    q_norm, k_norm: [head_dim], an RMS norm of each head before it is rotated (Qwen3). Rotation pairs element i with
    element i + head_dim / 2 (NeoX style, as in Hugging Face's models).
    """
    q, k, v = qkv.view(-1, heads + 2 * kv_heads, head_dim).tensor_split((heads, heads + kv_heads), dim=1)
    cos, sin = cos_sin[positions.long()].float().unsqueeze(1).chunk(2, dim=-1)
    kept = slots >= 0
    block, offset = slots[kept].long() // k_pool.shape[1], slots[kept].long() % k_pool.shape[1]
    k_pool[block, offset] = _rotated(k, cos, sin, k_norm, eps)[kept].to(k_pool.dtype)
    v_pool[block, offset] = v[kept].to(v_pool.dtype)
    return _rotated(q, cos, sin, q_norm, eps).to(qkv.dtype)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, norm: Tensor | None, eps: float) -> Tensor:
    """In float32: each head normed if `norm` says so, then turned by its position's angles."""
    x = x.float() if norm is None else _normalised(x.float(), norm, eps)
    left, right = x.chunk(2, dim=-1)
    return torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1)


# --- attention --------------------------------------------------------------------------------------------------


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
    """Causal attention of packed queries over paged keys and values; [tokens, heads, head_dim], as `q`.

    Row r owns queries query_start[r] to query_start[r + 1], which are the last of its context_lens[r] tokens; all of
    those are in the pools [blocks, block_size, kv_heads, head_dim], at block_tables[r]. A query sees itself and what
    is before it, at most `window` tokens in all. `max_query` is an upper bound of the queries of a row. A row of
    context 0 is padding: its output is 0. Blocks and slots beyond a row's context are never looked at.
    """
    out = torch.zeros_like(q)
    lengths = query_start.diff()
    single = ((lengths == 1) & (context_lens > 0)).nonzero().squeeze(1)
    if len(single):
        queries = query_start[single].long()
        out[queries] = _decode(q[queries], k_pool, v_pool, block_tables[single], context_lens[single], scale, window)
    if max_query > 1:
        starts, contexts = query_start.tolist(), context_lens.tolist()
        for row in ((lengths > 1) & (context_lens > 0)).nonzero().squeeze(1).tolist():
            context, mine = contexts[row], slice(starts[row], starts[row + 1])
            k, v = (_gathered(pool, block_tables[row : row + 1], context)[0] for pool in (k_pool, v_pool))
            out[mine] = _extend(q[mine], k, v, scale, window)
    return out


def _gathered(pool: Tensor, tables: Tensor, tokens: int) -> Tensor:
    """[rows, kv_heads, tokens, head_dim]: the first `tokens` of each row, in order."""
    blocks = tables[:, : -(-tokens // pool.shape[1])].long()
    return pool[blocks].flatten(1, 2)[:, :tokens].transpose(1, 2)


def _decode(
    q: Tensor, k_pool: Tensor, v_pool: Tensor, tables: Tensor, contexts: Tensor, scale: float, window: int | None
) -> Tensor:
    """One query a row, all rows at once; [rows, heads, head_dim]."""
    size, longest = k_pool.shape[1], int(contexts.max())
    places = torch.arange(-(-longest // size) * size, device=q.device)
    seen = places < contexts[:, None]
    # Entries of a table beyond its context may hold anything.
    tables = tables[:, : len(places) // size].masked_fill(~seen[:, ::size], 0)
    if window is not None:
        seen &= places >= contexts[:, None] - window
    # So may slots that are not seen, NaN too, and 0 times NaN is NaN.
    k, v = (_gathered(pool, tables, len(places)).masked_fill(~seen[:, None, :, None], 0.0) for pool in (k_pool, v_pool))
    rows, heads, dim = q.shape
    # The query heads that share a KV head become its queries: keys and values need not be repeated.
    grouped = q.view(rows, k.shape[1], heads // k.shape[1], dim)
    return F.scaled_dot_product_attention(grouped, k, v, attn_mask=seen[:, None, None], scale=scale).reshape(q.shape)


def _extend(q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None) -> Tensor:
    """The last queries [queries, heads, head_dim] of one row, whose k and v are [kv_heads, context, head_dim]."""
    (queries, heads, dim), (kv_heads, context, _) = q.shape, k.shape
    out = torch.empty_like(q)
    for start in range(0, queries, QUERY_CHUNK):
        chunk = q[start : start + QUERY_CHUNK]
        first = context - queries + start
        end, begin = first + len(chunk), max(0, first + 1 - window) if window else 0
        at = torch.arange(first, end, device=q.device)[:, None]
        keys = torch.arange(begin, end, device=q.device)
        seen = keys <= at
        if window is not None:
            seen &= keys > at - window
        group = heads // kv_heads
        grouped = chunk.view(-1, kv_heads, group, dim).permute(1, 2, 0, 3).reshape(kv_heads, -1, dim)
        done = F.scaled_dot_product_attention(
            grouped, k[:, begin:end], v[:, begin:end], attn_mask=seen.repeat(group, 1), scale=scale
        )
        restored = done.view(kv_heads, group, -1, dim).permute(2, 0, 1, 3)
        out[start : start + QUERY_CHUNK] = restored.reshape(chunk.shape)
    return out


# --- sampling ---------------------------------------------------------------------------------------------------


def sample(
    logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, seeds: Tensor, positions: Tensor
) -> Tensor:
    """One token id a row, int64 [rows], of logits [rows, vocabulary]; everything else is [rows].

    temperature 0: the largest logit, the lowest id among equals. Otherwise the ids that `cuts` lets through are drawn
    with probabilities softmax(logits / temperature), by the largest logit / temperature + Gumbel noise. The noise is a
    function of (seed, position, id) alone: `positions` is the position that the new token will have. A row that has a
    logit which is not finite draws none: BROKEN.
    """
    logits = logits.float()
    broken = ~logits.isfinite().all(-1)
    logits = logits.masked_fill(broken[:, None], 0.0)
    drawn = (temperature > 0).nonzero().squeeze(1)
    ids = logits.argmax(-1)
    if len(drawn):
        scaled = logits[drawn] / temperature[drawn, None].float()
        noise = gumbel(hashes(seeds[drawn], positions[drawn], torch.arange(logits.shape[1], device=logits.device)))
        cut = cuts(logits[drawn], temperature[drawn], top_k[drawn], top_p[drawn])
        ids[drawn] = (scaled + noise).masked_fill(logits[drawn] < cut[:, None], float("-inf")).argmax(-1)
    return ids.masked_fill(broken, BROKEN)


def penalised(
    logits: Tensor, generated: Tensor, prompts: Tensor, repetition: Tensor, presence: Tensor, frequency: Tensor
) -> Tensor:
    """Logits [rows, vocabulary] with what is there already made less likely (or more); float32.

    generated: [rows, vocabulary], how often each id has been generated. prompts: whether it is in the prompt. The
    penalties [rows] are those of `values.Sampling`: repetition first, then presence and frequency.
    """
    logits, repetition = logits.float(), repetition[:, None]
    there = generated > 0
    repeated = torch.where(logits > 0, logits / repetition, logits * repetition)
    logits = torch.where(there | prompts, repeated, logits)
    return logits - presence[:, None] * there - frequency[:, None] * generated


def cuts(logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """[rows] float32: the smallest logit that may still be drawn, for temperature > 0.

    top_k (0: off) first: the k-th largest logit. top_p (1: off) then: of what is left, the largest logit such that it
    and all above it hold at least the share top_p of the probability. Logits equal to the cut are all let through.
    """
    vocabulary = logits.shape[1]
    cut = torch.full_like(temperature, float("-inf"), dtype=torch.float32)
    rows = (((top_k > 0) & (top_k < vocabulary)) | (top_p < 1)).nonzero().squeeze(1)
    if not len(rows):
        return cut
    ordered = logits[rows].float().sort(-1, descending=True).values
    last = torch.where(top_k[rows] > 0, top_k[rows], vocabulary).clamp(max=vocabulary).long()[:, None] - 1
    kth = ordered.gather(1, last)
    weights = (ordered / temperature[rows, None].float()).double().masked_fill(ordered < kth, float("-inf"))
    short = weights.softmax(-1).cumsum(-1) < top_p[rows, None].double()
    nucleus = ordered.gather(1, short.sum(-1, keepdim=True).clamp(max=vocabulary - 1))
    cut[rows] = torch.where(top_p[rows, None] < 1, nucleus.maximum(kth), kth).squeeze(1)
    return cut
