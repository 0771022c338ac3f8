"""Both runtimes, for every test that asks for a `system`; what one of them alone promises has a file of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rakka_sim.runtime.base import ActorSystem
from rakka_sim.runtime.live import LiveRuntime
from rakka_sim.runtime.sim import SimRuntime


@pytest.fixture(params=["sim", "live"])
def kind(request: pytest.FixtureRequest) -> str:
    """Which runtime."""
    return str(request.param)


@pytest.fixture
def make_system(kind: str) -> Iterator[Callable[..., ActorSystem]]:
    """Makes systems of that kind, and stops them in the end."""
    made: list[ActorSystem] = []

    def make(seed: int = 0, **options: Any) -> ActorSystem:
        made.append(SimRuntime(seed, **options) if kind == "sim" else LiveRuntime(seed, **options))
        return made[-1]

    yield make
    for system in made:
        system.stop()


@pytest.fixture
def system(make_system: Callable[..., ActorSystem]) -> ActorSystem:
    return make_system()
