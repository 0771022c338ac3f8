"""The core of loading weights beside a naive fluid simulation: shared links and reads, who gives up, who forgets."""

from __future__ import annotations

import math

import pytest
from core.loads import Ask, Cluster, Script, scripts
from hypothesis import given

from rakka_sim.core.loading import Loading
from rakka_sim.errors import InputError
from rakka_sim.hardware.routes import Weights
from rakka_sim.hardware.transfers import Link


def played(script: Script, looks: int = 0) -> dict[int, float]:
    """When each ask has its weights, by the core; `looks`: how often somebody looks between two events."""
    loading: Loading[int] = Loading()
    ended: dict[int, float] = {}

    def upto(now: float) -> None:
        while (end := loading.next_end()) is not None and end <= now:
            ended.update(dict.fromkeys(loading.advance(end), end))
            loading.check()
        if now < math.inf:
            assert loading.advance(now) == []

    last = 0.0
    for now in map(float, script.instants()):
        for look in range(looks):
            upto(last + (now - last) * (look + 1) / (looks + 1))
        upto(now)
        for number, ask in enumerate(script.asks):
            if ask.goes == now:
                loading.cancel(now, number)
        for at, node in script.returns:
            if at == now:
                loading.forget(node)
        for number, ask in enumerate(script.asks):
            if ask.at == now:
                loading.start(now, number, ask.weights(script.cluster))
        loading.check()
        last = now
    upto(math.inf)
    assert loading.under_way == ()
    return ended


@given(scripts)
def test_every_replica_has_its_weights_when_the_fluid_simulator_says(script: Script) -> None:
    script.play()
    found = played(script)
    if script.close_calls():
        return
    assert found.keys() == {number for number, ask in enumerate(script.asks) if ask.ended is not None}
    for number, end in found.items():
        assert end == pytest.approx(float(script.asks[number].ended or 0), rel=1e-9)


@given(scripts)
def test_to_look_does_not_change_what_is_seen(script: Script) -> None:
    """Not even in the last digit: the end of a transfer is said once, when its rate is known."""
    assert played(script, looks=3) == played(script)


@given(scripts)
def test_another_node_does_not_change_the_last_digit(script: Script) -> None:
    script.cluster.store = None
    alone = Script(script.cluster, [ask for ask in script.asks if ask.node == "n0"], script.returns)
    numbers = [number for number, ask in enumerate(script.asks) if ask.node == "n0"]
    whole = played(script)
    assert played(alone) == {place: whole[number] for place, number in enumerate(numbers) if number in whole}


# --- by hand --------------------------------------------------------------------------------------------------------


def times(cluster: Cluster, *asks: Ask) -> list[float]:
    found = played(Script(cluster, list(asks), []))
    return [found[number] for number in range(len(asks))]


def test_one_read_is_for_all_replicas_of_a_model_and_two_models_share_the_disk() -> None:
    """60 bytes from a disk of 10 bytes/s: 6 s, for one as for two. With 60 other ones beside them, 12 s each."""
    cluster = Cluster(None, 10, 60)
    a, again = Ask(0, "n0", "a", (0,), True), Ask(0, "n0", "a", (1,), True)
    assert times(cluster, a) == times(cluster, a, again)[:1] == [6.0]
    assert times(cluster, a, again) == [6.0, 6.0]
    alone = Ask(0, "n0", "a", (1,), kept=False)
    assert times(cluster, Ask(0, "n0", "a", (0,), kept=False), alone) == [12.0, 12.0]


def test_who_comes_later_finds_the_memory_full_and_waits_for_its_own_copy_only() -> None:
    """60 bytes over PCIe of 20 bytes/s: 3 s. While the read is under way, it is waited for."""
    cluster = Cluster(None, 10, 20)
    first = Ask(0, "n0", "a", (0,), True)
    assert times(cluster, first, Ask(100, "n0", "a", (1,), True)) == [6.0, 103.0]
    assert times(cluster, first, Ask(2, "n0", "a", (1,), True)) == [6.0, 6.0]
    assert times(cluster, first, Ask(5, "n0", "a", (1,), True)) == [6.0, 8.0]
    assert times(cluster, first, Ask(100, "n1", "a", (1,), True)) == [6.0, 106.0]


def test_a_rank_copies_its_share() -> None:
    """30 bytes to each of two GPUs, 10 bytes/s each: 3 s, where one GPU takes 6."""
    cluster = Cluster(None, 60, 10)
    assert times(cluster, Ask(0, "n0", "a", (0, 1), True)) == [3.0]
    assert times(cluster, Ask(0, "n0", "a", (0,), True)) == [6.0]


def test_nodes_share_the_store() -> None:
    """60 bytes to each of two nodes, from a store of 10 bytes/s for both: 12 s, whatever their disks could."""
    cluster = Cluster(10, 40, 60)
    assert times(cluster, Ask(0, "n0", "a", (0,), True), Ask(0, "n1", "a", (0,), True)) == [12.0, 12.0]


def test_a_read_that_nobody_wants_stops_and_goes_on_where_it_was() -> None:
    """After 4 s 40 of 60 bytes are in memory. Who comes at 10 s reads 20 more: 2 s, its copy (1 s) beside that."""
    cluster = Cluster(None, 10, 60)
    script = Script(cluster, [Ask(0, "n0", "a", (0,), True, goes=4), Ask(10, "n0", "a", (0,), True)], [])
    assert played(script) == {1: 12.0}
    lost = Script(cluster, script.asks, [(7, "n0")])  # a node that was away has nothing in memory
    assert played(lost) == {1: 16.0}


def test_who_asks_again_gives_up_what_it_asked_for() -> None:
    loading: Loading[str] = Loading()
    cluster = Cluster(None, 10, 20)
    loading.start(0.0, "x", Ask(0, "n0", "a", (0,), True).weights(cluster))
    loading.start(1.0, "x", Ask(0, "n0", "b", (0,), True).weights(cluster))
    loading.check()
    assert loading.under_way == ("x",)
    assert loading.next_end() == 1 + 90 / 20
    assert loading.advance(100.0) == ["x"]
    loading.cancel(100.0, "x")
    loading.check()


def test_links_that_contradict_themselves_are_refused_and_nothing_is_begun() -> None:
    loading: Loading[str] = Loading()
    disk, bus = Link("disk", 10.0), Link("bus", 10.0)
    loading.start(0.0, "x", Weights("n", "a", 10.0, (disk,), (((bus,), 10.0),)))
    for read, way in [((Link("disk", 11.0),), (bus,)), ((disk,), (bus, bus)), ((), (bus,)), ((disk,), ())]:
        with pytest.raises(InputError):
            loading.start(0.0, "y", Weights("n", "b", 10.0, read, ((way, 10.0),)))
        loading.check()
        assert loading.under_way == ("x",)
    assert loading.advance(1.0) == ["x"]
