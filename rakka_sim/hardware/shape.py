"""Machines and fabrics as placing sees them: pairs, islands, and what a collective costs; no policy here."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from rakka_sim.hardware import groups, set_costs
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


@dataclass(frozen=True, slots=True)
class DomainFabric:
    """A `core.placing.Fabric`: an NVLink domain of several nodes, from the one whose machine this is.

    A GPU that has lost its links to the switches is not joined; one that has lost some of them slows a group down.
    """

    name: str
    machine: Machine

    def cost(self, gpu: int, gpus: int, message_bytes: int) -> float | None:
        pairs = self.machine.pairs
        if not pairs.fabric[gpu]:
            return None
        return round(groups.spanning_s(pairs.sms[gpu], pairs.fabric[gpu], gpus, message_bytes), 12)
