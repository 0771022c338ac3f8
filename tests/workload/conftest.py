"""What the tests of workloads share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rakka_sim.config.workload import WorkloadConfig
from rakka_sim.values import ExecuteBatch
from rakka_sim.workload.source import Source, make_source

Arrived = list[tuple[float, ExecuteBatch]]


@pytest.fixture(scope="session")
def build() -> Callable[..., Source]:
    """From a table to a source; `seed` is the source's own."""

    def build(table: dict[str, Any], *, seed: int = 0, base: Path = Path(), first_id: int = 1) -> Source:
        config = WorkloadConfig.model_validate(table)
        rng = np.random.default_rng(seed)
        return make_source(config, model="m", rng=rng, base_dir=base, first_id=first_id)

    return build


@pytest.fixture(scope="session")
def drain() -> Callable[..., Arrived]:
    """All requests of a source (at most `most`), each ended `service_s` after its arrival."""

    def drain(source: Source, *, most: int = 10**6, service_s: float = 1.0) -> Arrived:
        arrived: Arrived = []
        while (at := source.peek()) is not None and len(arrived) < most:
            request = source.pop()
            arrived.append((at, request))
            source.ended(request.request_id, at + service_s, request.output_tokens)
        return arrived

    return drain
