"""Per-head norm, rotation and the store into the KV pools, in one kernel: qkv is read once and written once."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit(do_not_specialize_on_alignment=["positions", "slots"])
def _rope_store(
    qkv, positions, cos_sin, slots, q_norm, k_norm, q_out, k_pool, v_pool, eps,
    stride_qkv, stride_cos, k_block, k_slot, k_head, k_dim, v_block, v_slot, v_head, v_dim,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HALF: tl.constexpr, PAGE: tl.constexpr, NORM: tl.constexpr,
    BLOCK_HEADS: tl.constexpr, BLOCK_HALF: tl.constexpr,
):  # fmt: skip
    """One program: some heads of one token; `left` and `right` are the halves of each, [BLOCK_HEADS, BLOCK_HALF].

    Query, key and value heads lie behind each other in qkv and are treated alike up to the stores: of each head, three
    masks say which one applies. Values are stored as they came, neither normed nor turned.
    """
    token = tl.program_id(0).to(tl.int64)
    head = (tl.program_id(1) * BLOCK_HEADS + tl.arange(0, BLOCK_HEADS))[:, None]
    i = tl.arange(0, BLOCK_HALF)[None, :]
    there = (head < HEADS + 2 * KV_HEADS) & (i < HALF)
    is_q, is_v = head < HEADS, head >= HEADS + KV_HEADS
    is_k = (head >= HEADS) & (head < HEADS + KV_HEADS)
    source = qkv + token * stride_qkv + head * (2 * HALF) + i
    left = tl.load(source, mask=there, other=0.0).to(tl.float32)
    right = tl.load(source + HALF, mask=there, other=0.0).to(tl.float32)
    angles = cos_sin + tl.load(positions + token).to(tl.int64) * stride_cos + i
    cos = tl.load(angles, mask=i < HALF, other=0.0).to(tl.float32)
    sin = tl.load(angles + HALF, mask=i < HALF, other=0.0).to(tl.float32)
    a, b = left, right
    if NORM:
        squares = tl.sum(left * left + right * right, 1)[:, None]
        scale = 1.0 / tl.sqrt(squares / (2 * HALF) + eps)
        a *= scale * _weight(q_norm, k_norm, is_q, i, HALF)
        b *= scale * _weight(q_norm + HALF, k_norm + HALF, is_q, i, HALF)
    turned_left, turned_right = a * cos - b * sin, b * cos + a * sin
    target = q_out + (token * HEADS + head) * (2 * HALF) + i
    tl.store(target, turned_left.to(q_out.dtype.element_ty), mask=there & is_q)
    tl.store(target + HALF, turned_right.to(q_out.dtype.element_ty), mask=there & is_q)
    slot = tl.load(slots + token).to(tl.int64)
    if slot >= 0:
        block, offset = slot // PAGE, slot % PAGE
        key = k_pool + block * k_block + offset * k_slot + (head - HEADS) * k_head + i * k_dim
        tl.store(key, turned_left.to(k_pool.dtype.element_ty), mask=there & is_k)
        tl.store(key + HALF * k_dim, turned_right.to(k_pool.dtype.element_ty), mask=there & is_k)
        value = v_pool + block * v_block + offset * v_slot + (head - HEADS - KV_HEADS) * v_head + i * v_dim
        tl.store(value, left.to(v_pool.dtype.element_ty), mask=there & is_v)
        tl.store(value + HALF * v_dim, right.to(v_pool.dtype.element_ty), mask=there & is_v)


@triton.jit
def _weight(q_norm, k_norm, is_q, i, HALF: tl.constexpr):
    """The norm's weights, by head: a program may hold query heads and key heads."""
    of_q = tl.load(q_norm + i, mask=i < HALF, other=0.0).to(tl.float32)
    of_k = tl.load(k_norm + i, mask=i < HALF, other=0.0).to(tl.float32)
    return tl.where(is_q, of_q, of_k)


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
    tokens = qkv.shape[0]
    out = torch.empty((tokens, heads, head_dim), dtype=qkv.dtype, device=qkv.device)
    half = head_dim // 2
    block_heads = 8
    if tokens:
        _rope_store[(tokens, triton.cdiv(heads + 2 * kv_heads, block_heads))](
            qkv, positions, cos_sin, slots,
            qkv if q_norm is None else q_norm, qkv if k_norm is None else k_norm, out, k_pool, v_pool, eps,
            qkv.stride(0), cos_sin.stride(0), *k_pool.stride(), *v_pool.stride(),
            HEADS=heads, KV_HEADS=kv_heads, HALF=half, PAGE=k_pool.shape[1], NORM=q_norm is not None,
            BLOCK_HEADS=block_heads, BLOCK_HALF=triton.next_power_of_2(half), num_warps=4,
        )  # fmt: skip
    return out
