"""What a collective costs on every set of so many GPUs of a machine, or at least how little; no set is chosen here.

`groups` answers for one set; this answers for thousands at once, and where an answer is more than a bound it is the same
one. A bound is left where the rings among five to eight GPUs of a mesh would have to be packed: few sets are looked at
so closely.
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

MOST_GPUS = subsets.MOST


@dataclass(frozen=True, slots=True)
class SetCosts:
    """Set i costs `seconds[which[i]]`, or where `sure[i]` is false at least that. Neither array is to be written to."""

    seconds: tuple[float, ...]
    which: Array
    sure: Array


@lru_cache(maxsize=256)
def set_costs(pairs: Pairs, size: int, nbytes: float) -> SetCosts:
    """What an all-reduce of `nbytes` costs on each set of `size` GPUs, in the order of `subsets.sets_of`; up to 16 GPUs."""
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


Found = tuple[Array, list[Group], Array, Array | bool]  # which sets, their groups, which of them each, if exact


def _grouped(pairs: Pairs, masks: Array, size: int) -> Iterator[Found]:
    """The sets in parts; together they are all of them."""
    barred = subsets.holding(pairs.no_peer, len(pairs.models))[masks] if pairs.no_peer else np.zeros(1, dtype=bool)
    links = np.where(barred, 0, _least_of(pairs.fabric, masks))
    switched = np.flatnonzero(links)
    if len(switched):
        values, which = np.unique([_least_of(pairs.sms, masks[switched]), links[switched]], axis=1, return_inverse=True)
        yield switched, [groups.switched(int(sm), int(count), size) for sm, count in values.T], which.ravel(), True
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
    sms = _least_of(pairs.sms, masks)
    of_sm, which_sm = np.unique(sms, return_inverse=True)
    link_gb_s = np.array([rates.nvlink(int(sm)).nccl_gb_s for sm in of_sm])[which_sm]
    most = link_gb_s * _least_of(groups.own_links(pairs), masks)
    exact: Array | bool = True
    if size > packing.EXACT:
        ring = np.full(len(masks), 2 * rate)
    elif size == 4:
        ring = 2 * link_gb_s * _rings_of_four(pairs, masks)
    else:
        ring = 2 * link_gb_s * (subsets.star_bounds(pairs.links, masks) / 2)
        exact = size <= 3
    carried, which = np.unique(np.minimum(ring, most), return_inverse=True)
    return [Group(size, Fabric.NVLINK, float(gb_s)) for gb_s in carried], which, exact


def _rings_of_four(pairs: Pairs, masks: Array) -> Array:
    """`packing.of_four` of many sets."""
    count = len(pairs.models)
    a, b, c, d = np.nonzero(masks[:, None] >> np.arange(count) & 1)[1].reshape(-1, 4).T
    links = np.array(pairs.links)
    p, q, r = (np.minimum(links[i, j], links[k, m]) for i, j, k, m in ((a, b, c, d), (a, c, b, d), (a, d, b, c)))
    return np.minimum.reduce([(p + q + r) / 2, p + q, p + r, q + r])


def _least_of(values: tuple[int, ...], masks: Array) -> Array:
    """The least value among the GPUs of each mask."""
    if len(set(values)) == 1:
        return np.full(len(masks), values[0])
    return subsets.least(values)[masks]


@lru_cache(maxsize=1024)
def _near(pairs: Pairs, rate: float, most: Step) -> tuple[int, ...]:
    """For each GPU those that it reaches at that rate or faster, by nothing worse than `most`."""
    count = len(pairs.models)
    return tuple(
        sum(
            1 << b
            for b in range(count)
            if b != a and pairs.gb_s[a][b] >= rate and (most is Step.HOST or groups.step(pairs, a, b) <= most)
        )
        for a in range(count)
    )
