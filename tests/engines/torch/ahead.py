"""Compiles the Triton kernels for a GPU that is not there: whatever is launched inside `compiled` is built, not run.

The arguments are tensors on the CPU, so a kernel is built for just the types, alignments and constants that its wrapper
gives it. No test is here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


class _Absent:
    """Triton's driver, as far as compiling needs one."""

    def __init__(self, target: Any) -> None:
        self._target = target

    def get_current_target(self) -> Any:
        return self._target

    def get_current_device(self) -> str:
        return "absent"  # a key under which no kernel for a device that is there will be looked up

    def get_current_stream(self, device: object) -> int:
        return 0


@contextmanager
def compiled(arch: int, cache: Path) -> Iterator[list[Any]]:
    """The kernels launched inside, in order, built for sm_`arch`; `asm["ptx"]`, `metadata.shared` (bytes) and so on."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    built: list[Any] = []
    run = JITFunction.run

    def build(self: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        built.append(run(self, *arguments, grid=grid, warmup=True, **options))
        return built[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(cache))
        patch.setenv("TRITON_DEFAULT_FP_FUSION", "1")  # Triton 3.9 warns where its coming default is not settled
        patch.setattr(JITFunction, "run", build)
        patch.setattr(driver, "_active", _Absent(GPUTarget("cuda", arch, 32)))
        yield built
