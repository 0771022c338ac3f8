"""Scripts of replicas that load weights, and when each has them: by a naive fluid simulation in exact arithmetic.

Two nodes with a disk and two GPUs each, one store for both. No test is here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

from hardware.test_links import water_level
from hypothesis import strategies as st

from rakka_sim.hardware.routes import Weights
from rakka_sim.hardware.transfers import Link

NODES, MODELS, GPUS = ("n0", "n1"), ("a", "b"), (0, 1)
NEAR = Fraction(1, 10**6)  # s; floats may see two things in another order that are nearer to each other


@dataclass
class Cluster:
    """Its links, in bytes/s; None for a store, or a disk, that there is not."""

    store: int | None
    disk: int
    pcie: int

    @property
    def capacity(self) -> dict[str, int]:
        disks = {f"{node} disk": self.disk for node in NODES}
        buses = {f"{node} pcie{gpu}": self.pcie for node in NODES for gpu in GPUS}
        return disks | buses | ({} if self.store is None else {"store": self.store})

    def read(self, node: str) -> tuple[str, ...]:
        return (*(() if self.store is None else ("store",)), f"{node} disk")


@dataclass
class Ask:
    """One replica: when it asks for which weights, where, and when it goes away (None: never)."""

    at: int
    node: str
    model: str
    gpus: tuple[int, ...]
    kept: bool
    goes: int | None = None
    ended: Fraction | None = None
    left: list[Fraction] = field(default_factory=list)  # of each copy

    @property
    def size(self) -> int:
        return {"a": 60, "b": 90}[self.model]

    def key(self, number: int) -> tuple[str, str]:
        return (self.node, self.model if self.kept else f"{self.model}, {number} alone")

    def weights(self, cluster: Cluster) -> Weights:
        link = {name: Link(name, float(rate)) for name, rate in cluster.capacity.items()}
        copies = tuple(((link[f"{self.node} pcie{gpu}"],), self.size / len(self.gpus)) for gpu in self.gpus)
        read = tuple(link[name] for name in cluster.read(self.node))
        return Weights(self.node, self.model, float(self.size), read, copies, self.kept)


@dataclass
class Script:
    """What happens; `returns`: when which node comes back, with nothing in memory. Times are whole seconds."""

    cluster: Cluster
    asks: list[Ask]
    returns: list[tuple[int, str]]

    def play(self) -> None:
        """Fill in `ended` of every ask that gets its weights."""
        memory: dict[tuple[str, str], list[Fraction]] = {}  # what is left to read; a list, so that it can be forgotten
        reads: dict[int, list[Fraction]] = {}
        active: dict[int, Ask] = {}
        now, instants = Fraction(0), self.instants()
        while instants or active:
            flows = self._flows(active, reads)
            rates = water_level([path for path, _, _ in flows], self.cluster.capacity)
            ends = [now + left[at] / rate for (_, left, at), rate in zip(flows, rates, strict=True)]
            then = min([*ends, *([Fraction(instants[0])] if instants else [])])
            for (_, left, at), rate in zip(flows, rates, strict=True):
                left[at] -= rate * (then - now)
            now = then
            for number, ask in list(active.items()):
                if not any(ask.left) and not reads[number][0]:
                    ask.ended = now
                    del active[number]
            if instants and instants[0] == now:
                self._happen(int(instants.pop(0)), active, reads, memory)

    def instants(self) -> list[int]:
        """When something happens from outside."""
        goes = {ask.goes for ask in self.asks if ask.goes is not None}
        return sorted({ask.at for ask in self.asks} | goes | {at for at, _ in self.returns})

    def close_calls(self) -> set[int]:
        """Those that went away at the very moment at which they, or somebody before, had all: floats may differ."""
        ends = [ask.ended for ask in self.asks if ask.ended is not None]
        return {
            number
            for number, ask in enumerate(self.asks)
            if ask.goes is not None and any(abs(end - ask.goes) < NEAR for end in ends)
        }

    def _flows(
        self, active: dict[int, Ask], reads: dict[int, list[Fraction]]
    ) -> list[tuple[tuple[str, ...], list[Fraction], int]]:
        """What moves: over which links, and where it is written what is left of it."""
        flows: list[tuple[tuple[str, ...], list[Fraction], int]] = []
        for number, ask in active.items():
            if reads[number][0] and not any(reads[number] is left for _, left, _ in flows):
                flows.append((self.cluster.read(ask.node), reads[number], 0))
            for at, gpu in enumerate(ask.gpus):
                if ask.left[at]:
                    flows.append(((f"{ask.node} pcie{gpu}",), ask.left, at))
        return flows

    def _happen(
        self,
        now: int,
        active: dict[int, Ask],
        reads: dict[int, list[Fraction]],
        memory: dict[tuple[str, str], list[Fraction]],
    ) -> None:
        """Who goes, goes first; then nodes come back; then who comes, comes."""
        for number, ask in enumerate(self.asks):
            if ask.goes == now:
                active.pop(number, None)
        for at, node in self.returns:
            if at == now:
                for key in [key for key in memory if key[0] == node]:
                    del memory[key]
        for number, ask in enumerate(self.asks):
            if ask.at == now and (ask.goes is None or ask.goes > now):
                ask.left = [Fraction(ask.size, len(ask.gpus))] * len(ask.gpus)
                reads[number] = memory.setdefault(ask.key(number), [Fraction(ask.size)])
                active[number] = ask


def _ask(at: int, stays: int | None, **of: object) -> Ask:
    return Ask(at, goes=None if stays is None else at + stays, **of)  # type: ignore[arg-type]


asks = st.builds(
    _ask,
    st.integers(0, 12),
    st.none() | st.integers(1, 12),
    node=st.sampled_from(NODES),
    model=st.sampled_from(MODELS),
    gpus=st.sampled_from([(0,), (1,), (0, 1)]),
    kept=st.booleans() | st.just(True),
)
clusters = st.builds(Cluster, st.none() | st.integers(3, 40), st.integers(3, 40), st.integers(3, 60))
scripts = st.builds(
    Script,
    clusters,
    st.lists(asks, min_size=1, max_size=7),
    st.lists(st.tuples(st.integers(0, 20), st.sampled_from(NODES)), max_size=2),
)
