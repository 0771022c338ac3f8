"""Paged attention in Triton: one kernel for decode, prefill and any mixture, and a small one that joins split contexts.

A program takes a block of one row's queries, together with all query heads that share its KV head: keys and values are
read once for the group, and a decode step has enough rows for the tensor cores. `Tiling` says how large the pieces are;
it never changes what is computed, only the rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

LOG2_E = 1.4426950408889634  # scores are in powers of two, which the device is quicker at


@dataclass(frozen=True, slots=True)
class Tiling:
    """How one launch is cut up.

    block_m: rows of a program, query tokens times heads that share a KV head; 16 at least, a power of two.
    tile: keys of one turn of the inner loop. segments: programs that share one context. warps, stages: Triton's.
    """

    block_m: int
    tile: int
    segments: int
    warps: int
    stages: int


@cache
def _multiprocessors(device: torch.device) -> int:
    """The device's; an H100's where there is none."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 132


def tiling(q: Tensor, rows: int, kv_heads: int, max_query: int) -> Tiling:
    """A fair choice, from what a CUDA graph holds fixed: padded batch and shapes, never contexts.

    Decode: a context is split until there are two to four programs a multiprocessor. Five stages, because loads through
    a block table use up some of Triton's pipeline: with three or four there is one buffer for keys and values, not two.
    """
    group = q.shape[1] // kv_heads
    least = max(16, triton.next_power_of_2(group))
    wide = q.shape[2] * q.element_size() > 256
    tile = 32 if wide else 64
    if max_query <= 1:
        wanted = 2 * _multiprocessors(q.device) // max(1, rows * kv_heads)
        return Tiling(least, tile, segments=min(32, triton.next_power_of_2(max(1, wanted))), warps=4, stages=5)
    if q.dtype == torch.float32:  # no tensor core multiplies it exactly; a larger block would not fit into registers
        return Tiling(least, tile, segments=1, warps=4, stages=2)
    large = not wide and max_query * group > 64
    return Tiling(max(least, 128 if large else 64), tile, segments=1, warps=8 if large else 4, stages=3)


@triton.jit
def _row_of(query_start, block, rows, BLOCK_Q: tl.constexpr):
    """The row that `block` is of: the blocks of row r begin at query_start[r] // BLOCK_Q + r.

    So the grid's size follows from the numbers of tokens and rows alone, which a graph holds fixed, and each row has at
    least as many blocks as its queries need; a block beyond them ends at once.
    """
    low, high = tl.full((), 0, tl.int32), rows
    while high - low > 1:
        middle = (low + high) // 2
        if tl.load(query_start + middle) // BLOCK_Q + middle <= block:
            low = middle
        else:
            high = middle
    return low


