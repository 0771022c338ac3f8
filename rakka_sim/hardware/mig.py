"""A GPU cut into slices (MIG): which are placed, what still fits, where a new one hurts least; no placement policy.

A slice takes a run of memory slices from a legal start. Runs must be disjoint and a profile has a greatest count; the
compute slices then never bind. A whole GPU has a few thousand states, so every question is answered by looking at all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from rakka_sim.config.catalogue import suggest
from rakka_sim.config.gpus import GpuSpec, gpu
from rakka_sim.errors import MigNoPeers, NoMigStart, UnknownName
from rakka_sim.hardware.mig_tables import CUTS, Cut, Profile

_BY_GPU = {cut.gpu: cut for cut in CUTS}


def _cut(gpu_name: str) -> Cut:
    name = gpu_name if gpu_name in _BY_GPU else _catalogue_name(gpu_name)
    cut = _BY_GPU.get(name)
    if cut is None:
        raise UnknownName("gpu that can be cut into slices", gpu_name, suggest(name, {key: key for key in _BY_GPU}))
    return cut


def _catalogue_name(name: str) -> str:
    try:
        return gpu(name).name
    except UnknownName:
        return name


def profiles(gpu_name: str, *, media: bool = False) -> tuple[Profile, ...]:
    """The profiles of a kind of GPU, smallest first; with `media`, those too that take all media engines (``+me``).

    Raises UnknownName for a GPU that cannot be cut.
    """
    return tuple(profile for profile in _cut(gpu_name).profiles if media or profile.plain)


def profile(gpu_name: str, name: str) -> Profile:
    """The profile of that name, ``+me`` or not; raises UnknownName."""
    known = _cut(gpu_name).profiles
    row = next((row for row in known if row.name == name), None)
    if row is None:
        raise UnknownName(f"MIG profile of {gpu_name}", name, suggest(name, {row.name: row.name for row in known}))
    return row


def slice_spec(whole: GpuSpec, name: str) -> GpuSpec:
    """A slice as a GPU of its own: its SMs and memory, rates by SMs, memory bandwidth by memory slices.

    `slice_of` names the whole, whose kernels it runs. It has no link to another slice, see `check_peers`.
    """
    cut, row = _cut(whole.name), profile(whole.name, name)
    share = row.sms / whole.sms
    return dataclasses.replace(
        whole,
        name=f"{whole.name} MIG {row.name}",
        sms=row.sms,
        memory_bytes=row.memory_bytes,
        memory_bandwidth=whole.memory_bandwidth * row.memory / cut.memory,
        bf16_flops=whole.bf16_flops * share,
        fp8_flops=None if whole.fp8_flops is None else whole.fp8_flops * share,
        fp32_flops=whole.fp32_flops * share,
        source=f"a slice: {cut.source}; {whole.source}",
        slice_of=whole.name,
    )


def check_peers(device: GpuSpec, gpus: int) -> None:
    """Raise MigNoPeers if `gpus` slices were to work as one: no slice reaches another's memory, on one GPU or two."""
    if device.slice_of is not None and gpus > 1:
        raise MigNoPeers(device.name, gpus)


