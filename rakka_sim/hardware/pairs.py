"""What policies read of a machine: for each pair of GPUs the path, the NVLinks and the rate, and what follows.

Machines with equal pairs share one object (`Pairs.shared`), and with it all that was ever computed of a set of GPUs.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import islice

import networkx as nx

from rakka_sim.errors import InputError
from rakka_sim.hardware.paths import PathClass

MOST_ISLANDS = 10_000


@dataclass(frozen=True)
class Pairs:
    """Symmetric n x n tuples over the GPUs of a machine, by index.

    `paths`: NVLink counted; `links`: NVLinks, through a switch the smaller number of the two; `gb_s`: GB/s each
    way; `fabric[i]`: NVLinks of GPU i to switches; `no_peer`: pairs that cannot copy to each other directly.
    """

    models: tuple[str, ...]
    sms: tuple[int, ...]
    numa: tuple[int, ...]
    paths: tuple[tuple[PathClass, ...], ...]
    links: tuple[tuple[int, ...], ...]
    gb_s: tuple[tuple[float, ...], ...]
    fabric: tuple[int, ...]
    no_peer: tuple[tuple[int, int], ...]
    nics: tuple[tuple[float, tuple[PathClass, ...]], ...] = ()

    @cached_property
    def key(self) -> str:
        """A short text that machines share if and only if (but for a hash) their pairs are equal."""
        parts = (self.models, self.sms, self.numa, self.links, self.gb_s, self.fabric, self.no_peer)
        paths = [[int(path) for path in row] for row in self.paths]
        nics = [(gb_s, [int(path) for path in row]) for gb_s, row in self.nics]
        digest = hashlib.sha256(repr((parts, paths, nics)).encode()).hexdigest()[:10]
        kinds = list(dict.fromkeys(model or "gpu" for model in self.models))
        kind = "none" if not kinds else "mixed" if len(kinds) > 1 else kinds[0].replace(" ", "-")
        return f"{len(self.models)}x{kind}-{digest}"

    def shared(self) -> Pairs:
        """The one object of these contents."""
        return _shared(self)

    def __hash__(self) -> int:
        return hash(self.key)

    def islands(self, at_least: float | None) -> tuple[frozenset[int], ...]:
        """Maximal cliques of pairs at `at_least` GB/s; None: by NVLink, or where there is none, peers by PCIe."""
        return _islands(self, at_least)


@lru_cache(maxsize=4096)
def _shared(pairs: Pairs) -> Pairs:
    return pairs


@lru_cache(maxsize=4096)
def _islands(pairs: Pairs, at_least: float | None) -> tuple[frozenset[int], ...]:
    n = len(pairs.models)
    joined: nx.Graph[int] = nx.Graph()
    joined.add_nodes_from(range(n))
    has_nvlink = any(map(any, pairs.links))
    for a in range(n):
        for b in range(a):
            if at_least is not None:
                near = pairs.gb_s[a][b] >= at_least
            elif has_nvlink:
                near = pairs.links[a][b] > 0
            else:
                near = pairs.paths[a][b].peer and (b, a) not in pairs.no_peer
            if near:
                joined.add_edge(a, b)
    cliques = [frozenset(clique) for clique in islice(nx.find_cliques(joined), MOST_ISLANDS + 1)]
    if len(cliques) > MOST_ISLANDS:
        raise InputError("topology", f"more than {MOST_ISLANDS} islands", "NVLinks that make fewer cliques")
    return tuple(sorted(cliques, key=lambda clique: (-len(clique), sorted(clique))))
