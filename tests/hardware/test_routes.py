"""The ways of bytes in known machines: into memory, down the PCIe tree, from GPU to GPU; and KV blocks over them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rakka_sim.config.base import parse
from rakka_sim.config.cluster import Cluster
from rakka_sim.config.models import model_spec
from rakka_sim.errors import InputError, ScenarioError
from rakka_sim.hardware.clusters import cluster_topology
from rakka_sim.hardware.kv_transfer import kv_transfer
from rakka_sim.hardware.presets import preset
from rakka_sim.hardware.racks import nvl72_rack
from rakka_sim.hardware.routes import Routes, Way
from rakka_sim.hardware.topology import ClusterTopology, Node, Place
from rakka_sim.hardware.transfers import seconds_together

LLAMA = model_spec("meta-llama/Llama-3.1-8B")  # 32 layers, 8 KV heads of 128: 131,072 bytes a token, 2 MiB a block
BLOCK = 16 * 2 * 32 * 8 * 128 * 2


def cluster(tmp_path: Any = None, **fields: Any) -> Routes:
    config = parse(Cluster, fields, "test")
    return Routes(cluster_topology(config, tmp_path), config)


def boxes(*names: str) -> ClusterTopology:
    return ClusterTopology(tuple(Node(f"{name} {at}", preset(name)) for at, name in enumerate(names)))


def rates(way: Way) -> list[float]:
    """GB/s, in order."""
    return [round(link.bytes_s / 1e9, 3) for link in way]


# --- into a node's memory -------------------------------------------------------------------------------------------


def node(name: str = "n", **fields: Any) -> dict[str, Any]:
    return {"name": name, "gpu": "H100", "gpus": 8, **fields}


@pytest.mark.parametrize(
    ("store", "fields", "expected"),
    [
        (None, {}, []),
        (None, {"storage_gb_s": 6.0}, [("n: storage", 6.0)]),
        (20.0, {}, [("model store", 20.0), ("n: network in", 400.0)]),  # an HGX H100 has eight cards of 400 Gb/s
        (20.0, {"network_gb_s": 3.0}, [("model store", 20.0), ("n: network in", 3.0)]),
        (20.0, {"topology": "pcie", "gpu": "L40S"}, [("model store", 20.0)]),  # nobody knows of a network card
        (20.0, {"network_gb_s": 3.0, "storage_gb_s": 2.0}, [("model store", 20.0), ("n: network in", 3.0),
                                                            ("n: storage", 2.0)]),
    ],
)  # fmt: skip
def test_weights_come_from_what_is_described(
    store: float | None, fields: dict[str, Any], expected: list[tuple[str, float]]
) -> None:
    routes = cluster(nodes=[node(**fields)], model_store_gb_s=store)
    assert [(link.name, link.bytes_s / 1e9) for link in routes.to_host("n")] == expected
    weights = routes.weights("n", (0, 3), "a", 12.0)
    assert (weights is None) == (not expected)
    if weights is not None:
        assert (weights.read, weights.kept, weights.files) == (routes.to_host("n"), True, "a")
        assert weights.copies == ((routes.to_gpu("n", 0), 6.0), (routes.to_gpu("n", 3), 6.0))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"nodes": [node(storage_gb_s=0.0)]}, "storage_gb_s: 0.0"),
        ({"nodes": [node(storage_gb_s=-1.0)]}, "storage_gb_s: -1.0"),
        ({"nodes": [node(storage_gb_s=float("inf"))]}, "storage_gb_s: inf"),
        ({"nodes": [node(storage_gb_s="fast")]}, "storage_gb_s: 'fast'"),
        ({"nodes": [node()], "model_store_gb_s": 0}, "model_store_gb_s: 0"),
        ({"nodes": [node(network_gb_s=1.0)]}, "needs model_store_gb_s"),
        ({"nodes": [{"name": "n", "egress": True, "storage_gb_s": 1.0}]}, "they need gpu"),
        ({"nodes": [node(host_memory_cache="maybe")]}, "host_memory_cache: 'maybe'"),
    ],
)
def test_what_cannot_be_read_from_is_refused_by_its_key(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ScenarioError, match=told):
        parse(Cluster, fields, "test")


# --- to a GPU, and between GPUs -------------------------------------------------------------------------------------


def test_two_gpus_below_a_switch_share_its_link_and_nothing_with_others() -> None:
    """DGX-1: pairs below a switch, Gen3 x16 = 12 GB/s as NCCL counts it. 12 GB to both of a pair take 2 s, not 1."""
    routes = Routes(boxes("dgx1-v100"))
    ways = [routes.to_gpu("dgx1-v100 0", gpu) for gpu in range(8)]
    assert [rates(way) for way in ways] == [[12.0, 12.0]] * 8
    shared = [[len(set(a) & set(b)) for b in ways] for a in ways]
    assert shared == [[2 if a == b else int(a // 2 == b // 2) for b in range(8)] for a in range(8)]
    links = {link.name: link for way in ways for link in way}.values()
    loads = [(tuple(link.name for link in way), 12e9) for way in ways]
    assert seconds_together(links, loads[:1]) == [1.0]
    assert seconds_together(links, loads[::2]) == [1.0] * 4
    assert seconds_together(links, loads) == [2.0] * 8


def test_a_box_of_pcie_shares_what_its_tree_shares() -> None:
    """Pairs on one switch, the switches of a half on one above: four GPUs of a socket share one link of Gen4."""
    routes = Routes(boxes("pcie"))
    assert [rates(routes.to_gpu("pcie 0", gpu)) for gpu in (0, 7)] == [[24.0] * 3] * 2
    first = [routes.to_gpu("pcie 0", gpu)[0] for gpu in range(8)]
    assert first[0] == first[3] != first[4] == first[7]
    with pytest.raises(InputError, match="GPU of node pcie 0: 8 is not allowed; allowed: 0 to 7"):
        routes.to_gpu("pcie 0", 8)


def of(name: str, a: int, b: int) -> list[float]:
    return rates(Routes(boxes(name)).between((f"{name} 0", a), (f"{name} 0", b)))


def test_the_ways_between_gpus_of_known_machines() -> None:
    assert of("hgx-h100", 0, 5) == [370.8, 370.8]  # 18 links x 20.6 into the switches and out
    assert of("dgx1-v100", 0, 3) == [40.0]  # two NVLinks of 20
    assert of("dgx1-v100", 0, 5) == [12.0, 12.0, 12.0, 12.0, 6.0, 6.0]  # PCIe up, down, QPI, and what all that carries
    assert of("pcie", 0, 1) == [24.0, 24.0, 24.0]  # up to their switch and down
    assert of("pcie", 0, 2) == [24.0] * 5
    assert of("hgx-h100", 3, 3) == []


@pytest.mark.parametrize("name", ["dgx1-v100", "dgx2", "dgx-a100", "hgx-h200", "hgx-b200", "pcie", "nvlink-pairs"])
def test_alone_a_way_carries_what_the_machine_says_of_the_pair(name: str) -> None:
    topology = boxes(name)
    machine, routes = topology.nodes[0].machine, Routes(topology)
    for a in range(machine.count):
        for b in range(machine.count):
            if a != b:
                way = routes.between((f"{name} 0", a), (f"{name} 0", b))
                assert min(rates(way)) == pytest.approx(machine.bandwidth(a, b), abs=1e-3)


def test_between_nodes_the_nearest_cards_carry_it_and_in_a_rack_its_fabric() -> None:
    two = Routes(boxes("hgx-h100", "hgx-h100"))
    assert rates(two.between(("hgx-h100 0", 2), ("hgx-h100 1", 7))) == [36.5, 36.5]  # 0.73 of 400 Gb/s
    a100 = Routes(boxes("dgx-a100", "dgx-a100"))
    ways = [a100.between(("dgx-a100 0", gpu), ("dgx-a100 1", gpu)) for gpu in (0, 1, 2)]
    assert [rates(way) for way in ways] == [[36.5, 36.5]] * 3  # 0.73 of the two cards of 200 Gb/s that are near
    assert ways[0][0] == ways[1][0] != ways[2][0]  # which the two GPUs of a switch share
    rack = Routes(nvl72_rack(2))
    assert rates(rack.between(("nvl72-00", 0), ("nvl72-01", 1))) == [721.8] * 2  # 18 x 40.1


# --- KV blocks ------------------------------------------------------------------------------------------------------


def places(node: str, *gpus: int) -> list[Place]:
    return [(node, gpu) for gpu in gpus]


def test_blocks_of_one_gpu_by_hand() -> None:
    """512 blocks of 2 MiB: 1.07 GB. Over NVLinks of an H100 370.8 GB/s, to another node 36.5 GB/s."""
    topology = boxes("hgx-h100", "hgx-h100")
    near = kv_transfer(topology, places("hgx-h100 0", 0), places("hgx-h100 0", 1), LLAMA, 512)
    away = kv_transfer(topology, places("hgx-h100 0", 0), places("hgx-h100 1", 0), LLAMA, 512)
    assert near.bytes == away.bytes == 512 * BLOCK == 512 * 2 * 2**20
    assert near.seconds == pytest.approx(512 * BLOCK / 370.8e9)
    assert away.seconds == pytest.approx(512 * BLOCK / 36.5e9)
    same = kv_transfer(topology, places("hgx-h100 0", 0), places("hgx-h100 0", 0), LLAMA, 512)
    assert (same.bytes, same.seconds) == (0, 0.0)


def test_ranks_send_their_heads_side_by_side_and_share_what_they_share() -> None:
    """TP=2 to TP=2: each half over its own cards, half the time. In a DGX A100 two GPUs share cards: no faster."""
    h100, a100 = boxes("hgx-h100", "hgx-h100"), boxes("dgx-a100", "dgx-a100")
    fast = kv_transfer(h100, places("hgx-h100 0", 0, 1), places("hgx-h100 1", 4, 5), LLAMA, 512)
    assert [(flow.source[1], flow.target[1], flow.bytes) for flow in fast.flows] == [
        (0, 4, 256 * BLOCK),
        (1, 5, 256 * BLOCK),
    ]
    assert fast.seconds == pytest.approx(256 * BLOCK / 36.5e9)
    slow = kv_transfer(a100, places("dgx-a100 0", 0, 1), places("dgx-a100 1", 0, 1), LLAMA, 512)
    assert slow.seconds == pytest.approx(512 * BLOCK / 36.5e9)


def test_one_prefill_gpu_feeds_four_decode_ranks_through_its_own_links() -> None:
    topology = boxes("hgx-h100")
    moved = kv_transfer(topology, places("hgx-h100 0", 0), places("hgx-h100 0", 1, 2, 3, 4), LLAMA, 512)
    assert [flow.bytes for flow in moved.flows] == [128 * BLOCK] * 4
    assert moved.seconds == pytest.approx(512 * BLOCK / 370.8e9)


shapes = st.tuples(st.sampled_from([1, 2, 4, 8, 16, 32]), st.sampled_from([1, 2, 4, 8, 16, 32]))


@given(shapes, st.integers(1, 1000))
def test_every_rank_gets_its_heads_from_those_who_have_them(shape: tuple[int, int], blocks: int) -> None:
    """By plain enumeration: rank r of n holds heads floor(r H / n) up to those of rank r + 1, at least one."""
    topology = ClusterTopology(tuple(Node(name, preset("pcie", "L40S", 32)) for name in "ab"))
    source, target = places("a", *range(shape[0])), places("b", *range(shape[1]))
    moved = kv_transfer(topology, source, target, LLAMA, blocks)

    def heads(rank: int, ranks: int) -> set[int]:
        return {head for head in range(8) if ranks <= 8 and head * ranks // 8 == rank} or {rank * 8 // ranks}

    got: dict[int, float] = {}
    for flow in moved.flows:
        common = heads(flow.source[1], shape[0]) & heads(flow.target[1], shape[1])
        assert flow.bytes == pytest.approx(len(common) * blocks * BLOCK / 8)
        got[flow.target[1]] = got.get(flow.target[1], 0.0) + flow.bytes
    for rank in range(shape[1]):
        assert got[rank] == pytest.approx(len(heads(rank, shape[1])) * blocks * BLOCK / 8)


BAD: list[tuple[Callable[[ClusterTopology], object], str]] = [
    (lambda t: kv_transfer(t, places("hgx-h100 0", 0), places("hgx-h100 0", 1), LLAMA, 0), "KV blocks: 0"),
    (lambda t: kv_transfer(t, places("hgx-h100 0", 0, 0), places("hgx-h100 0", 1), LLAMA, 1), "each once"),
    (lambda t: kv_transfer(t, places("hgx-h100 0", 0), places("hgx-h100 0", 1, 2, 3), LLAMA, 1), "tp of Llama"),
    (lambda t: kv_transfer(t, places("hgx-h100 0", 0), places("hgx-h100 0", 8), LLAMA, 1), "0 to 7"),
    (lambda t: kv_transfer(t, places("elsewhere", 0), places("hgx-h100 0", 1), LLAMA, 1), "elsewhere"),
]


@pytest.mark.parametrize(("call", "told"), BAD, ids=[told for _, told in BAD])
def test_what_cannot_be_moved_is_said(call: Callable[[ClusterTopology], object], told: str) -> None:
    with pytest.raises(InputError, match=told):
        call(boxes("hgx-h100"))
