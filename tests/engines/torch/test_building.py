"""What a runner needs before it is built: memory, and a type of numbers that its device computes with."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rakka_sim.config.models import hf_config
from rakka_sim.engines.recipe import Recipe
from rakka_sim.engines.torch import building
from rakka_sim.engines.torch.architecture import architecture_of
from rakka_sim.engines.torch.group import ALONE
from rakka_sim.errors import InputError, NotBuilt, OutOfMemory

GIB = 1 << 30
RECIPE = Recipe("Llama-3.1-8B", hf_config("Llama-3.1-8B")[0], None, 4096, 10_000, 16, "bfloat16", device="cuda")


def fits(recipe: Recipe, free: int, total: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the device said so."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free * GIB, total * GIB))
    building._must_fit(recipe, architecture_of(recipe), "cuda:0", ALONE)


def test_memory_that_somebody_else_holds_may_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """15 GiB of weights and 19.5 of blocks: more than there is on one device, and than is left on another."""
    fits(RECIPE, free=35, total=80, monkeypatch=monkeypatch)
    with pytest.raises(OutOfMemory, match=r"with 10000 blocks needs 34.5 GiB; of 80.0 on cuda:0, 30.0 are free"):
        fits(RECIPE, free=30, total=80, monkeypatch=monkeypatch)
    with pytest.raises(InputError, match=r"num_gpu_blocks: 10000 is not allowed; allowed: at most 7\d\d\d"):
        fits(RECIPE, free=30, total=30, monkeypatch=monkeypatch)


def test_kernels_do_not_compute_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "device_of", lambda recipe, group: "cuda:0")
    with pytest.raises(NotBuilt, match="the engine on CUDA in float64"):
        building.make_runner(replace(RECIPE, dtype="float64"))
