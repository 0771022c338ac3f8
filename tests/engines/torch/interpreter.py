"""Runs the Triton kernels on the CPU, in a process of their own: Triton decides at import whether it interprets.

No test is here, and nothing here may import Triton when it is imported itself.
"""

from __future__ import annotations

import io
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch


class Interpreter:
    """Calls kernels by name: `call("silu_mul", x)` gives the result and the arguments as the kernel left them."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool

    def call(self, name: str, *arguments: Any, **options: Any) -> tuple[Any, tuple[Any, ...]]:
        # As bytes: a queue of torch.multiprocessing would put each tensor into shared memory.
        done = self._pool.submit(_run, name, _packed((arguments, options))).result()
        result: tuple[Any, tuple[Any, ...]] = _unpacked(done)
        return result

    def apply(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What a function gives there, with whatever it launches."""
        return self._pool.submit(function, *arguments).result()

    def kernel(self, name: str) -> Callable[..., Any]:
        """The kernel as a function of its own, which gives the result alone."""
        return lambda *arguments, **options: self.call(name, *arguments, **options)[0]


@contextmanager
def interpreter() -> Iterator[Interpreter]:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _prepare) as pool:
        yield Interpreter(pool)


def _packed(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _unpacked(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), weights_only=False)


def _prepare() -> None:
    os.environ["TRITON_INTERPRET"] = "1"
    torch.set_num_threads(1)
    from triton.runtime import interpreter as of_triton

    # Triton 3.6 turns a loop's bounds into integers in a way that NumPy 2.4 refuses (triton #9171, mended in 3.7).
    patch = of_triton._patch_lang_tensor

    def with_index(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    of_triton._patch_lang_tensor = with_index


def _run(name: str, packed: bytes) -> bytes:
    from rakka_sim.engines.torch import kernels

    arguments, options = _unpacked(packed)
    return _packed((getattr(kernels, name)(*arguments, **options), arguments))
