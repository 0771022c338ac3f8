"""Each Triton kernel, interpreted on the CPU, against the PyTorch operation of the same name."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from engines.torch.attention_cases import Case, cases
from engines.torch.interpreter import Interpreter, interpreter
from engines.torch.sampling_cases import batch
from hypothesis import given, settings
from hypothesis import strategies as st

from rakka_sim.engines.torch import reference

attention = pytest.importorskip(
    "rakka_sim.engines.torch.kernels.attention", reason="Triton is not installed: it is for Linux alone"
)


@pytest.fixture(scope="module")
def kernels() -> Iterator[Interpreter]:
    with interpreter() as made:
        yield made


def by_head(pool: torch.Tensor) -> torch.Tensor:
    """The same pool, laid out [blocks, kv_heads, block_size, head_dim] in memory."""
    return pool.transpose(1, 2).contiguous().transpose(1, 2)


# --- attention --------------------------------------------------------------------------------------------------


@st.composite
def cut_cases(draw: st.DrawFn) -> tuple[Case, object]:
    """A batch, and a way to cut it up: tiles smaller and larger than a block, contexts split and whole."""
    case, segments = draw(cases(most_rows=3)), draw(st.sampled_from([1, 1, 2, 4]))
    return case, attention.Tiling(16, draw(st.sampled_from([16, 32])), segments, warps=4, stages=3)


@settings(max_examples=25)
@given(case=cut_cases())
def test_attention(kernels: Interpreter, case: tuple[Case, object]) -> None:
    batch, cut = case
    found = batch.run(kernels.kernel("paged_attention"), cut=cut)
    torch.testing.assert_close(found, batch.run(reference.paged_attention))


@pytest.mark.parametrize(
    ("rows", "shape"),
    [
        ([(1, 200), (1, -1), (1, 0)], {"kv_heads": 1, "group": 4, "block_size": 16}),
        ([(1, 200), (1, 15)], {"kv_heads": 1, "group": 7, "block_size": 16, "window": 40}),
        ([(30, 100), (1, 17), (0, 0), (40, 0)], {"kv_heads": 1, "group": 4, "block_size": 16, "head_dim": 32}),
        ([(5, 3), (1, 9)], {"kv_heads": 2, "group": 1, "block_size": 32, "head_dim": 24}),
        ([(1, 40), (3, 9)], {"kv_heads": 1, "group": 20, "block_size": 16}),
    ],
    ids=["decode", "decode in a window", "mixed", "a head that is no power of two", "more heads than 16 to a KV head"],
)
def test_attention_as_it_is_cut_by_default(kernels: Interpreter, rows: list[tuple[int, int]], shape: dict) -> None:
    # float16 stands for both 16-bit types: Triton's interpreter cannot multiply matrices of bfloat16.
    for dtype in (torch.float32, torch.float16):
        case = Case.build(rows, **shape, dtype=dtype, seed=1)
        found, expected = case.run(kernels.kernel("paged_attention")), case.run(reference.paged_attention)
        torch.testing.assert_close(found, expected, **({} if dtype == torch.float32 else {"rtol": 2e-3, "atol": 2e-3}))


@pytest.mark.parametrize("segments", [2, 4, 16])
def test_attention_over_segments_of_many_tiles(kernels: Interpreter, segments: int) -> None:
    case = Case.build([(1, 199), (1, 2), (3, 96)], kv_heads=1, group=4, window=170, seed=2)
    found = case.run(kernels.kernel("paged_attention"), cut=attention.Tiling(16, 16, segments, warps=4, stages=3))
    torch.testing.assert_close(found, case.run(reference.paged_attention))


def test_attention_reads_views(kernels: Interpreter) -> None:
    """Pools laid out head by head, and queries inside a wider tensor."""
    case = Case.build([(1, 9), (3, 4)], kv_heads=2, group=2, seed=1)
    expected = case.run(reference.paged_attention)
    case.k_pool, case.v_pool = (by_head(case.k_pool), by_head(case.v_pool))
    case.q = torch.cat([case.q, case.q], 2)[:, :, : case.q.shape[2]]
    assert not case.q.is_contiguous()
    torch.testing.assert_close(case.run(kernels.kernel("paged_attention")), expected)


# --- the others -------------------------------------------------------------------------------------------------


@given(
    tokens=st.integers(0, 3),
    hidden=st.integers(1, 70),
    added=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 99),
)
def test_rms_norm(kernels: Interpreter, tokens: int, hidden: int, added: bool, dtype: torch.dtype, seed: int) -> None:
    make = torch.Generator().manual_seed(seed)
    both = torch.randn(tokens, 2 * hidden, generator=make).to(dtype)
    x, residual = both[:, :hidden], both[:, hidden:] if added else None
    arguments = (x, torch.randn(hidden, generator=make).to(dtype), 1e-5, residual)
    torch.testing.assert_close(kernels.kernel("rms_norm")(*arguments), reference.rms_norm(*arguments))


@given(tokens=st.integers(0, 3), width=st.integers(1, 70), dtype=st.sampled_from([torch.float32, torch.bfloat16]))
def test_silu_mul(kernels: Interpreter, tokens: int, width: int, dtype: torch.dtype) -> None:
    gate_up = (torch.randn(tokens, 2 * width, generator=torch.Generator().manual_seed(width)) * 4).to(dtype)
    torch.testing.assert_close(kernels.kernel("silu_mul")(gate_up), reference.silu_mul(gate_up))


@given(
    tokens=st.integers(0, 4),
    shape=st.sampled_from([(1, 1, 8), (4, 2, 8), (7, 1, 12), (8, 8, 2), (16, 2, 16)]),
    normed=st.booleans(),
    head_first=st.booleans(),
    seed=st.integers(0, 99),
)
def test_rope_store(
    kernels: Interpreter, tokens: int, shape: tuple[int, int, int], normed: bool, head_first: bool, seed: int
) -> None:
    (heads, kv_heads, dim), size, make = shape, 4, torch.Generator().manual_seed(seed)
    qkv = torch.randn(tokens, (heads + 2 * kv_heads) * dim, generator=make)
    positions = torch.randint(0, 30, (tokens,), generator=make, dtype=torch.int32)
    slots = torch.randperm(3 * size, generator=make)[:tokens]
    slots[torch.rand(tokens, generator=make) < 0.3] = -1
    norms = [torch.randn(dim, generator=make) for _ in range(2)] if normed else [None, None]
    pools = [torch.full((3, size, kv_heads, dim), 7.0) for _ in range(2)]
    if head_first:
        pools = [by_head(pool) for pool in pools]
    arguments = (qkv, positions, torch.randn(30, dim, generator=make), slots, *pools)
    shape_of = {"heads": heads, "kv_heads": kv_heads, "head_dim": dim}
    options = {**shape_of, "q_norm": norms[0], "k_norm": norms[1], "eps": 1e-5}
    found, left = kernels.call("rope_store", *arguments, **options)
    torch.testing.assert_close(found, reference.rope_store(*arguments, **options))
    torch.testing.assert_close(left[4:], arguments[4:])


# --- sampling ---------------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(rows=st.integers(1, 4), vocabulary=st.integers(1, 60), seed=st.integers(0, 2**16))
def test_sample(kernels: Interpreter, rows: int, vocabulary: int, seed: int) -> None:
    arguments = batch(rows, vocabulary, seed)
    assert torch.equal(kernels.kernel("sample")(*arguments), reference.sample(*arguments))


def test_the_narrowest_cuts_leave_the_largest_logit(kernels: Interpreter) -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(1))
    ones, seeds = torch.ones(3), torch.arange(3)
    ids = kernels.kernel("sample")(logits, ones, torch.tensor([1, 0, 1]), torch.tensor([1.0, 0.0, 0.5]), seeds, seeds)
    assert torch.equal(ids, logits.argmax(1))


def test_sample_over_many_chunks(kernels: Interpreter) -> None:
    """More ids than a program holds, bfloat16 logits that are views, and ties across the chunks."""
    logits, *rest = batch(6, 10_000, 5)
    logits = torch.cat([logits, logits], 1).bfloat16()[:, :10_000]
    assert torch.equal(kernels.kernel("sample")(logits, *rest), reference.sample(logits, *rest))
    flat = torch.zeros(2, 10_000)
    greedy = (torch.zeros(2), torch.zeros(2).int(), torch.ones(2), torch.zeros(2).long(), torch.zeros(2).long())
    assert kernels.kernel("sample")(flat, *greedy).tolist() == [0, 0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_cuts_of_16_bit_logits(kernels: Interpreter, dtype: torch.dtype) -> None:
    """Their keys are shorter: of every sign and size, ties among them, and cuts that fall on each."""
    logits, temperature, top_k, top_p, seeds, positions = batch(24, 300, 9)
    logits = (logits * torch.tensor([1e-6, 1e-2, 1.0, 30.0]).repeat(6)[:, None]).to(dtype)
    arguments = (logits, temperature.clamp_min(0.1), top_k, top_p, seeds, positions)
    assert torch.equal(kernels.kernel("sample")(*arguments), reference.sample(*arguments))


@pytest.mark.parametrize("wrong", [float("nan"), float("-inf"), float("inf")])
def test_a_row_with_a_logit_that_is_no_number_draws_none(kernels: Interpreter, wrong: float) -> None:
    """In any chunk of the vocabulary, in greedy and in drawn rows, beside rows that are sound."""
    arguments = batch(6, 9_000, 1)
    arguments[1][:2] = 0.0
    sound = reference.sample(*arguments)
    arguments[0][0, 0] = arguments[0][2, 4_096] = arguments[0][5, 8_999] = wrong
    ids = kernels.kernel("sample")(*arguments)
    assert torch.equal(ids, reference.sample(*arguments))
    assert ids.tolist() == [reference.BROKEN if row in (0, 2, 5) else one for row, one in enumerate(sound.tolist())]
