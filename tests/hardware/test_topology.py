"""Clusters: topograph's files, NVLink domains that span nodes, scenario tables, graph views."""

from __future__ import annotations

import contextlib
import math
from itertools import combinations, pairwise
from pathlib import Path

import networkx as nx
import pytest
from hardware.machines import machines
from hypothesis import given
from hypothesis import strategies as st

from rakka_sim.config.cluster import Cluster
from rakka_sim.config.loading import load_scenario
from rakka_sim.errors import InputError, ScenarioError
from rakka_sim.hardware.clusters import cluster_topology
from rakka_sim.hardware.collectives import Fabric
from rakka_sim.hardware.files import load_machine
from rakka_sim.hardware.graph import cluster_graph, machine_graph
from rakka_sim.hardware.nccl_write import write_nccl_xml
from rakka_sim.hardware.presets import preset
from rakka_sim.hardware.racks import nvl72_rack
from rakka_sim.hardware.shape import DomainFabric
from rakka_sim.hardware.topograph import expand, load_topograph, read_topograph
from rakka_sim.hardware.topology import NO_MACHINE, ClusterTopology, Machine, Node, PathClass, Switch

TRAY = preset("gb200-nvl72")

# --- topograph --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "nodes", "switches", "domains"),
    [("medium", 8, 7, [2] * 4), ("nvl72", 72, 7, [18] * 4), ("small-tree", 6, 3, [3, 3])],
)
def test_a_cluster_tree(shared_data: Path, file: str, nodes: int, switches: int, domains: list[int]) -> None:
    cluster = load_topograph(shared_data / "topologies" / f"topograph-{file}.yaml", TRAY)
    assert (len(cluster.nodes), len(cluster.switches)) == (nodes, switches)
    assert [len(names) for names in cluster.nvlink_domains.values()] == domains
    assert sorted(len(island) for island in cluster.islands()) == sorted(4 * n for n in domains)
    assert cluster.notes == ()


def test_every_cluster_tree_of_the_folder_is_read(shared_data: Path) -> None:
    for path in (shared_data / "topologies").glob("*.yaml"):
        assert load_topograph(path).count == 0


def test_regions_racks_and_hops(shared_data: Path) -> None:
    cluster = load_topograph(shared_data / "topologies" / "topograph-medium.yaml", TRAY)
    node = cluster.node("1102")
    assert (node.rack, node.failure_domain, node.region, node.nvlink_domain) == ("sw11", "sw11", "us-west", "nvl1")
    hops = [cluster.hops("1101", other) for other in ("1101", "1102", "1201", "1301")]
    assert hops == [0, 1, 3, 5]  # itself; one leaf; leaf, spine, leaf; leaf, spine, core, spine, leaf


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("node[8-11]", ["node8", "node9", "node10", "node11"]),
        ("n[08-10]x", ["n08x", "n09x", "n10x"]),
        ("[1,3-4]", ["1", "3", "4"]),
        ("I25", ["I25"]),
    ],
)
def test_ranges_of_nodes(text: str, names: list[str]) -> None:
    assert expand(text) == names


@pytest.mark.parametrize(
    ("data", "finding"),
    [
        (None, "a table"),
        ({"switches": []}, None),
        ({"switches": ["a"]}, "switches.*a table"),
        ({"blocks": [{"nodes": "n1"}]}, r"blocks\.0\.nodes.*a list"),
        ({"blocks": [{"nodes": [["n1"]]}]}, r"blocks\.0\.nodes.*a name"),
        ({"blocks": [{"nodes": ["n[5-1]"]}]}, "a range"),
        ({"blocks": [{"nodes": ["n[1-999999999]"]}]}, "a range"),
        ({"blocks": [{"nodes": ["a", "a"]}]}, "each once"),
        ({"switches": {"a": {"switches": ["b"]}, "b": {"switches": ["a"]}}}, "a tree"),
    ],
)
def test_faulty_trees(data: object, finding: str | None) -> None:
    if finding is None:
        assert read_topograph(data).nodes == ()
        return
    with pytest.raises(InputError, match=finding):
        read_topograph(data)


