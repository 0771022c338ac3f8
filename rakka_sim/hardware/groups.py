"""From a set of GPUs to the group whose collectives can be costed: the ring, the fabric, whether switches add up.

Everything here is a function of `Pairs` and a set, kept by both, because placements ask the same again and again.
"""

from __future__ import annotations

import enum
from dataclasses import replace
from functools import lru_cache

from rakka_sim.hardware import collectives, packing, rates, rings
from rakka_sim.hardware.collectives import Fabric, Group
from rakka_sim.hardware.pairs import Pairs
from rakka_sim.hardware.paths import PathClass

# 2^16 sets of one machine of 16 GPUs, and room for others.
_KEPT = 1 << 18


class Step(enum.IntEnum):
    """By what a step of a ring goes: the smaller, the better."""

    NVLINK = 0
    PEER = 1
    HOST = 2


@lru_cache(maxsize=_KEPT)
def _best_ring(pairs: Pairs, gpus: tuple[int, ...]) -> tuple[float, tuple[int, ...]]:
    slowest, ring = rings.best_ring([[pairs.gb_s[a][b] for b in gpus] for a in gpus])
    # Of the rings that are as fast, one by NVLinks alone, else one that needs no host memory: which of them the search
    # meets first must not depend on how the GPUs are numbered.
    for most in (Step.NVLINK, Step.PEER):
        able = [[pairs.gb_s[a][b] >= slowest and step(pairs, a, b) <= most for b in gpus] for a in gpus]
        found, better = rings.best_ring(able)
        if found and len(gpus) > 1:
            ring = better
            break
    return slowest, tuple(gpus[i] for i in ring)


def step(pairs: Pairs, a: int, b: int) -> Step:
    """By what one GPU sends to another."""
    if pairs.paths[a][b] <= PathClass.NV:
        return Step.NVLINK
    return Step.PEER if pairs.paths[a][b].peer and (min(a, b), max(a, b)) not in pairs.no_peer else Step.HOST


def ring(pairs: Pairs, gpus: tuple[int, ...]) -> tuple[int, ...]:
    """The ring whose slowest step is fastest, from the smallest index on."""
    return _best_ring(pairs, gpus)[1]


@lru_cache(maxsize=_KEPT)
def group(pairs: Pairs, gpus: tuple[int, ...]) -> Group:
    """Those GPUs (in ascending order) as collectives see them."""
    n = len(gpus)
    sm = min(pairs.sms[gpu] for gpu in gpus)
    links = min(pairs.fabric[gpu] for gpu in gpus)
    if links and not (pairs.no_peer and any(a in gpus and b in gpus for a, b in pairs.no_peer)):
        return switched(sm, links, n)
    slowest, around = _best_ring(pairs, gpus)
    steps = [(a, b) if a < b else (b, a) for a, b in zip(around, (*around[1:], around[0]), strict=True)]
    worst = max(step(pairs, a, b) for a, b in steps)
    if worst == Step.NVLINK and n > 1:
        rate, fabric = _by_links(pairs, gpus, slowest, rates.nvlink(sm).nccl_gb_s), Fabric.NVLINK
    else:
        rate, fabric = slowest, Fabric.HOST if worst == Step.HOST else Fabric.PCIE
    all_pairs = all(pairs.gb_s[a][b] >= slowest for a in gpus for b in gpus)
    count = min(pairs.links[a][b] for a, b in steps)
    return Group(n, fabric, rate, count, rates.nvlink(sm).nccl_gb_s if count else 0.0, all_pairs=all_pairs)


def _by_links(pairs: Pairs, gpus: tuple[int, ...], slowest: float, link_gb_s: float) -> float:
    """GB/s of all rings over NVLinks at once: each link bears one ring, and another one the other way round.

    On a whole DGX-1 with V100 that is 3 x 2 x 20 GB/s, all that its six links per GPU have. Links into switches are the
    same for every pair, so no GPU may use more than it has.
    """
    most = link_gb_s * min(own_links(pairs)[gpu] for gpu in gpus)
    if len(gpus) > packing.EXACT:
        return min(2 * slowest, most)
    packed = packing.packed_rings([[pairs.links[a][b] for b in gpus] for a in gpus])
    return min(2 * link_gb_s * packed, most)


@lru_cache(maxsize=1024)
def own_links(pairs: Pairs) -> tuple[int, ...]:
    """The NVLinks that each GPU has, to others and to switches."""
    if not any(pairs.fabric):
        return tuple(map(sum, pairs.links))
    return tuple(
        own + sum(max(0, links - min(own, other)) for links, other in zip(row, pairs.fabric, strict=True))
        for own, row in zip(pairs.fabric, pairs.links, strict=True)
    )


@lru_cache(maxsize=1024)
def switched(sm: int, links: int, gpus: int) -> Group:
    """GPUs with so many NVLinks each to one fabric of switches."""
    return collectives.switched(replace(rates.nvlink(sm), links=links), gpus)


def spanning_s(sm: int, links: int, gpus: int, size: float) -> float:
    """Seconds of an all-reduce of `size` bytes among GPUs of several machines, so many links each to a fabric."""
    return group_s(switched(sm, links, gpus), size)


@lru_cache(maxsize=_KEPT)
def all_reduce_s(pairs: Pairs, gpus: tuple[int, ...], size: float) -> float:
    """Seconds of an all-reduce of `size` bytes."""
    return group_s(group(pairs, gpus), size)


@lru_cache(maxsize=4096)
def group_s(group: Group, size: float) -> float:
    """Seconds of an all-reduce of `size` bytes in a group."""
    return collectives.all_reduce(group, size)
