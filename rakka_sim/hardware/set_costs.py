"""What a collective costs on every set of so many GPUs of a machine, or at least how little; no set is chosen here.

`groups` answers for one set; this answers for thousands at once, and gives the same answers where it is sure of them.
It leaves a bound where the rings among five to eight GPUs of a mesh would have to be packed: few sets are looked at so
closely.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from rakka_sim.hardware import groups, packing, rates, subsets
from rakka_sim.hardware.collectives import Fabric, Group
from rakka_sim.hardware.groups import Step
from rakka_sim.hardware.pairs import Pairs
from rakka_sim.hardware.subsets import Array


@dataclass(frozen=True, slots=True)
class SetCosts:
    """Set i costs `seconds[which[i]]`, or where `sure[i]` is false at least that. Neither array is to be written to."""

    seconds: tuple[float, ...]
    which: Array
    sure: Array


@lru_cache(maxsize=256)
def set_costs(pairs: Pairs, size: int, nbytes: float) -> SetCosts:
    """What an all-reduce of `nbytes` costs on each set of `size` GPUs, in the order of `subsets.sets_of`.

    For machines of up to 16 GPUs.
    """
    masks = subsets.sets_of(len(pairs.models), size)
    seconds, which, sure = [0.0], np.zeros(len(masks), dtype=np.int64), np.ones(len(masks), dtype=bool)
    if size > 1:
        for at, kinds, kind, exact in _grouped(pairs, masks, size):
            which[at] = kind + len(seconds)
            sure[at] = exact
            seconds += [groups.group_s(group, nbytes) for group in kinds]
    which.setflags(write=False)
    sure.setflags(write=False)
    return SetCosts(tuple(seconds), which, sure)


def settled(pairs: Pairs, masks: Array, nbytes: float) -> list[float]:
    """Just what an all-reduce costs on those sets, of one size, of which `set_costs` is not sure."""
    size = int(masks[0]).bit_count()
    members = np.nonzero(masks[:, None] >> np.arange(len(pairs.models)) & 1)[1].reshape(-1, size)
    packed = packing.packed_many(np.array(pairs.links)[members[:, :, None], members[:, None, :]])
    own, sms = np.array(groups.own_links(pairs))[members].min(axis=1), np.array(pairs.sms)[members].min(axis=1)
    costs = []
    for rings, links, sm in zip(packed.tolist(), own.tolist(), sms.tolist(), strict=True):
        link_gb_s = rates.nvlink(sm).nccl_gb_s
        carried = Group(size, Fabric.NVLINK, min(2 * link_gb_s * rings, link_gb_s * links))
        costs.append(groups.group_s(carried, nbytes))
    return costs


Found = tuple[Array, list[Group], Array, Array | bool]  # which sets, their groups, which of them each, if exact


def _grouped(pairs: Pairs, masks: Array, size: int) -> Iterator[Found]:
    """The sets in parts; together they are all of them."""
    links = np.zeros(len(masks), dtype=np.int64) + _least_of(pairs.fabric, masks)
    if pairs.no_peer:
        links[subsets.holding(pairs.no_peer, len(pairs.models))[masks]] = 0
    switched = np.flatnonzero(links)
    if len(switched):
        sms, ranks = _ranked(pairs.sms)
        code = links[switched] * len(sms) + _least_of(ranks, masks[switched])
        found, which = _distinct(code)
        kinds = [divmod(int(each), len(sms)) for each in found]
        yield switched, [groups.switched(sms[sm], count, size) for count, sm in kinds], which, True
    rest = np.flatnonzero(links == 0)
    for rate in sorted({rate for row in pairs.gb_s for rate in row}, reverse=True)[1:]:  # the first is to itself
        if not len(rest):
            return
        here = subsets.ringed(_near(pairs, rate, Step.HOST), masks[rest], size)
        yield from _at_rate(pairs, masks, rest[here], size, rate)
        rest = rest[~here]


def _at_rate(pairs: Pairs, masks: Array, at: Array, size: int, rate: float) -> Iterator[Found]:
    """Sets whose best ring's slowest step has that rate, by what the ring goes by."""
    if not len(at):
        return
    linked = subsets.ringed(_near(pairs, rate, Step.NVLINK), masks[at], size)
    if linked.any():
        yield at[linked], *_by_links(pairs, masks[at[linked]], size, rate)
    at = at[~linked]
    if len(at):
        peers = subsets.ringed(_near(pairs, rate, Step.PEER), masks[at], size)
        yield at, [Group(size, Fabric.HOST, rate), Group(size, Fabric.PCIE, rate)], peers.astype(int), True


