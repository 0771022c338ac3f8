"""Which replica had which GPUs from when to when; what that costs is not here."""

from __future__ import annotations

import math

from rakka_sim.records.entry import ReplicaFacts
from rakka_sim.values import NodeAssignment

Key = tuple[str, int, str, tuple[int, ...]]


class Holdings:
    """Spans of time (s) by deployment, replica, node and GPUs."""

    __slots__ = ("_spans",)

    def __init__(self) -> None:
        self._spans: dict[Key, list[tuple[float, float]]] = {}

    def took(self, at: float, deployment: str, where: NodeAssignment) -> None:
        """A replica has these GPUs from now on."""
        self._spans.setdefault(_key(deployment, where), []).append((at, math.inf))

    def gave_back(self, at: float, deployment: str, where: NodeAssignment) -> None:
        """It has them no more."""
        spans = self._spans[_key(deployment, where)]
        spans[-1] = (spans[-1][0], at)

    def of(self, facts: ReplicaFacts) -> list[tuple[float, float]]:
        """From when to when a replica had its GPUs; infinity for what it still has. Empty where nobody said."""
        return self._spans.get((facts.deployment, facts.replica, facts.node, facts.gpus), [])

    def ended(self) -> list[tuple[Key, list[tuple[float, float]]]]:
        """All of those that were given back, in order."""
        every = ((key, [span for span in spans if span[1] < math.inf]) for key, spans in sorted(self._spans.items()))
        return [(key, spans) for key, spans in every if spans]


def _key(deployment: str, where: NodeAssignment) -> Key:
    return deployment, where.replica_index, where.node, where.gpus
