"""What a runner needs before it is built: memory, and a type of numbers that its device computes with."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.distributed as dist

from rakka_sim.config.models import hf_config
from rakka_sim.engines.recipe import Recipe
from rakka_sim.engines.torch import building, worker
from rakka_sim.engines.torch.architecture import architecture_of
from rakka_sim.engines.torch.group import ALONE, Group
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


class Reached(Exception):
    """As far as this machine can go."""


def test_a_runner_computes_on_the_device_of_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton launches on the current device: a second replica's kernels would find its memory on another one."""
    chosen: list[str] = []

    def stop(*arguments: object, **options: object) -> None:
        raise Reached

    monkeypatch.setattr(building, "device_of", lambda recipe, group: "cuda:1")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (80 * GIB, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(building.weights, "random", stop)
    with pytest.raises(Reached):
        building.make_runner(RECIPE)
    assert chosen == ["cuda:1"]


def test_ranks_on_gpus_agree_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A word of agreement is a tensor on the CPU, which NCCL does not send."""
    asked: list[str] = []
    monkeypatch.setattr(worker, "device_of", lambda recipe, group: "cuda:0")
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(dist, "init_process_group", lambda backend, **options: asked.append(backend))
    worker._meet(replace(RECIPE, tp=2), Group(0, 2), "store")
    (backend,) = asked
    assert dist.BackendConfig(dist.Backend(backend)).get_device_backend_map() == {"cpu": "gloo", "cuda": "nccl"}
