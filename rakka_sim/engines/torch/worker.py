"""The life of a worker process: one rank of an engine, its device, nothing else. Started by `engines.processes`.

Errors are sorted here, where they are seen. Out of memory: the step is given up, the device is sound. A sticky CUDA
error: this process can never use its device again, and ends at once, without a last word that might block. Anything
else is a bug, and is reported as such.
"""

from __future__ import annotations

import os
import signal
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.distributed as dist

from rakka_sim.engines.torch.building import device_of, make_runner
from rakka_sim.engines.torch.group import Group
from rakka_sim.engines.wire import POISONED, Done, Failed, Ready, Shared, Work
from rakka_sim.errors import Internal, OutOfMemory, RakkaError
from rakka_sim.runtime.wall import instant

if TYPE_CHECKING:
    from rakka_sim.engines.recipe import Recipe
    from rakka_sim.engines.torch.runner import ModelRunner

# How it is said where PyTorch's allocator has no part: by the CPU's, for cuBLAS's workspace, for a graph or a kernel.
NO_MEMORY = ("can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED", "out of memory")
STICKY = ("CUDA error", "CUDA driver error", "Triton Error [CUDA]", "device-side assert", "illegal memory access")


def serve(pipe: Connection, recipe: Recipe, rank: int, meeting_place: str, shared: Shared) -> None:
    """Build a rank's runner, then compute what comes through `pipe` until that closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # as NVML numbers GPUs; CUDA asks when it is first used
    group = Group(rank, recipe.tp)
    try:
        if recipe.tp > 1:
            _meet(recipe, group, meeting_place)
        runner = make_runner(recipe, group)
    except Exception as error:
        pipe.send(Failed(_portable(error)))
        return
    pipe.send(Ready(device_of(recipe, group)))
    try:
        work = _next(pipe)
        while True:
            reply = _compute(runner, work, group, shared, recipe.stream_interval_s)
            pipe.send(reply)
            work = _next(pipe, work.number if isinstance(reply, Done) and reply.as_planned else 0)
    except (EOFError, OSError):
        return


def _next(pipe: Connection, after: int = 0) -> Work:
    """The next work to be computed as it comes, or that follows `after`; what was to follow another is dropped."""
    work: Work = pipe.recv()
    while work.after not in (0, after):
        work = pipe.recv()
    return work


def _meet(recipe: Recipe, group: Group, meeting_place: str) -> None:
    cuda = device_of(recipe, group) != "cpu"
    if cuda:
        torch.cuda.set_device(device_of(recipe, group))
    store = f"file://{meeting_place}"
    # What ranks agree on is on the host, where NCCL sends nothing.
    backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
    dist.init_process_group(backend, init_method=store, rank=group.rank, world_size=group.size)


def _compute(runner: ModelRunner, work: Work, group: Group, shared: Shared, interval_s: float) -> Done | Failed:
    """What becomes of it. As planned: all steps were done, nobody came to an end by itself, nobody asked for one."""
    times: list[float] = []
    shared.beat.value = began = instant()

    def after(steps: int) -> bool:
        shared.beat.value = now = instant()
        times.append(now)
        # Ranks see flag and clock at different moments, and must end a run at the same step.
        return bool(group.agree(int(shared.cut.value != work.number and now - began < interval_s)))

    try:
        computed = runner.run(work.plan, work.feed, work.plan.steps, after)
    except Exception as error:
        if is_sticky(error):
            os._exit(POISONED)
        return Failed(_portable(error))
    as_planned = computed.steps == work.plan.steps and not computed.stopped and shared.cut.value != work.number
    as_planned = bool(group.agree(int(as_planned)))  # by the flag that the first rank sees
    return Done(np.array(times), computed.tokens, computed.broken, as_planned, began, computed.way)


def is_sticky(error: Exception) -> bool:
    """Whether the device context is lost: a CUDA error other than a lack of memory."""
    if _no_memory(error):
        return False
    return isinstance(error, torch.AcceleratorError) or any(words in str(error) for words in STICKY)


def _no_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)


def _portable(error: Exception) -> Exception:
    """As one of our own errors, which travel."""
    if isinstance(error, RakkaError):
        return error
    if _no_memory(error):
        return OutOfMemory(str(error).splitlines()[0] if str(error) else type(error).__name__)
    return Internal(f"{type(error).__name__}: {error}")
