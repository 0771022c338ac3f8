"""The weight loader: at the very instants of its core on the virtual clock; on both clocks everybody is answered."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from core.loads import Ask, Cluster, Script, scripts
from core.test_loading import played
from hypothesis import given
from hypothesis import strategies as st

from rakka_sim.actors.loader import WeightLoader
from rakka_sim.errors import InputError
from rakka_sim.hardware.links import Link, seconds_together
from rakka_sim.hardware.routes import Weights
from rakka_sim.messages import CancelLoad, LoadWeights, RoomAgain, WeightsLoaded
from rakka_sim.runtime.api import Actor, Context, Ref
from rakka_sim.runtime.base import ActorSystem
from rakka_sim.runtime.live import LiveRuntime
from rakka_sim.runtime.sim import SimRuntime

WAIT_S = 60.0


class Replica(Actor):
    """Keeps what it is told, with the time."""

    def __init__(self, then: Ref[Any] | None = None) -> None:
        self.told: list[tuple[float, Any]] = []
        self._then = then

    def receive(self, ctx: Context, msg: Any) -> None:
        self.told.append((ctx.now, msg))
        if self._then is not None:
            ctx.tell(self._then, ctx.now)


class Driver(Actor):
    """Tells whom it is to tell at given times, in order."""

    def __init__(self, tells: list[tuple[float, Ref[Any], Any]]) -> None:
        self._tells = tells

    def started(self, ctx: Context) -> None:
        for at, to, msg in self._tells:
            ctx.after(at, (to, msg))

    def receive(self, ctx: Context, msg: Any) -> None:
        ctx.tell(*msg)


def ends(system: ActorSystem, script: Script) -> dict[int, float]:
    """When each ask is told that it has its weights."""
    loader = system.spawn("loader", WeightLoader)
    replicas = [Replica() for _ in script.asks]
    refs = [system.spawn(f"r{number}", lambda of=of: of) for number, of in enumerate(replicas)]
    tells: list[tuple[float, Ref[Any], Any]] = []
    for ask, ref in zip(script.asks, refs, strict=True):
        if ask.goes is not None:
            tells.append((float(ask.goes), loader, CancelLoad(ref)))
    tells += [(float(at), loader, RoomAgain(node)) for at, node in script.returns]
    for ask, ref in zip(script.asks, refs, strict=True):
        tells.append((float(ask.at), loader, LoadWeights(ask.weights(script.cluster), ref)))
    tells.sort(key=lambda tell: tell[0])
    system.spawn("driver", lambda: Driver(tells))
    system.env.run()  # type: ignore[attr-defined]
    assert system.dead_letters == {}
    loader.cell.actor._loading.check()  # type: ignore[attr-defined]
    assert loader.cell.actor._loading.under_way == ()  # type: ignore[attr-defined]
    assert all(len(replica.told) <= 1 for replica in replicas)
    return {number: replica.told[0][0] for number, replica in enumerate(replicas) if replica.told}


@given(scripts, st.none() | st.integers(0, 99))
def test_it_answers_at_the_very_instant_that_its_core_says(script: Script, ties: int | None) -> None:
    script.play()
    if not script.close_calls():
        assert ends(SimRuntime(shuffle_ties=ties), script) == played(script)


together = st.lists(st.tuples(st.sampled_from(["n0", "n1"]), st.integers(0, 1)), min_size=1, max_size=6)


@given(together, st.integers(3, 40), st.integers(3, 40), st.integers(0, 99))
def test_who_start_together_share_as_links_do_whoever_is_heard_first(
    places: list[tuple[str, int]], store: int, pcie: int, ties: int
) -> None:
    """Each reads for itself: its end is that of its read or of its copy, all of them being transfers together."""
    cluster = Cluster(store, 30, pcie)
    asks = [Ask(0, node, "a", (gpu,), kept=False) for node, gpu in places]
    links = [Link(name, float(rate)) for name, rate in cluster.capacity.items()]
    reads = seconds_together(links, [(cluster.read(ask.node), ask.size) for ask in asks])
    copies = seconds_together(links, [((f"{ask.node} pcie{ask.gpus[0]}",), ask.size) for ask in asks])
    system = SimRuntime(shuffle_ties=ties)
    loader = system.spawn("loader", WeightLoader)
    replicas = [Replica() for _ in asks]
    for number, (ask, replica) in enumerate(zip(asks, replicas, strict=True)):
        ref = system.spawn(f"r{number}", lambda of=replica: of)
        tell = (0.0, loader, LoadWeights(ask.weights(cluster), ref))
        system.spawn(f"d{number}", lambda of=tell: Driver([of]))
    system.env.run()
    assert [replica.told[0][0] for replica in replicas] == [max(pair) for pair in zip(reads, copies, strict=True)]


# --- on both clocks -------------------------------------------------------------------------------------------------


@pytest.fixture(params=["sim", "live"])
def system(request: pytest.FixtureRequest) -> Iterator[ActorSystem]:
    made: ActorSystem = SimRuntime(0) if request.param == "sim" else LiveRuntime(0)
    yield made
    made.stop()


def small(seconds: float, files: str = "a") -> Weights:
    """Weights that take so long from the disk alone; PCIe is ten times as fast."""
    return Weights("n", files, seconds * 1e9, (Link("disk", 1e9),), (((Link("pcie", 1e10),), seconds * 1e9),))


def test_it_answers_not_before_its_time(system: ActorSystem) -> None:
    """0.05 s alone; then 0.1 s beside another: 0.2 s for both, which a wall clock may make longer, not shorter."""
    loader = system.spawn("loader", WeightLoader)
    begin = system.now
    assert system.ask(loader, LoadWeights(small(0.05)), WAIT_S) == WeightsLoaded()
    assert system.now - begin >= 0.05 - 1e-9
    heard = [system.promise(name) for name in "bc"]
    refs = [system.spawn(name, lambda box=box: Replica(box.ref)) for name, box in zip("bc", heard, strict=True)]
    driver = Driver([(0.0, loader, LoadWeights(small(0.1, name), ref)) for name, ref in zip("bc", refs, strict=True)])
    begin = system.now
    system.spawn("driver", lambda: driver)
    for box in heard:
        assert system.wait(box, WAIT_S) - begin >= 0.15


def test_who_goes_frees_the_disk_at_once(system: ActorSystem) -> None:
    """Beside a load of a thousand hours that is given up, one of 0.05 s is not kept waiting."""
    loader = system.spawn("loader", WeightLoader)
    other = system.spawn("other", Replica)
    system.tell(loader, LoadWeights(small(3.6e6, "huge"), other))
    system.tell(loader, CancelLoad(other))
    system.tell(loader, CancelLoad(other))
    assert system.ask(loader, LoadWeights(small(0.05)), WAIT_S) == WeightsLoaded()


def test_what_cannot_be_loaded_is_an_error_for_who_asked_alone(system: ActorSystem) -> None:
    loader = system.spawn("loader", WeightLoader)
    assert system.ask(loader, LoadWeights(small(0.001)), WAIT_S) == WeightsLoaded()
    odd = Weights("n", "b", 1.0, (Link("disk", 2e9),), (((Link("pcie", 1e10),), 1.0),))
    with pytest.raises(InputError, match="bytes/s of link disk"):
        system.ask(loader, LoadWeights(odd), WAIT_S)
    assert system.ask(loader, LoadWeights(small(0.001, "b")), WAIT_S) == WeightsLoaded()
    assert system.dead_letters == {}