def test_a_switch_below_two_is_below_the_first_and_told() -> None:
    tree = {
        "switches": {"a": {"switches": ["c"]}, "b": {"switches": ["c"]}},
        "blocks": [{"switch": "c", "nodes": ["n"]}],
    }
    cluster = read_topograph(tree)
    assert dict((switch.name, switch.above) for switch in cluster.switches)["c"] == "a"
    assert "switch c is below a and b" in cluster.notes[0]


YAML_BOMB = "a: &a [x, x, x, x, x, x, x, x]\n" + "\n".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 8)}]" for i in range(12)
)


@pytest.mark.parametrize("text", [YAML_BOMB + "\nblocks: *m", "{", "!!python/object/apply:os.system [id]", "[" * 5000])
def test_hostile_yaml_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        load_topograph(file)
    assert len(str(caught.value)) < 1000


# --- clusters ---------------------------------------------------------------------------------------------------


def _rack(trays: int = 18) -> ClusterTopology:
    return nvl72_rack(trays, "tray")


def test_an_nvlink_island_spans_nodes() -> None:
    rack = _rack()
    (island,) = rack.islands()
    assert len(island) == 72
    assert rack.path(("tray-00", 0), ("tray-17", 3)) is PathClass.NV
    group = rack.group(sorted(island))
    assert (group.gpus, group.nodes, group.fabric, group.links) == (72, 1, Fabric.NVSWITCH, 18)
    # 72 GPUs in one fabric are as near as four: the slides say 680 GB/s as a ring.
    assert group.ring_gb_s == TRAY.group(range(4)).ring_gb_s == pytest.approx(721.8)


def test_without_a_domain_the_network_is_between_nodes() -> None:
    nodes = (Node("a", TRAY), Node("b", TRAY))
    cluster = ClusterTopology(nodes)
    assert cluster.path(("a", 0), ("b", 0)) is PathClass.NET
    assert [len(island) for island in cluster.islands()] == [4, 4]
    group = cluster.group([(name, gpu) for name in "ab" for gpu in range(4)])
    assert (group.nodes, group.nic_gb_s) == (2, 200.0)  # four cards of 400 Gb/s
    places = [(name, gpu) for name in "ab" for gpu in range(4)]
    assert cluster.all_reduce_s(places, 1 << 30) > 3 * _rack(2).all_reduce_s(
        [(f"tray-0{i}", gpu) for i in (0, 1) for gpu in range(4)], 1 << 30
    )


def test_fabrics_of_two_domains_do_not_meet() -> None:
    two = ClusterTopology((Node("a", TRAY, nvlink_domain="x"), Node("b", TRAY, nvlink_domain="y")))
    assert two.path(("a", 0), ("b", 0)) is PathClass.NET
    assert two.group([("a", 0), ("b", 0)]).nodes == 2
    assert [len(island) for island in two.islands()] == [4, 4]


def test_one_gpu_of_each_node_uses_the_cards_next_to_it() -> None:
    hgx = preset("hgx-h100")
    cluster = ClusterTopology((Node("a", hgx), Node("b", hgx)))
    group = cluster.group([("a", 0), ("b", 5)])
    assert (group.fabric, group.nodes, group.nic_gb_s) == (Fabric.NETWORK, 2, 50.0)


def test_a_tray_whose_gpu_lost_its_links_leaves_the_island() -> None:
    lost = TRAY.with_nvlinks(switch_links=[link for link in TRAY.switch_links if link.gpu != 3])
    rack = ClusterTopology((Node("a", TRAY, nvlink_domain="d"), Node("b", lost, nvlink_domain="d")))
    assert [len(island) for island in rack.islands()] == [7, 1]
    assert rack.path(("a", 0), ("b", 3)) is PathClass.NET


