"""The Triton kernels built for an H100 (sm_90) as each model would launch them: that they can be, and into what."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from engines.torch.ahead import compiled

kernels = pytest.importorskip(
    "rakka_sim.engines.torch.kernels", reason="Triton is not installed: it is for Linux alone"
)

SHARED_BYTES = 227 * 1024  # of one thread block on Hopper
Build = Callable[..., list[Any]]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("triton")


@pytest.fixture
def build(cache: Path) -> Build:
    """The kernels that a call launches, built for sm_90, each within what a thread block may have."""

    def built_by(name: str, *arguments: Any, **options: Any) -> list[Any]:
        with compiled(90, cache) as built:
            getattr(kernels, name)(*arguments, **options)
        for kernel in built:
            assert kernel.asm["cubin"][:4] == b"\x7fELF"
            assert 0 <= kernel.metadata.shared <= SHARED_BYTES
        return built

    return built_by


def attention_arguments(
    rows: int, max_query: int, heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype
) -> tuple[torch.Tensor, ...]:
    q = torch.empty(rows * max_query, heads, head_dim, dtype=dtype)
    pools = [torch.empty(4, 16, kv_heads, head_dim, dtype=dtype) for _ in range(2)]
    counts = [torch.zeros(size, dtype=torch.int32) for size in (rows + 1, rows)]
    return (q, *pools, torch.zeros(rows, 64, dtype=torch.int32), *counts)


LLAMA_8B, QWEN2_7B, QWEN3_06B, GEMMA_2B = (32, 8, 128), (28, 4, 128), (16, 8, 128), (8, 1, 256)


@pytest.mark.parametrize(("shape", "rows"), [(LLAMA_8B, 1), (QWEN2_7B, 1), (LLAMA_8B, 256), (GEMMA_2B, 256)], ids=str)
def test_decode_attention_streams_keys_and_values(build: Build, shape: tuple[int, int, int], rows: int) -> None:
    attention, *join = build(
        "paged_attention", *attention_arguments(rows, 1, *shape, torch.bfloat16), scale=0.1, max_query=1
    )
    assert [kernel.metadata.name for kernel in join] == (["_join"] if rows == 1 else [])
    widths = re.findall(r"cp\.async\.c[ag]\.shared\.global \[[^,]*\], \[[^,]*\], (\w+)", attention.asm["ptx"])
    assert widths, "keys and values are not fetched ahead"
    # Tables, 4 bytes an entry, go the same way; keys and values in the widest pieces there are, two tiles ahead.
    assert set(widths) <= {"0x4", "0x10"}
    threads, tile = attention.metadata.num_warps * 32, 64 if shape[2] <= 128 else 32
    assert widths.count("0x10") * 16 * threads >= 2 * 2 * tile * shape[2] * 2
    assert "mma.sync" in attention.asm["ptx"]
    # Two buffers each of keys and values at least, so that one is filled while the other is multiplied.
    assert attention.metadata.shared >= 2 * 2 * tile * shape[2] * 2


@pytest.mark.parametrize(
    ("shape", "window"), [(LLAMA_8B, None), (LLAMA_8B, 4096), (QWEN2_7B, None), (GEMMA_2B, None)], ids=str
)
def test_prefill_attention_is_on_the_tensor_cores(
    build: Build, shape: tuple[int, int, int], window: int | None
) -> None:
    arguments = attention_arguments(2, 512, *shape, torch.bfloat16)
    (attention,) = build("paged_attention", *arguments, scale=0.1, window=window, max_query=512)
    assert "wgmma.mma_async" in attention.asm["ptx"]
    assert "cp.async" in attention.asm["ptx"]


@pytest.mark.parametrize("max_query", [1, 64])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_attention_in_other_types(build: Build, max_query: int, dtype: torch.dtype) -> None:
    build("paged_attention", *attention_arguments(2, max_query, *LLAMA_8B, dtype), scale=0.1, max_query=max_query)


def test_what_changes_from_step_to_step_needs_no_other_build(build: Build) -> None:
    """Numbers of tokens and rows, the width of the tables, and where in a larger buffer each of them begins."""
    digests = set()
    for tokens, rows, width, offset in ((17, 3, 63, 0), (33, 1, 64, 1), (400, 16, 1, 4), (400, 90, 16, 3)):
        buffer = torch.zeros(20_000, dtype=torch.int32)
        sizes = [rows * width, rows + 1, rows]
        tables, starts, contexts = buffer[offset : offset + sum(sizes)].split(sizes)
        q, k_pool, v_pool, *_ = attention_arguments(tokens, 1, *LLAMA_8B, torch.bfloat16)
        ints = (tables.view(rows, width), starts, contexts)
        (attention,) = build("paged_attention", q, k_pool, v_pool, *ints, scale=0.1, max_query=400)
        digests.add(attention.hash)
    assert len(digests) == 1


@pytest.mark.parametrize("normed", [False, True])
def test_rope_store_builds(build: Build, normed: bool) -> None:
    heads, kv_heads, dim = QWEN3_06B
    qkv = torch.empty(4, (heads + 2 * kv_heads) * dim, dtype=torch.bfloat16)
    pools = [torch.empty(4, 16, kv_heads, dim, dtype=torch.bfloat16) for _ in range(2)]
    norms = {name: torch.empty(dim, dtype=torch.bfloat16) if normed else None for name in ("q_norm", "k_norm")}
    places = (torch.zeros(4, dtype=torch.int32), torch.empty(99, dim), torch.zeros(4, dtype=torch.int32))
    (kernel,) = build("rope_store", qkv, *places, *pools, heads=heads, kv_heads=kv_heads, head_dim=dim, **norms)
    assert re.search(r"ld\.global[\w.]*\.v[24]", kernel.asm["ptx"])


@pytest.mark.parametrize("added", [False, True])
def test_pointwise_kernels_build(build: Build, added: bool) -> None:
    x, weight = torch.empty(4, 4096, dtype=torch.bfloat16), torch.empty(4096, dtype=torch.bfloat16)
    for (kernel,) in (
        build("rms_norm", x, weight, 1e-5, x.clone() if added else None),
        build("silu_mul", torch.empty(4, 2 * 14336, dtype=torch.bfloat16)),
    ):
        assert re.search(r"ld\.global[\w.]*\.v4", kernel.asm["ptx"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_sampler_builds(build: Build, dtype: torch.dtype) -> None:
    floats, ints, longs = torch.ones(4), torch.zeros(4, dtype=torch.int32), torch.zeros(4, dtype=torch.int64)
    built = build("sample", torch.empty(4, 128_256, dtype=dtype), floats, ints, floats, longs, ints)
    assert [kernel.metadata.name for kernel in built] == ["_cuts", "_best_of_chunk", "_best_of_row"]