def _by_links(pairs: Pairs, masks: Array, size: int, rate: float) -> tuple[list[Group], Array, Array | bool]:
    """As `groups` has it, with at most how many rings there are for how many."""
    twice = _twice_the_rings(pairs, masks, size)
    (own, of_own), (sms, of_sm) = _ranked(groups.own_links(pairs)), _ranked(pairs.sms)
    code = (twice * len(own) + _least_of(of_own, masks)) * len(sms) + _least_of(of_sm, masks)
    found, which = _distinct(code)
    kinds = []
    for rest in found:
        rest, sm = divmod(int(rest), len(sms))
        rings, links = divmod(rest, len(own))
        link_gb_s = rates.nvlink(sms[sm]).nccl_gb_s
        carried = 2 * rate if size > packing.EXACT else 2 * link_gb_s * (rings / 2)
        kinds.append(Group(size, Fabric.NVLINK, min(carried, link_gb_s * own[links])))
    return kinds, which, size <= 4 or size > packing.EXACT


def _twice_the_rings(pairs: Pairs, masks: Array, size: int) -> Array:
    """Twice the most rings that the links of each set bear, or a bound of it; 0 where they are not counted."""
    if size > packing.EXACT:
        return np.zeros(len(masks), dtype=np.int64)
    if size not in (2, 4):
        return subsets.star_bounds(pairs.links)[masks].astype(np.int64)
    links: Array = np.array(pairs.links)
    members = np.nonzero(masks[:, None] >> np.arange(len(links)) & 1)[1].reshape(-1, size).T
    if size == 2:
        two: Array = links[members[0], members[1]]
        return two
    a, b, c, d = members
    p, q, r = (np.minimum(links[i, j], links[k, m]) for i, j, k, m in ((a, b, c, d), (a, c, b, d), (a, d, b, c)))
    four: Array = np.minimum(np.minimum(p + q + r, 2 * (p + q)), 2 * np.minimum(p + r, q + r))
    return four


def _distinct(codes: Array) -> tuple[Array, Array]:
    """The different ones of some small whole numbers, and which of them each is."""
    there = np.zeros(int(codes.max()) + 1, dtype=bool)
    there[codes] = True
    return np.flatnonzero(there), (np.cumsum(there) - 1)[codes]


def _least_of(values: tuple[int, ...], masks: Array) -> Array | int:
    """The least value among the GPUs of each mask, or of all."""
    return subsets.least(values)[masks] if len(set(values)) > 1 else values[0]


def _ranked(values: tuple[int, ...]) -> tuple[list[int], tuple[int, ...]]:
    """The different values, ascending, and which of them each is."""
    different = sorted(set(values))
    return different, tuple(map(different.index, values))


@lru_cache(maxsize=1024)
def _near(pairs: Pairs, rate: float, most: Step) -> tuple[int, ...]:
    """For each GPU those that it reaches at that rate or faster, by nothing worse than `most`."""
    gb_s, steps, bits = _matrices(pairs)
    near = (gb_s >= rate) & (steps <= most)
    return tuple((near @ bits - bits).tolist())  # each is near to itself


@lru_cache(maxsize=64)
def _matrices(pairs: Pairs) -> tuple[Array, Array, Array]:
    """Rates between GPUs, by what they go, and each GPU as a bit."""
    count = range(len(pairs.models))
    steps = [[groups.step(pairs, a, b) for b in count] for a in count]
    return np.array(pairs.gb_s), np.array(steps), 1 << np.arange(len(count))