@pytest.mark.parametrize("gpus", [2, 5, 8, 16, 72])
def test_what_placing_is_told_of_a_fabric_is_what_the_cluster_says(gpus: int) -> None:
    rack = nvl72_rack()
    places = [(node.name, gpu) for node in rack.nodes for gpu in range(4)][:gpus]
    fabric = DomainFabric("nvl72", TRAY)
    assert fabric.cost(0, gpus, 1 << 20) == pytest.approx(rack.all_reduce_s(places, 1 << 20), abs=1e-12)


def test_a_fabric_knows_gpus_that_have_lost_links() -> None:
    worn = TRAY.with_nvlinks(
        switch_links=[link for link in TRAY.switch_links if link.gpu < 2 or (link.gpu == 2 and link.switch < "0000:c9")]
    )
    fabric = DomainFabric("d", worn)
    whole, other, half, lost = (fabric.cost(gpu, 8, 1 << 26) for gpu in range(4))
    assert lost is None
    assert whole == other
    rack = ClusterTopology((Node("a", worn, nvlink_domain="d"), Node("b", TRAY, nvlink_domain="d")))
    places = [("a", 0), ("a", 1), ("a", 2), *(("b", gpu) for gpu in range(4))]
    assert fabric.cost(2, 7, 1 << 26) == pytest.approx(rack.all_reduce_s(places, 1 << 26), abs=1e-12)
    assert half > 1.5 * whole


def test_islands_at_a_rate_that_only_some_reach() -> None:
    half = preset("gb200-nvl72", count=2).with_nvlinks(
        switch_links=[
            link for link in TRAY.switch_links if link.gpu == 0 or (link.gpu == 1 and link.switch < "0000:c9")
        ]
    )
    rack = ClusterTopology((Node("a", TRAY, nvlink_domain="d"), Node("b", half, nvlink_domain="d")))
    assert [len(island) for island in rack.islands()] == [6]
    assert [len(island) for island in rack.islands(700.0)] == [5, 1]


@pytest.mark.parametrize(
    ("make", "finding"),
    [
        (lambda: ClusterTopology((Node("a"), Node("a"))), "nodes.*each once"),
        (lambda: ClusterTopology((Node("a", switch="s"),)), "switch above a"),
        (lambda: ClusterTopology((), (Switch("s", "s"),)), "a tree"),
        (lambda: nvl72_rack(19), "1 to 18"),
        (lambda: ClusterTopology((Node("a"),)).node("b"), "node.*'b'"),
        (lambda: ClusterTopology((Node("a", TRAY),)).path(("a", 0), ("a", 4)), "0 to 3"),
    ],
)
def test_clusters_that_cannot_be(make: object, finding: str) -> None:
    with pytest.raises(InputError, match=finding):
        make()  # type: ignore[operator]


@given(data=st.data())
def test_cluster_islands_are_cliques_and_cover_all(data: st.DataObject) -> None:
    domains = st.sampled_from(["", "x", "y"])
    nodes = tuple(Node(f"n{i}", data.draw(machines(most_gpus=3)), nvlink_domain=data.draw(domains)) for i in range(3))
    cluster = ClusterTopology(nodes)
    everywhere = {(node.name, gpu) for node in nodes for gpu in range(node.machine.count)}
    islands = cluster.islands()
    assert set().union(*islands) == everywhere
    assert not any(a < b for a in islands for b in islands)
    for island in islands:
        for a, b in combinations(sorted(island), 2):
            same = a[0] == b[0]
            barred = same and (min(a[1], b[1]), max(a[1], b[1])) in cluster.node(a[0]).machine.no_peer
            assert cluster.path(a, b) <= PathClass.PXB or (barred and cluster.node(a[0]).nvlink_domain)


# --- scenario tables --------------------------------------------------------------------------------------------


def _cluster(*nodes: dict[str, object], base: Path = Path()) -> ClusterTopology:
    return cluster_topology(Cluster.model_validate({"nodes": nodes}), base)


