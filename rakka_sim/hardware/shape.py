"""A machine as placing sees it: its pairs, its islands, and what a collective among some GPUs costs; no policy here."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from rakka_sim.hardware import set_costs
from rakka_sim.hardware.machine import Machine
from rakka_sim.hardware.subsets import Array


@dataclass(frozen=True, slots=True)
class MachineShape:
    """A `core.placing.Shape`, and a `Surveyed` one, whose answers come from a machine."""

    machine: Machine

    @property
    def key(self) -> Hashable:
        return self.machine.key

    @property
    def count(self) -> int:
        return self.machine.count

    @property
    def islands(self) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(sorted(island)) for island in self.machine.islands())

    def pair(self, a: int, b: int) -> Hashable:
        pairs = self.machine.pairs
        if a == b:
            return pairs.models[a], pairs.sms[a], pairs.fabric[a]
        barred = (min(a, b), max(a, b)) in pairs.no_peer
        return pairs.paths[a][b], pairs.links[a][b], pairs.gb_s[a][b], barred

    def set_cost(self, gpus: tuple[int, ...], message_bytes: int) -> float:
        return self.machine.all_reduce_s(gpus, message_bytes)

    def set_costs(self, size: int, message_bytes: int) -> set_costs.SetCosts:
        return set_costs.set_costs(self.machine.pairs, size, message_bytes)

    def settled(self, masks: Array, message_bytes: int) -> list[float]:
        return set_costs.settled(self.machine.pairs, masks, message_bytes)