@dataclass(frozen=True, slots=True)
class MigState:
    """The slices of one GPU: (profile, start) in order of start. Immutable; `add` and `remove` give new states.

    `gpu` is a name of the catalogue, or "A30"; `media` says whether `remaining` counts the ``+me`` profiles too.
    """

    gpu: str
    placed: tuple[tuple[str, int], ...] = ()
    media: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "gpu", _cut(self.gpu).gpu)
        object.__setattr__(self, "placed", tuple(sorted(self.placed, key=lambda slot: slot[1])))
        rows: list[tuple[Profile, int]] = []
        for name, start in self.placed:
            row = profile(self.gpu, name)
            free = _starts(row, rows)
            if start not in free:
                raise NoMigStart(self.gpu, name, start, free)
            rows.append((row, start))

    def starts(self, name: str) -> tuple[int, ...]:
        """Where a slice of that profile may start now, lowest first; raises UnknownName."""
        return _starts(profile(self.gpu, name), self._rows())

    def add(self, name: str, start: int) -> MigState:
        """With one slice more; raises NoMigStart where it may not start."""
        free = self.starts(name)
        if start not in free:
            raise NoMigStart(self.gpu, name, start, free)
        return dataclasses.replace(self, placed=(*self.placed, (name, start)))

    def remove(self, name: str, start: int) -> MigState:
        """With that slice gone; raises NoMigStart if it is not there."""
        if (name, start) not in self.placed:
            raise NoMigStart(self.gpu, name, start, tuple(at for placed, at in self.placed if placed == name), "placed")
        return dataclasses.replace(self, placed=tuple(slot for slot in self.placed if slot != (name, start)))

    def remaining(self) -> tuple[tuple[str, int], ...]:
        """Every (profile, start) that is legal now: what this state still has room for, one at a time."""
        return _remaining(self)

    def best_start(self, name: str) -> int:
        """The start after which most (profile, start) pairs stay legal, the lowest of equals; raises NoMigStart."""
        best = _best_start(self, name)
        if best is None:
            raise NoMigStart(self.gpu, name, None, ())
        return best

    def room(self, name: str) -> int:
        """How many slices of that profile fit now, if nothing else is placed."""
        state, count = self, 0
        while free := state.starts(name):
            # Slices of one profile never overlap at two legal starts, so the order does not matter.
            state, count = state.add(name, free[0]), count + 1
        return count

    def _rows(self) -> list[tuple[Profile, int]]:
        return [(profile(self.gpu, name), start) for name, start in self.placed]


@lru_cache(maxsize=8192)
def _remaining(state: MigState) -> tuple[tuple[str, int], ...]:
    rows = state._rows()
    known = profiles(state.gpu, media=state.media)
    return tuple((row.name, start) for row in known for start in _starts(row, rows))


@lru_cache(maxsize=8192)
def _best_start(state: MigState, name: str) -> int | None:
    free = state.starts(name)
    return max(free, key=lambda start: (len(state.add(name, start).remaining()), -start), default=None)


def _starts(row: Profile, placed: Sequence[tuple[Profile, int]]) -> tuple[int, ...]:
    if sum(other.name == row.name for other, _ in placed) >= row.most:
        return ()
    taken = {at for other, start in placed for at in range(start, start + other.memory)}
    return tuple(start for start in row.starts if taken.isdisjoint(range(start, start + row.memory)))


def packed(gpu_name: str, names: Iterable[str]) -> MigState:
    """A state that holds exactly these profiles, found by trying all; raises NoMigStart if there is none."""
    wanted = [profile(gpu_name, name) for name in names]
    # Large ones have the fewest starts.
    order = sorted(wanted, key=lambda row: (-row.memory, row.name))
    start = MigState(gpu_name, media=any(not row.plain for row in wanted))
    found = next(_packings(start, order), None)
    if found is None:
        raise NoMigStart(start.gpu, " + ".join(row.name for row in wanted), None, ())
    return found


def _packings(state: MigState, rows: Sequence[Profile]) -> Iterator[MigState]:
    if not rows:
        yield state
        return
    first = state.starts(rows[0].name)
    for start in sorted(first, key=lambda at: -len(state.add(rows[0].name, at).remaining())):
        yield from _packings(state.add(rows[0].name, start), rows[1:])


@lru_cache(maxsize=16)
def states(kinds: tuple[Profile, ...]) -> tuple[tuple[tuple[str, int], ...], ...]:
    """Every set of slices of these profiles that can be placed on one GPU, the empty one included, by depth first."""
    found: list[tuple[tuple[str, int], ...]] = []

    def grow(placed: tuple[tuple[Profile, int], ...], first: int) -> None:
        found.append(tuple((row.name, start) for row, start in placed))
        for row in kinds:
            for start in _starts(row, placed):
                if start >= first:
                    grow((*placed, (row, start)), start + row.memory)

    grow((), 0)
    return tuple(found)