@pytest.mark.parametrize(
    ("gpu", "gpus", "like"),
    [("H100", 8, "hgx-h100"), ("H200", 4, "hgx-h200"), ("B200", 8, "hgx-b200"), ("A100-40", 2, "dgx-a100"),
     ("GB200", 4, "gb200-nvl72"), ("L40S", 3, "pcie"), ("RTX 4090", 20, "pcie"), ("A40", 1, "pcie")],
)  # fmt: skip
def test_a_node_that_says_nothing_is_the_usual_machine(gpu: str, gpus: int, like: str) -> None:
    (node,) = _cluster({"name": "a", "gpu": gpu, "gpus": gpus}).nodes
    assert node.machine is preset(like, gpu, gpus)
    assert {g.model for g in node.machine.gpus} == {gpu}
    assert (node.failure_domain, node.region, node.egress) == ("a", "", False)


def test_nodes_say_where_they_are() -> None:
    cluster = _cluster(
        {"name": "a", "gpu": "H100", "gpus": 8, "rack": "r1", "region": "eu", "egress": True},
        {"name": "b", "gpu": "H100", "gpus": 8, "rack": "r1", "failure_domain": "power-2"},
        {"name": "c", "egress": True},
    )
    assert [node.failure_domain for node in cluster.nodes] == ["r1", "power-2", "c"]
    assert cluster.nodes[0].machine is cluster.nodes[1].machine
    assert cluster.nodes[2].machine is NO_MACHINE
    assert cluster.nodes[0].region == "eu"


def test_a_named_machine_and_a_file(tmp_path: Path, shared_data: Path) -> None:
    (tmp_path / "box.xml").write_text(write_nccl_xml(preset("hgx-h100")))
    nodes = [
        {"name": "a", "gpu": "A100-80", "gpus": 8, "topology": "NVLink pairs"},
        {"name": "b", "gpu": "H100", "gpus": 4, "topology_file": "box.xml"},
    ]
    cluster = _cluster(*nodes, base=tmp_path)
    assert cluster.node("a").machine.links(0, 2) == 12
    assert cluster.node("b").machine.pairs is preset("hgx-h100", count=4).pairs
    cloud = {"name": "c", "gpu": "H100", "gpus": 8, "topology_file": "azure-ndv5-topo.xml", "topology": "hgx-h100"}
    (laid,) = _cluster(cloud, base=shared_data / "topologies").nodes
    assert {laid.machine.links(a, b) for a, b in combinations(range(8), 2)} == {18}
    assert laid.machine.with_nvlinks() == load_machine(shared_data / "topologies" / "azure-ndv5-topo.xml", "H100")


@pytest.mark.parametrize(
    ("node", "finding"),
    [
        ({"gpu": "H100", "gpus": 9}, "gpus of a hgx-h100.*at most 8"),
        ({"gpu": "H100", "gpus": 9, "topology": "hgx-h200"}, "at most 8"),
        ({"gpu": "L40S", "gpus": 8, "topology": "hgx-h100"}, "one that has NVLinks"),
        ({"gpu": "H100", "gpus": 8, "topology_file": "none.xml"}, "an existing file"),
    ],
)
def test_machines_that_do_not_fit(node: dict[str, object], finding: str) -> None:
    with pytest.raises(InputError, match=finding):
        _cluster({"name": "a", **node})


def test_a_file_with_too_few_gpus(tmp_path: Path) -> None:
    (tmp_path / "box.xml").write_text(write_nccl_xml(preset("single")))
    with pytest.raises(InputError, match=r"box\.xml.*at most 1"):
        _cluster({"name": "a", "gpu": "H100", "gpus": 2, "topology_file": "box.xml"}, base=tmp_path)


