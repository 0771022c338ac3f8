"""Which errors mean what: no memory, a lost device, or a bug. The messages are those that PyTorch and CUDA give."""

from __future__ import annotations

import pickle

import pytest
import torch

from rakka_sim.engines.torch.worker import _portable, is_sticky
from rakka_sim.errors import BadRequest, Internal, OutOfMemory

CPU = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"
)
CUBLAS = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
ASSERTED = "CUDA error: device-side assert triggered"
ILLEGAL = "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be asynchronously reported"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        torch.cuda.OutOfMemoryError("CUDA out of memory."),
        torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        RuntimeError(CPU),
        RuntimeError(CUBLAS),
        MemoryError(),
    ],
)
def test_a_lack_of_memory_leaves_the_device_sound(error: Exception) -> None:
    assert not is_sticky(error)
    assert isinstance(_portable(error), OutOfMemory)


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError(ILLEGAL),
        RuntimeError(ILLEGAL),
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("Triton Error [CUDA]: misaligned address"),
        RuntimeError("CUDA driver error: unspecified launch failure"),
    ],
)
def test_a_sticky_error_is_known_by_type_or_by_words(error: Exception) -> None:
    assert is_sticky(error)


def test_the_real_refusal_of_the_real_allocator() -> None:
    with pytest.raises(RuntimeError) as refused:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert isinstance(_portable(refused.value), OutOfMemory)


def test_everything_else_travels_as_it_is_or_as_internal() -> None:
    assert not is_sticky(IndexError("index 9 is out of bounds"))
    portable = _portable(IndexError("index 9 is out of bounds"))
    again = pickle.loads(pickle.dumps(portable))
    assert isinstance(again, Internal)
    assert again.reason == "IndexError: index 9 is out of bounds"
    ours = BadRequest("why")
    assert _portable(ours) is ours
