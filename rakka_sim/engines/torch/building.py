"""From a recipe to a runner: the one place where a decoder, its weights and its memory come together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from rakka_sim.engines.torch import weights
from rakka_sim.engines.torch.architecture import Architecture
from rakka_sim.engines.torch.group import ALONE, Group
from rakka_sim.engines.torch.runner import ModelRunner
from rakka_sim.errors import InputError, NotBuilt

if TYPE_CHECKING:
    from rakka_sim.engines.recipe import Recipe


def architecture_of(recipe: Recipe) -> Architecture:
    """The decoder that is asked for; raises InputError or NotBuilt for one that nothing here can be."""
    if recipe.dtype not in weights.DTYPES:
        raise NotBuilt(f"dtype {recipe.dtype!r} in the torch engine", f"built: {', '.join(weights.DTYPES)}")
    return Architecture.of(recipe.config, recipe.name)


def device_of(recipe: Recipe, group: Group = ALONE) -> str:
    """The device of one rank; raises InputError where it is asked for and is not there."""
    if recipe.device == "cpu" or (recipe.device == "auto" and not torch.cuda.is_available()):
        return "cpu"
    if torch.cuda.device_count() <= group.rank:
        raise InputError("device", recipe.device, f"cpu: this machine has {torch.cuda.device_count()} CUDA devices")
    return f"cuda:{group.rank}"


def make_runner(recipe: Recipe, group: Group = ALONE) -> ModelRunner:
    """One rank's runner, with weights and memory."""
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    architecture, device = architecture_of(recipe), device_of(recipe, group)
    where = {"dtype": recipe.dtype, "device": device}
    if recipe.folder is None:
        decoder = weights.random(architecture, recipe.max_positions, recipe.seed, group=group, **where)
    else:
        decoder = weights.load(recipe.folder, architecture, recipe.max_positions, group=group, **where)
    return ModelRunner(decoder, recipe.blocks, recipe.block_size)
