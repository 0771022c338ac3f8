"""The Triton kernels on a CUDA device against the PyTorch operations on the CPU, at the sizes of real models."""

from __future__ import annotations

import pytest
import torch
from engines.torch.attention_cases import Case
from engines.torch.sampling_cases import batch

from rakka_sim.engines.torch import ops, reference

pytestmark = pytest.mark.gpu
TOLERANCE = {torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def on_gpu(case: Case) -> torch.Tensor:
    tensors = (case.q, case.k_pool, case.v_pool, case.block_tables, case.query_start, case.context_lens)
    moved = (tensor.cuda() for tensor in tensors)
    done = ops.paged_attention(*moved, scale=case.scale, window=case.window, max_query=case.max_query)
    return done.cpu()


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("window", [None, 300])
@pytest.mark.parametrize(
    "rows",
    [[(1, 2000), (1, 0), (1, -1), (1, 777)], [(200, 0), (1, 500), (64, 300), (0, 0)]],
    ids=["decode", "mixed"],
)
@pytest.mark.parametrize("group", [1, 4, 7])
def test_attention(dtype: torch.dtype, window: int | None, rows: list[tuple[int, int]], group: int) -> None:
    shape = {"kv_heads": 2, "group": group, "head_dim": 128, "block_size": 16}
    case = Case.build(rows, **shape, window=window, seed=1, dtype=dtype)
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(on_gpu(case), case.run(reference.paged_attention), rtol=tolerance, atol=tolerance)


def test_blocks_beyond_32_bit_offsets() -> None:
    """A pool of more than 2^31 elements, and a row whose blocks are its last ones."""
    case = Case.build([(1, 30)], kv_heads=8, group=4, head_dim=128, block_size=16, seed=1, dtype=torch.float16)
    expected = case.run(reference.paged_attention)
    blocks = 2**31 // (16 * 8 * 128) + 8
    if torch.cuda.mem_get_info()[0] < 2 * 2 * blocks * 16 * 8 * 128 + 2**30:
        pytest.skip("not enough free memory for two pools of 2^31 elements")
    wide = []
    for pool in (case.k_pool, case.v_pool):
        wide.append(torch.empty(blocks, *pool.shape[1:], dtype=pool.dtype, device="cuda"))
        wide[-1][-len(pool) :] = pool.cuda()
    case.block_tables += blocks - len(case.k_pool)
    case.k_pool, case.v_pool = wide
    torch.testing.assert_close(on_gpu(case), expected, rtol=4e-3, atol=4e-3)


def test_pointwise_and_rope() -> None:
    make = torch.Generator().manual_seed(2)
    x, y, gate_up = (torch.randn(33, width, generator=make).bfloat16() for width in (4096, 4096, 2048))
    weight = torch.randn(4096, generator=make).bfloat16()
    found = ops.rms_norm(x.cuda(), weight.cuda(), 1e-5, y.cuda())
    expected = reference.rms_norm(x, weight, 1e-5, y)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine.cpu(), theirs)
    torch.testing.assert_close(ops.silu_mul(gate_up.cuda()).cpu(), reference.silu_mul(gate_up))
    qkv, angles = torch.randn(5, 6 * 64, generator=make), torch.randn(40, 64, generator=make)
    places, slots = torch.tensor([3, 0, 39, 7, 1]), torch.tensor([4, -1, 0, 7, 2])
    tensors = [qkv, places, angles, slots, torch.zeros(2, 4, 1, 64), torch.zeros(2, 4, 1, 64)]
    moved, shape = [tensor.cuda() for tensor in tensors], {"heads": 4, "kv_heads": 1, "head_dim": 64}
    torch.testing.assert_close(ops.rope_store(*moved, **shape).cpu(), reference.rope_store(*tensors, **shape))
    torch.testing.assert_close([pool.cpu() for pool in moved[4:]], tensors[4:])


def test_sampler_draws_what_the_cpu_draws() -> None:
    """Logarithms differ in their last digits, so one id in a hundred may."""
    arguments = batch(200, 9_000, 4)
    found = ops.sample(*(argument.cuda() for argument in arguments)).cpu()
    assert (found == reference.sample(*arguments)).float().mean() >= 0.99
