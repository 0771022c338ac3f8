"""Which errors mean what: no memory, a lost device, or a bug. The messages are those that PyTorch and CUDA give."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal

import pytest
import torch

from rakka_sim.config.models import hf_config
from rakka_sim.engines.recipe import Recipe
from rakka_sim.engines.torch.worker import _portable, is_sticky, serve
from rakka_sim.engines.wire import Failed, Shared
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


def test_gpus_are_numbered_as_nvml_numbers_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The order must be set before CUDA is first used: here it is refused, so a process that got so far has set it."""
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "")
    monkeypatch.delenv("CUDA_DEVICE_ORDER")
    before = signal.getsignal(signal.SIGINT)
    parent, child = multiprocessing.Pipe()
    recipe = Recipe("Tiny", hf_config("Tiny")[0], None, 64, 8, 16, "float64", device="cuda")
    try:
        serve(child, recipe, 0, "", Shared(0, 0.0))
    finally:
        signal.signal(signal.SIGINT, before)
    assert isinstance(parent.recv(), Failed)
    assert os.environ["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
