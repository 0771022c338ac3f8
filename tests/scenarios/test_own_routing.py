"""Routing policies that a user brings along: in a scenario or an override, as a function, a class or an object."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import rakka_sim
from rakka_sim.core.routing import ReplicaView, RouteHint
from rakka_sim.errors import InputError

QUICKSTART = Path(__file__).resolve().parents[2] / "scenarios" / "quickstart.toml"


def test_a_routing_policy_of_ones_own_is_a_function_a_class_or_an_object() -> None:
    def last(replicas: Sequence[ReplicaView], hint: RouteHint, rng: np.random.Generator) -> int:
        return len(replicas) - 1

    class Turns:
        """Each in turn, from the last replica on."""

        def __init__(self) -> None:
            self.turn = 0

        def choose(self, replicas: Sequence[ReplicaView], hint: RouteHint, rng: np.random.Generator) -> int:
            self.turn += 1
            return -self.turn % len(replicas)

    def served(policy: object) -> list[int]:
        report = rakka_sim.run(QUICKSTART, overrides={"routing.policy": policy, "workload.requests": 30})
        assert report.scenario["routing"]["policy"] == getattr(policy, "__name__", "Turns")
        return report.requests["replica"].tolist()

    assert set(served(last)) == {2}
    assert served(Turns)[:4] == served(Turns())[:4] == [2, 1, 0, 2]
    rakka_sim.assert_deterministic(QUICKSTART, overrides={"routing.policy": Turns, "workload.requests": 30})


@pytest.mark.parametrize("policy", [3, None, ["least_load"]])
def test_what_cannot_choose_is_no_routing_policy(policy: object) -> None:
    with pytest.raises(InputError, match=r"routing\.policy.*function \(replicas, hint, rng\)"):
        rakka_sim.run(QUICKSTART, overrides={"routing.policy": policy})