@pytest.mark.parametrize(
    ("table", "finding"),
    [
        ({"gpu": "H100", "gpus": 8, "topology": "hgx-h10"}, r"nodes\.0\.topology.*hgx-h100.*did you mean"),
        ({"topology": "hgx-h100"}, "a topology needs gpu"),
        ({"gpu": "H100", "gpus": 8, "racks": "r"}, "no such key.*rack"),
    ],
)
def test_faulty_tables_name_the_key(table: dict[str, object], finding: str) -> None:
    with pytest.raises(ScenarioError, match=finding):
        load_scenario({"name": "x", "cluster": {"nodes": [{"name": "a", **table}]}, "deployment": []})


# --- graph views ------------------------------------------------------------------------------------------------


@given(machine=machines())
def test_the_graph_is_the_machine(machine: Machine) -> None:
    graph = machine_graph(machine)
    kinds = [kind for _, kind in graph.nodes(data="kind")]
    assert kinds.count("gpu") == machine.count
    assert kinds.count("nic") == len(machine.nics)
    assert kinds.count("cpu") == len(machine.cpus)
    for _, _, edge in graph.edges(data=True):
        assert edge["kind"] in {"pcie", "nvlink", "socket"}
        assert edge["gb_s"] > 0
        assert 0 < edge["latency_s"] < 1e-4
    for a, b in combinations(range(machine.count), 2):
        direct = graph.get_edge_data(f"gpu{a}", f"gpu{b}", {"links": 0})["links"]
        ends = [{s: graph[f"gpu{g}"][s]["links"] for s in graph[f"gpu{g}"] if graph.nodes[s]["kind"] == "nvswitch"}
                for g in (a, b)]  # fmt: skip
        expected = direct + min(sum(ends[0].values()), sum(ends[1].values()))
        assert machine.links(a, b) == (0 if (a, b) in machine.no_peer else expected)


@given(machine=machines())
def test_the_rate_by_pcie_is_that_of_the_widest_path_in_the_graph(machine: Machine) -> None:
    """The graph's own path (a tree, with CPUs fully joined) as an oracle for what `bandwidth` says without NVLinks."""
    machine = machine.with_nvlinks()
    graph = machine_graph(machine)
    for a, b in combinations(range(machine.count), 2):
        path = nx.shortest_path(graph, f"gpu{a}", f"gpu{b}")
        edges = [graph.edges[edge] for edge in pairwise(path)]
        rate = min(edge["gb_s"] for edge in edges)
        through = [name for name in path if graph.nodes[name]["kind"] == "cpu"]
        intel = any(machine.cpus[int(name[3:])].vendor == "GenuineIntel" for name in through)
        # Intel's share is of PCIe, before the sockets bound it.
        pcie = min(edge["gb_s"] for edge in edges if edge["kind"] == "pcie")
        rate = min(rate, pcie * 5 / 6) if intel else rate
        rate *= 0.5 if (a, b) in machine.no_peer else 1.0
        assert math.isclose(machine.bandwidth(a, b), rate)


def test_the_graph_of_a_cluster_joins_cards_and_fabrics() -> None:
    rack = cluster_graph(_rack(3))
    assert sum(kind == "nvswitch" for _, kind in rack.nodes(data="kind")) == 18
    assert nx.has_path(rack, "tray-00/gpu0", "tray-02/gpu3")
    assert rack.edges["tray-00/nic0", "network"]["gb_s"] == 50.0
    tree = read_topograph({"switches": {"s": {"switches": ["l"]}}, "blocks": [{"switch": "l", "nodes": ["n"]}]}, TRAY)
    assert nx.shortest_path(cluster_graph(tree), "n/gpu0", "s")[-2:] == ["l", "s"]


def test_a_file_that_is_read_any_number_of_times_is_one_object(tmp_path: Path) -> None:
    (tmp_path / "box.xml").write_text(write_nccl_xml(preset("dgx1-v100")))
    first, second = load_machine(tmp_path / "box.xml"), load_machine(tmp_path / "box.xml")
    assert first.pairs is second.pairs
    with contextlib.suppress(AttributeError):
        first.name = "other"  # type: ignore[misc]
    assert first == second
