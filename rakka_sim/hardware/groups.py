"""From a set of GPUs to the group whose collectives can be costed: the ring, the fabric, whether switches add up.

Everything here is a function of `Pairs` and a set, kept by both, because placements ask the same again and again.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from rakka_sim.hardware import collectives, rates, rings
from rakka_sim.hardware.collectives import Fabric, Group
from rakka_sim.hardware.pairs import Pairs
from rakka_sim.hardware.paths import PathClass

# 2^16 sets of one machine of 16 GPUs, and room for others.
_KEPT = 1 << 18


@lru_cache(maxsize=_KEPT)
def _best_ring(pairs: Pairs, gpus: tuple[int, ...]) -> tuple[float, tuple[int, ...]]:
    slowest, ring = rings.best_ring([[pairs.gb_s[a][b] for b in gpus] for a in gpus])
    return slowest, tuple(gpus[i] for i in ring)


def ring(pairs: Pairs, gpus: tuple[int, ...]) -> tuple[int, ...]:
    """The ring whose slowest step is fastest, from the smallest index on."""
    return _best_ring(pairs, gpus)[1]


@lru_cache(maxsize=_KEPT)
def group(pairs: Pairs, gpus: tuple[int, ...]) -> Group:
    """Those GPUs (in ascending order) as collectives see them."""
    n = len(gpus)
    sm = min(pairs.sms[gpu] for gpu in gpus)
    links = min(pairs.fabric[gpu] for gpu in gpus)
    if links and not any(a in gpus and b in gpus for a, b in pairs.no_peer):
        return switched(sm, links, n)
    slowest, around = _best_ring(pairs, gpus)
    steps = [(a, b) if a < b else (b, a) for a, b in zip(around, (*around[1:], around[0]), strict=True)]
    worst = max((pairs.paths[a][b] for a, b in steps), default=PathClass.X)
    barred = any(step in pairs.no_peer for step in steps)
    if worst is PathClass.NV:
        # A ring takes one direction of each link; where there are three or more, another runs the other way round.
        rate, fabric = slowest * (1 if n == 2 else 2), Fabric.NVLINK
    else:
        rate, fabric = slowest, Fabric.PCIE if worst.peer and not barred else Fabric.HOST
    all_pairs = all(pairs.gb_s[a][b] >= slowest for a in gpus for b in gpus)
    count = min((pairs.links[a][b] for a, b in steps), default=0)
    return Group(n, fabric, rate, count, rates.nvlink(sm).nccl_gb_s if count else 0.0, all_pairs=all_pairs)


def switched(sm: int, links: int, gpus: int) -> Group:
    """GPUs with so many NVLinks each to one fabric of switches."""
    return collectives.switched(replace(rates.nvlink(sm), links=links), gpus)


@lru_cache(maxsize=_KEPT)
def all_reduce_s(pairs: Pairs, gpus: tuple[int, ...], size: float) -> float:
    """Seconds of an all-reduce of `size` bytes."""
    return collectives.all_reduce(group(pairs, gpus), size)
