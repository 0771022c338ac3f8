"""From a recipe to a runner: the one place where a decoder, its weights and its memory come together."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch

from rakka_sim.config.gpus import GIB
from rakka_sim.engines.torch import weights
from rakka_sim.engines.torch.architecture import Architecture, architecture_of
from rakka_sim.engines.torch.group import ALONE, Group
from rakka_sim.engines.torch.model import Decoder
from rakka_sim.engines.torch.runner import ModelRunner
from rakka_sim.errors import InputError, NotBuilt, OutOfMemory

if TYPE_CHECKING:
    from rakka_sim.engines.recipe import Recipe


def device_of(recipe: Recipe, group: Group = ALONE) -> str:
    """The device of one rank; raises InputError where it is asked for and is not there."""
    if recipe.device == "cpu" or (recipe.device == "auto" and not torch.cuda.is_available()):
        return "cpu"
    ordinal = recipe.gpus[group.rank] if recipe.gpus else group.rank
    if torch.cuda.device_count() <= ordinal:
        found = torch.cuda.device_count()
        raise InputError("device", f"cuda:{ordinal}", f"cpu, or one of the {found} CUDA devices of this machine")
    return f"cuda:{ordinal}"


def make_runner(recipe: Recipe, group: Group = ALONE) -> ModelRunner:
    """One rank's runner, with weights and memory."""
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    architecture, device = architecture_of(recipe), device_of(recipe, group)
    if device != "cpu" and recipe.dtype == "float64":
        raise NotBuilt(
            "the engine on CUDA in float64", "its kernels add up in float32; choose another dtype, or the CPU"
        )
    _must_fit(recipe, architecture, device, group)
    where = {"dtype": recipe.dtype, "device": device}
    if device != "cpu":
        torch.cuda.set_device(device)  # Triton launches on the current one, whatever its tensors are on
    if recipe.folder is None:
        decoder = weights.random(architecture, recipe.max_positions, recipe.seed, group=group, **where)
    else:
        decoder = weights.load(recipe.folder, architecture, recipe.max_positions, group=group, **where)
    graph_rows = recipe.max_rows if _graphs(device, decoder) else 0
    runner = ModelRunner(decoder, recipe.blocks, recipe.block_size, graph_rows)
    if device != "cpu":
        runner.warm_up()
    return runner


def _must_fit(recipe: Recipe, architecture: Architecture, device: str, group: Group) -> None:
    """Raise InputError for more blocks than there is memory for: a host would go on until its kernel ends somebody.

    OutOfMemory where the device has the memory, but somebody else holds it, who may be about to go.
    """
    spec, element = architecture.spec, torch.empty(0, dtype=getattr(torch, recipe.dtype)).element_size()
    held = spec.parameters * element // group.size
    block = 2 * spec.layers * max(1, spec.kv_heads // group.size) * spec.head_dim * recipe.block_size * element
    if device == "cpu":
        free = room = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // group.size
    else:
        free, room = torch.cuda.mem_get_info(device)
    most = max(0, (room - held) // block)
    if recipe.blocks > most:
        found = f"{room / GIB:.1f} GiB on {device}, {held / GIB:.1f} of them for the weights of {recipe.name}"
        raise InputError("num_gpu_blocks", recipe.blocks, f"at most {most} ({found})")
    wanted = held + recipe.blocks * block
    if wanted > free:
        needs = f"{recipe.name} with {recipe.blocks} blocks needs {wanted / GIB:.1f} GiB"
        raise OutOfMemory(f"{needs}; of {room / GIB:.1f} on {device}, {free / GIB:.1f} are free")


def _graphs(device: str, decoder: Decoder) -> bool:
    """Experts are chosen by the tokens, and ranks talk over the host: neither can be captured."""
    return device != "cpu" and not any(decoder.architecture.sparse) and decoder.group.size == 1
