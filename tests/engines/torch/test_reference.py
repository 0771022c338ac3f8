"""The PyTorch operations against the plainest way to say the same: loops, dense attention, torch's own functions."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from engines.torch.attention_cases import Case, cases, dense
from hypothesis import given
from hypothesis import strategies as st

from rakka_sim.engines.torch import ops, reference


@given(st.integers(1, 5), st.integers(1, 40), st.booleans(), st.integers(0, 99))
def test_rms_norm_is_torchs(tokens: int, hidden: int, with_residual: bool, seed: int) -> None:
    make = torch.Generator().manual_seed(seed)
    x, weight = torch.randn(tokens, hidden, generator=make), torch.randn(hidden, generator=make)
    residual = torch.randn(tokens, hidden, generator=make) if with_residual else None
    y, total = ops.rms_norm(x, weight, 1e-5, residual)
    expected = x if residual is None else x + residual
    assert torch.equal(total, expected)
    torch.testing.assert_close(y, F.rms_norm(expected, (hidden,), weight, 1e-5))


def test_rms_norm_rounds_the_sum_before_it_norms() -> None:
    x, residual = torch.randn(4, 64, dtype=torch.bfloat16), torch.randn(4, 64, dtype=torch.bfloat16)
    y, total = ops.rms_norm(x, torch.ones(64, dtype=torch.bfloat16), 1e-6, residual)
    assert y.dtype == total.dtype == torch.bfloat16
    assert torch.equal(total, x + residual)
    assert torch.equal(y, F.rms_norm(total.float(), (64,), None, 1e-6).bfloat16())


def test_silu_mul_is_torchs() -> None:
    gate, up = torch.randn(5, 24), torch.randn(5, 24)
    torch.testing.assert_close(ops.silu_mul(torch.cat([gate, up], 1)), F.silu(gate) * up)


# --- rotation and store -----------------------------------------------------------------------------------------


def _turned(head: torch.Tensor, position: int, norm: torch.Tensor | None) -> torch.Tensor:
    """One head's vector, as pairs (i, i + half) of complex numbers turned by position * 10000^(-i / half)."""
    if norm is not None:
        head = F.rms_norm(head, (len(head),), norm, 1e-6)
    half = len(head) // 2
    angles = position * 10_000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    pairs = torch.complex(head[:half].double(), head[half:].double()) * torch.exp(1j * angles)
    return torch.cat([pairs.real, pairs.imag]).float()


def table(positions: int, head_dim: int) -> torch.Tensor:
    inverse = 10_000.0 ** (-torch.arange(head_dim // 2, dtype=torch.float64) / (head_dim // 2))
    angles = torch.outer(torch.arange(positions, dtype=torch.float64), inverse)
    return torch.cat([angles.cos(), angles.sin()], 1).float()


@given(st.integers(0, 6), st.sampled_from([(1, 1), (4, 2), (7, 1)]), st.booleans(), st.integers(0, 99))
def test_rope_store_turns_each_head_and_keeps_what_has_a_slot(
    tokens: int, shape: tuple[int, int], normed: bool, seed: int
) -> None:
    (heads, kv_heads), dim, size = shape, 8, 4
    make = torch.Generator().manual_seed(seed)
    qkv = torch.randn(tokens, (heads + 2 * kv_heads) * dim, generator=make)
    positions = torch.randint(0, 50, (tokens,), generator=make, dtype=torch.int32)
    slots = torch.randperm(5 * size, generator=make)[:tokens]
    slots[torch.rand(tokens, generator=make) < 0.3] = -1
    norms = [torch.randn(dim, generator=make) for _ in range(2)] if normed else [None, None]
    k_pool, v_pool = torch.full((5, size, kv_heads, dim), 7.0), torch.full((5, size, kv_heads, dim), 8.0)
    kwargs = {"heads": heads, "kv_heads": kv_heads, "head_dim": dim, "q_norm": norms[0], "k_norm": norms[1]}
    q = ops.rope_store(qkv, positions, table(50, dim), slots, k_pool, v_pool, eps=1e-6, **kwargs)
    expected_k, expected_v = torch.full_like(k_pool, 7.0), torch.full_like(v_pool, 8.0)
    for token in range(tokens):
        split = qkv[token].view(-1, dim)
        at = int(positions[token])
        for head in range(heads):
            torch.testing.assert_close(q[token, head], _turned(split[head], at, norms[0]))
        if (slot := int(slots[token])) >= 0:
            for head in range(kv_heads):
                expected_k[slot // size, slot % size, head] = _turned(split[heads + head], at, norms[1])
                expected_v[slot // size, slot % size, head] = split[heads + kv_heads + head]
    torch.testing.assert_close(k_pool, expected_k)
    assert torch.equal(v_pool, expected_v)


# --- attention --------------------------------------------------------------------------------------------------


@given(cases())
def test_paged_attention_is_dense_attention(case: Case) -> None:
    torch.testing.assert_close(case.run(ops.paged_attention), dense(case), rtol=2e-5, atol=2e-5)


def test_a_long_prefill_goes_through_in_chunks() -> None:
    for window in (None, 70):
        case = Case.build([(2 * reference.QUERY_CHUNK + 5, 40)], kv_heads=1, group=2, window=window, seed=3)
        torch.testing.assert_close(case.run(ops.paged_attention), dense(case), rtol=2e-5, atol=2e-5)


def test_pools_may_be_views() -> None:
    case = Case.build([(1, 9), (3, 4)], kv_heads=2, group=2, seed=1)
    expected = case.run(ops.paged_attention)
    by_head = [pool.permute(0, 2, 1, 3).contiguous().permute(0, 2, 1, 3) for pool in (case.k_pool, case.v_pool)]
    case.k_pool, case.v_pool = by_head
    assert not case.k_pool.is_contiguous()
    torch.testing.assert_close(case.run(ops.paged_attention), expected)


@pytest.mark.parametrize("rows", [[], [(0, 0)], [(1, -1), (1, -1)]])
def test_padding_alone_gives_zeros(rows: list[tuple[int, int]]) -> None:
    out = Case.build(rows, kv_heads=1, group=1, seed=0).run(ops.paged_attention)
    assert not out.count_nonzero()


def test_dense_attention_by_hand() -> None:
    """Two tokens, one head, one dimension: the second query weighs both values by its scores' softmax."""
    case = Case.build([(2, 0)], kv_heads=1, group=1, head_dim=1, seed=5)
    out, (q, k, v) = case.run(ops.paged_attention), (case.q.flatten(), case.keys[0].flatten(), case.values[0].flatten())
    first, second = (math.exp(float(q[1] * k[i]) * case.scale) for i in range(2))
    expected = (first * float(v[0]) + second * float(v[1])) / (first + second)
    assert out.flatten().tolist() == pytest.approx([float(v[0]), expected], rel=1e-5)
