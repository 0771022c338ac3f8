"""One node's hardware as one frozen object, and what can be asked of it; where it comes from is in the loaders.

A `Machine` holds what a system reports: CPUs with their PCIe devices, and NVLinks. What a policy asks (`path`, `links`,
`bandwidth`, `islands`, `group`) is computed once and shared by all machines of which it is the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property

from rakka_sim.errors import InputError
from rakka_sim.hardware import between, groups
from rakka_sim.hardware.collectives import Group
from rakka_sim.hardware.models import compute_capability
from rakka_sim.hardware.pairs import Pairs
from rakka_sim.hardware.parts import Cpu, Gpu, NvLink, Pci, SwitchLink
from rakka_sim.hardware.paths import PathClass

MOST_GPUS = 256


@dataclass(frozen=True, repr=False)
class Machine:
    """GPUs, NICs, CPUs and what joins them.

    `nvlinks` are between two GPUs, `switch_links` to NVSwitches, all of which are one fabric. `no_peer` are pairs of
    GPUs (a < b) that the driver does not let copy to each other. `notes` say what was wrong with the report of this
    machine and how that was taken. Neither they nor the name make it another machine.
    """

    cpus: tuple[Cpu, ...]
    nvlinks: tuple[NvLink, ...] = ()
    switch_links: tuple[SwitchLink, ...] = ()
    no_peer: tuple[tuple[int, int], ...] = ()
    name: str = field(default="", compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        _check(self)

    def __repr__(self) -> str:
        return f"Machine({self.name or 'unnamed'}: {self.key})"

    # --- the parts ----------------------------------------------------------------------------------------------

    @cached_property
    def devices(self) -> tuple[Pci, ...]:
        """Every PCIe device, CPU by CPU from the top."""
        return tuple(found for cpu in self.cpus for top in cpu.devices for found in top.walk())

    @cached_property
    def gpus(self) -> tuple[Gpu, ...]:
        """The GPUs by index."""
        return tuple(sorted((pci.gpu for pci in self.devices if pci.gpu), key=lambda gpu: gpu.index))

    @cached_property
    def nics(self) -> tuple[Pci, ...]:
        """The network cards, in order."""
        return tuple(pci for pci in self.devices if pci.kind == "nic")

    @property
    def count(self) -> int:
        """How many GPUs it has."""
        return len(self.gpus)

    # --- what a policy asks -------------------------------------------------------------------------------------

    @cached_property
    def pairs(self) -> Pairs:
        """All that there is between its GPUs, as one compact object."""
        return between.pairs(self).shared()

    @property
    def key(self) -> str:
        """A short text, the same for all machines that a placement cannot tell apart."""
        return self.pairs.key

    def path(self, a: int, b: int) -> PathClass:
        """The nearest way between two GPUs."""
        return self.pairs.paths[self._index(a)][self._index(b)]

    def links(self, a: int, b: int) -> int:
        """NVLinks between two GPUs; through switches the smaller number of the two."""
        return self.pairs.links[self._index(a)][self._index(b)]

    def bandwidth(self, a: int, b: int) -> float:
        """GB/s per direction between two GPUs, as NCCL counts it; infinite from a GPU to itself."""
        return self.pairs.gb_s[self._index(a)][self._index(b)]

    def islands(self, at_least: float | None = None) -> tuple[frozenset[int], ...]:
        """The largest sets in which each pair has `at_least` GB/s: maximal cliques, the larger first; they may overlap.

        Without a rate: each pair has an NVLink, or, in a machine that has none, a path by PCIe bridges alone.
        """
        return self.pairs.islands(at_least)

    def group(self, gpus: Iterable[int]) -> Group:
        """Those GPUs as a group that does collectives together, over the best ring among them."""
        return groups.group(self.pairs, self._set(gpus))

    def ring(self, gpus: Iterable[int]) -> tuple[int, ...]:
        """The best ring among those GPUs: its slowest step is as fast as that of any."""
        return groups.ring(self.pairs, self._set(gpus))

    def all_reduce_s(self, gpus: Iterable[int], size: float) -> float:
        """Seconds of an all-reduce of `size` bytes among those GPUs."""
        return groups.all_reduce_s(self.pairs, self._set(gpus), size)

    # --- other machines -----------------------------------------------------------------------------------------

    def with_nvlinks(self, nvlinks: Iterable[NvLink] = (), switch_links: Iterable[SwitchLink] = ()) -> Machine:
        """This machine with these NVLinks instead of its own: cloud providers' files have none."""
        return replace(self, nvlinks=tuple(sorted(nvlinks)), switch_links=tuple(sorted(switch_links)))

    def with_model(self, model: str) -> Machine:
        """This machine with `model` for GPUs of which none is known."""
        if not model or all(gpu.model for gpu in self.gpus):
            return self

        def named(pci: Pci) -> Pci:
            gpu = pci.gpu
            if gpu is not None and not gpu.model:
                gpu = replace(gpu, model=model, sm=gpu.sm or compute_capability(model))
            return replace(pci, gpu=gpu, children=tuple(map(named, pci.children)))

        return replace(self, cpus=tuple(replace(cpu, devices=tuple(map(named, cpu.devices))) for cpu in self.cpus))

    def _index(self, gpu: int) -> int:
        if not 0 <= gpu < self.count:
            raise InputError(f"GPU of {self.name or self.key}", gpu, f"0 to {self.count - 1}")
        return gpu

    def _set(self, gpus: Iterable[int]) -> tuple[int, ...]:
        chosen = tuple(gpus)
        if chosen in self._sets:
            return self._sets[chosen]
        ordered = tuple(sorted(map(self._index, chosen)))
        if not ordered or len(set(ordered)) < len(ordered):
            raise InputError(f"GPUs of {self.name or self.key}", chosen, "at least one, none of them twice")
        self._sets[chosen] = ordered
        return ordered

    @cached_property
    def _sets(self) -> dict[tuple[int, ...], tuple[int, ...]]:
        return {}


def _check(machine: Machine) -> None:
    where = f"machine {machine.name!r}" if machine.name else "machine"
    indices = [gpu.index for gpu in machine.gpus]
    if indices != list(range(len(indices))):
        raise InputError(f"{where}, GPU indices", indices, "0, 1, 2 and so on, each once")
    if len(indices) > MOST_GPUS:
        raise InputError(f"{where}, GPUs", len(indices), f"at most {MOST_GPUS} in one machine")
    each_once: dict[str, list[str]] = {
        "PCI bus ids": [pci.bus_id for pci in machine.devices if pci.bus_id],
        "UUIDs": [gpu.uuid for gpu in machine.gpus if gpu.uuid],
        "NVLinks": [f"{link.a}-{link.b}" for link in machine.nvlinks],
        "NVLinks to switches": [f"{link.gpu}-{link.switch}" for link in machine.switch_links],
    }
    for what, names in each_once.items():
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InputError(f"{where}, {what}", ", ".join(twice), "each once")
    pairs = [(link.a, link.b) for link in machine.nvlinks] + list(machine.no_peer)
    wrong = [(a, b) for a, b in pairs if not 0 <= a < b < len(indices)]
    wrong += [(link.gpu, link.gpu) for link in machine.switch_links if not 0 <= link.gpu < len(indices)]
    if wrong:
        raise InputError(f"{where}, pairs of GPUs", wrong[0], f"two of the {len(indices)} GPUs, the smaller first")
    counts = [link.count for link in machine.nvlinks] + [link.count for link in machine.switch_links]
    if any(count < 1 for count in counts):
        raise InputError(f"{where}, bonded NVLinks", min(counts), "at least 1")
