"""The whole engine on CPU tensors with the kernels that it has on CUDA, interpreted or only built. No test is here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from engines.torch.models import ours
from engines.torch.test_model import Engine, a_prompt

from rakka_sim.config.models import hf_config
from rakka_sim.core.batching import BatchingLimits
from rakka_sim.engines.torch import ops, runner, weights
from rakka_sim.engines.torch.architecture import Architecture
from rakka_sim.engines.torch.model import Decoder


@contextmanager
def kernels_everywhere() -> Iterator[pytest.MonkeyPatch]:
    from rakka_sim.engines.torch import kernels

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops, "_for", lambda tensor: kernels)
        yield patch


def interpreted_tokens(name: str, prompts: list[int], count: int, graph_rows: int) -> dict[int, list[int]]:
    """What requests with prompts of these lengths draw, warmed up, in chunks and in company."""
    from rakka_sim.engines.torch.kernels import attention

    with kernels_everywhere() as patch:
        patch.setattr(runner, "WARM_TOKENS", (2,))  # each token is a program, and interpreted
        patch.setattr(runner, "WARM_ROWS", (1,))
        patch.setattr(attention, "_multiprocessors", lambda device: 4)  # contexts in few segments, but in some
        engine = Engine(ours(name), BatchingLimits(3, 7, 64), blocks=12, graph_rows=graph_rows)
        engine.runner.warm_up()
        assert not engine.runner._pool.memory.any()
        for n, length in enumerate(prompts):
            engine.add(n, a_prompt(length, seed=n), count)
        engine.finish()
    return engine.tokens


@contextmanager
def only_built() -> Iterator[None]:
    """Nothing is computed: matrix products and drawn ids are zeros, kernels leave what was there."""
    from rakka_sim.engines.torch import kernels

    def sample(*arguments: Any) -> torch.Tensor:
        return kernels.sample(*arguments).zero_()

    with kernels_everywhere() as patch:
        built = {name: getattr(kernels, name) for name in kernels.__all__} | {"sample": sample}
        patch.setattr(ops, "_for", lambda tensor: SimpleNamespace(**built))
        patch.setattr(F, "linear", lambda x, weight, bias=None: x.new_zeros(len(x), len(weight)))
        yield


def one_layer_of(model: str) -> Decoder:
    """Its widths in bfloat16, without numbers."""
    config = dict(hf_config(model)[0]) | {"num_hidden_layers": 1, "vocab_size": 512}
    return weights._empty(Architecture.of(config, model), 512, "bfloat16", "cpu", weights.ALONE)[0]