@triton.jit
def _attend(
    q, k, v, table, begin, end, at, scale,
    k_block, k_slot, k_dim, v_block, v_slot, v_dim,
    HEAD_DIM: tl.constexpr, DIM: tl.constexpr, BLOCK_M: tl.constexpr, TILE: tl.constexpr, PAGE: tl.constexpr,
    WINDOW: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Online softmax over keys begin to end: (weighted values, largest score, sum of weights) of each query row.

    Weights are relative to the largest score so far. When a tile brings a larger one, what has been added up shrinks by
    the difference; so scores are never all held, and no weight exceeds 1. `at`: the position of each query row.
    """
    d = tl.arange(0, DIM)
    acc = tl.zeros((BLOCK_M, DIM), tl.float32)
    largest = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    for start in range(begin, end, TILE):
        n = start + tl.arange(0, TILE)
        there = n < end
        # A pool may hold more than 2^31 elements.
        block = tl.load(table + n // PAGE, mask=there, other=0).to(tl.int64)
        keys = k + (block * k_block + (n % PAGE) * k_slot)[None, :] + d[:, None] * k_dim
        key = tl.load(keys, mask=there[None, :] & (d[:, None] < HEAD_DIM), other=0.0)
        score = tl.dot(q, key, input_precision=PRECISION) * scale
        seen = there[None, :] & (n[None, :] <= at[:, None])
        if WINDOW > 0:
            seen &= n[None, :] > at[:, None] - WINDOW
        score = tl.where(seen, score, float("-inf"))
        higher = tl.maximum(largest, tl.max(score, 1))
        # Where nothing has been seen yet, -inf less -inf would be NaN.
        base = tl.where(higher == float("-inf"), 0.0, higher)
        weight = tl.exp2(score - base[:, None])
        shrink = tl.exp2(largest - base)
        total = total * shrink + tl.sum(weight, 1)
        values = v + (block * v_block + (n % PAGE) * v_slot)[:, None] + d[None, :] * v_dim
        value = tl.load(values, mask=there[:, None] & (d[None, :] < HEAD_DIM), other=0.0)
        acc = tl.dot(weight.to(value.dtype), value, acc * shrink[:, None], input_precision=PRECISION)
        largest = higher
    return acc, largest, total


# What differs from step to step is not compiled in: a new build would cost a second in the middle of serving.
@triton.jit(
    do_not_specialize=["rows", "table_row"],
    do_not_specialize_on_alignment=["tables", "query_start", "context_lens"],
)
def _attention(
    q, k_pool, v_pool, out, part, part_largest, part_total, tables, query_start, context_lens, rows, scale,
    q_token, q_head, table_row, k_block, k_slot, k_head, k_dim, v_block, v_slot, v_head, v_dim,
    HEADS: tl.constexpr, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, DIM: tl.constexpr, BLOCK_M: tl.constexpr,
    TILE: tl.constexpr, PAGE: tl.constexpr, WINDOW: tl.constexpr, SEGMENTS: tl.constexpr, SINGLE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """One program: a block of queries of one row, one KV head, one segment of the context. SINGLE: one query a row."""
    block, kv_head, segment = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    BLOCK_Q: tl.constexpr = BLOCK_M // GROUP
    row = block if SINGLE else _row_of(query_start, block, rows, BLOCK_Q)
    begin_q = tl.load(query_start + row)
    first = 0 if SINGLE else (block - (begin_q // BLOCK_Q + row)) * BLOCK_Q
    length = tl.load(query_start + row + 1) - begin_q
    if first >= length:
        return
    before = tl.load(context_lens + row) - length  # tokens of the row that have no query in this step
    # Line m of the program is query first + m // GROUP, and of the heads that share the KV head the m % GROUP-th.
    m, d = tl.arange(0, BLOCK_M), tl.arange(0, DIM)
    query, head = first + m // GROUP, kv_head * GROUP + m % GROUP
    mine = (m < BLOCK_Q * GROUP) & (query < length)
    token = (begin_q + query).to(tl.int64)
    cell = mine[:, None] & (d[None, :] < HEAD_DIM)
    queries = tl.load(q + (token * q_token + head * q_head)[:, None] + d[None, :], mask=cell, other=0.0)
    begin = tl.maximum(0, before + first - WINDOW + 1) if WINDOW > 0 else 0
    end = before + tl.minimum(length, first + BLOCK_Q)
    if SEGMENTS > 1:
        span = tl.cdiv(tl.cdiv(end - begin, SEGMENTS), TILE) * TILE
        begin += segment * span
        end = tl.minimum(end, begin + span)
    acc, largest, total = _attend(
        queries, k_pool + kv_head * k_head, v_pool + kv_head * v_head, tables + row.to(tl.int64) * table_row,
        begin, end, before + query, scale, k_block, k_slot, k_dim, v_block, v_slot, v_dim,
        HEAD_DIM, DIM, BLOCK_M, TILE, PAGE, WINDOW, PRECISION,
    )  # fmt: skip
    place = token * HEADS + head
    if SEGMENTS > 1:
        place = place * SEGMENTS + segment
        tl.store(part_largest + place, largest, mask=mine)
        tl.store(part_total + place, total, mask=mine)
        tl.store(part + place[:, None] * HEAD_DIM + d[None, :], acc, mask=cell & (largest > float("-inf"))[:, None])
    else:
        acc /= tl.where(total > 0.0, total, 1.0)[:, None]
        tl.store(out + place[:, None] * HEAD_DIM + d[None, :], acc.to(out.dtype.element_ty), mask=cell)


@triton.jit
def _join(part, part_largest, part_total, out, SEGMENTS: tl.constexpr, HEAD_DIM: tl.constexpr, DIM: tl.constexpr):
    """One program a query head: its segments' softmaxes, each relative to its own largest score, made one."""
    place = tl.program_id(0).to(tl.int64) * SEGMENTS + tl.arange(0, SEGMENTS)
    d = tl.arange(0, DIM)
    largest = tl.load(part_largest + place)
    there = largest > float("-inf")
    highest = tl.max(largest, 0)
    weight = tl.where(there, tl.exp2(largest - highest), 0.0)
    total = tl.sum(tl.load(part_total + place) * weight, 0)
    cell = there[:, None] & (d[None, :] < HEAD_DIM)
    parts = tl.load(part + place[:, None] * HEAD_DIM + d[None, :], mask=cell, other=0.0)
    joined = tl.sum(parts * weight[:, None], 0) / tl.where(total > 0.0, total, 1.0)
    tl.store(out + tl.program_id(0).to(tl.int64) * HEAD_DIM + d, joined.to(out.dtype.element_ty), mask=d < HEAD_DIM)


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
    cut: Tiling | None = None,
) -> Tensor:
    """Causal attention of packed queries over the pools; [tokens, heads, head_dim], 0 where a row has no context."""
    (tokens, heads, head_dim), rows, kv_heads = q.shape, len(context_lens), k_pool.shape[2]
    cut, single = cut or tiling(q, rows, kv_heads, max_query), max_query <= 1
    group, dim, segments = heads // kv_heads, max(16, triton.next_power_of_2(head_dim)), cut.segments
    out = torch.empty((tokens, heads, head_dim), dtype=q.dtype, device=q.device)
    parts = [out, out, out]
    if segments > 1:
        shapes = ((tokens, heads, segments, head_dim), (tokens, heads, segments), (tokens, heads, segments))
        parts = [torch.empty(shape, dtype=torch.float32, device=q.device) for shape in shapes]
    blocks = rows if single else tokens // (cut.block_m // group) + rows
    if tokens:
        _attention[(blocks, kv_heads, segments)](
            q, k_pool, v_pool, out, *parts, block_tables, query_start, context_lens, rows, scale * LOG2_E,
            q.stride(0), q.stride(1), block_tables.stride(0), *k_pool.stride(), *v_pool.stride(),
            HEADS=heads, GROUP=group, HEAD_DIM=head_dim, DIM=dim, BLOCK_M=cut.block_m, TILE=cut.tile,
            PAGE=k_pool.shape[1], WINDOW=window or 0, SEGMENTS=segments, SINGLE=single,
            PRECISION="ieee" if q.dtype == torch.float32 else "tf32",
            num_warps=cut.warps, num_stages=cut.stages,
        )  # fmt: skip
        if segments > 1:
            _join[(tokens * heads,)](*parts, out, SEGMENTS=segments, HEAD_DIM=head_dim, DIM=dim, num_warps=4)
    return out
