"""Known machines: adjacency and optima against the published ones, by enumeration of our own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations, pairwise, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rakka_sim.config.gpus import GPUS
from rakka_sim.config.machines import MACHINES
from rakka_sim.errors import InputError, UnknownName
from rakka_sim.hardware.nccl_write import write_nccl_xml
from rakka_sim.hardware.nccl_xml import read_nccl_xml
from rakka_sim.hardware.presets import preset
from rakka_sim.hardware.topology import Machine, PathClass

NAMES = [spec.name for spec in MACHINES]

# The DGX-1V as go-gpuallocator's test has it: NVLinks per pair.
DGX1V = """
    0 1 1 2 2 0 0 0
    1 0 2 1 0 2 0 0
    1 2 0 2 0 0 1 0
    2 1 2 0 0 0 0 1
    2 0 0 0 0 1 1 2
    0 2 0 0 1 0 2 1
    0 0 1 0 1 2 0 2
    0 0 0 1 2 1 2 0
"""
# Size: the highest sum of links over pairs, and how many sets have it; the most links that a ring can have at its
# thinnest step, and how many sets have it; how many sets are best in both.
OPTIMA = {
    2: (2, 8, 2, 8, 8),
    3: (5, 4, 1, 8, 4),
    4: (9, 2, 1, 8, 2),
    5: (11, 4, 1, 24, 0),
    6: (14, 8, 1, 28, 8),
    7: (18, 8, 1, 8, 8),
    8: (24, 1, 2, 1, 1),
}


def _matrix(machine: Machine) -> list[list[int]]:
    return [[machine.links(a, b) for b in range(machine.count)] for a in range(machine.count)]


def _ring_thinnest(links: list[list[int]], gpus: tuple[int, ...]) -> int:
    """The plain definition: over all orders of the GPUs."""
    first, *rest = gpus
    rings: Iterator[tuple[int, ...]] = ((first, *order, first) for order in permutations(rest))
    return max(min(links[a][b] for a, b in pairwise(ring)) for ring in rings)


def test_the_cube_mesh_is_the_published_one() -> None:
    links = [[int(n) for n in row.split()] for row in DGX1V.strip().splitlines()]
    assert _matrix(preset("dgx1-v100")) == links
    assert all(sum(row) == 6 for row in links)
    assert _matrix(preset("dgx1-p100")) == [[min(n, 1) for n in row] for row in links]


@pytest.mark.parametrize("k", OPTIMA)
def test_the_optima_of_the_cube_mesh(k: int) -> None:
    machine = preset("dgx1-v100")
    links = _matrix(machine)
    sets = list(combinations(range(8), k))
    sums = {gpus: sum(links[a][b] for a, b in combinations(gpus, 2)) for gpus in sets}
    rings = {gpus: _ring_thinnest(links, gpus) for gpus in sets}
    best_sums = {gpus for gpus in sets if sums[gpus] == max(sums.values())}
    best_rings = {gpus for gpus in sets if rings[gpus] == max(rings.values())}
    found = max(sums.values()), len(best_sums), max(rings.values()), len(best_rings), len(best_sums & best_rings)
    assert found == OPTIMA[k]
    for gpus in sets:
        ring = machine.ring(gpus)
        assert sorted(ring) == list(gpus)
        steps = zip(ring, (*ring[1:], ring[0]), strict=True)
        assert min(machine.links(a, b) for a, b in steps) == rings[gpus]


def test_five_of_the_cube_mesh_by_cost_have_a_ring_and_by_pairs_have_none() -> None:
    machine = preset("dgx1-v100")
    sets = list(combinations(range(8), 5))
    by_pairs = max(sets, key=lambda gpus: sum(machine.links(a, b) for a, b in combinations(gpus, 2)))
    by_cost = min(sets, key=lambda gpus: machine.all_reduce_s(gpus, 64 << 20))
    assert by_pairs == (0, 1, 2, 3, 4)
    assert machine.group(by_pairs).links == 0
    assert machine.group(by_cost).links == 1
    assert machine.all_reduce_s(by_cost, 64 << 20) < machine.all_reduce_s(by_pairs, 64 << 20) / 2


@pytest.mark.parametrize("name", NAMES)
def test_every_machine_is_symmetric_and_whole(name: str) -> None:
    machine = preset(name)
    spec = next(spec for spec in MACHINES if spec.name == name)
    assert machine.count == spec.gpus
    assert {gpu.model for gpu in machine.gpus} == {spec.gpu}
    assert all(gpu.sm for gpu in machine.gpus)
    assert machine == preset(name.upper())
    assert hash(machine) == hash(preset(name))
    assert machine.notes == ()
    for a, b in combinations(range(machine.count), 2):
        assert machine.path(a, b) is machine.path(b, a)
        assert machine.links(a, b) == machine.links(b, a)
        assert machine.bandwidth(a, b) == machine.bandwidth(b, a) > 0
        assert (machine.path(a, b) is PathClass.NV) == (machine.links(a, b) > 0)
    assert frozenset(range(machine.count)) == frozenset().union(*machine.islands())


def test_the_machines_have_the_links_that_their_sheets_say() -> None:
    for name, links, gb_s in [
        ("dgx2", 6, 120.0),
        ("dgx-a100", 12, 240.0),
        ("hgx-h100", 18, 370.8),
        ("hgx-h200", 18, 370.8),
        ("hgx-b200", 18, 721.8),
        ("gb200-nvl72", 18, 721.8),
    ]:
        machine = preset(name)
        assert {machine.links(a, b) for a, b in combinations(range(machine.count), 2)} == {links}
        assert machine.bandwidth(0, 1) == pytest.approx(gb_s)
        assert machine.islands() == (frozenset(range(machine.count)),)
    pairs = preset("nvlink-pairs")
    assert [sorted(island) for island in pairs.islands()] == [[0, 2], [1, 3], [4, 5], [6, 7]]
    assert {pairs.links(a, b) for a, b in combinations(range(8), 2)} == {0, 12}


def test_the_paths_of_the_pcie_box_are_the_published_ones() -> None:
    box = preset("pcie")
    rows = [[box.path(0, b).name for b in range(8)], [box.path(5, b).name for b in range(8)]]
    assert rows[0] == ["X", "PIX", "PXB", "PXB", "SYS", "SYS", "SYS", "SYS"]
    assert rows[1] == ["SYS", "SYS", "SYS", "SYS", "PIX", "X", "PXB", "PXB"]
    assert [sorted(island) for island in box.islands()] == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_islands_of_the_cube_mesh_are_cliques_not_components() -> None:
    machine = preset("dgx1-v100")
    assert [sorted(island) for island in machine.islands()] == [
        [0, 1, 2, 3], [4, 5, 6, 7], [0, 4], [1, 5], [2, 6], [3, 7],
    ]  # fmt: skip
    double = [sorted(island) for island in machine.islands(at_least=40.0)]
    assert double == [[0, 3], [0, 4], [1, 2], [1, 5], [2, 3], [4, 7], [5, 6], [6, 7]]


@given(name=st.sampled_from(NAMES), data=st.data())
def test_islands_are_the_maximal_cliques(name: str, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, min(8, preset(name).count)))
    machine = preset(name, count=count)
    rates = sorted({machine.bandwidth(a, b) for a, b in combinations(range(count), 2)}) or [1.0]
    least = data.draw(st.sampled_from(rates))

    def clique(gpus: tuple[int, ...]) -> bool:
        return all(machine.bandwidth(a, b) >= least for a, b in combinations(gpus, 2))

    cliques = [frozenset(s) for k in range(1, count + 1) for s in combinations(range(count), k) if clique(s)]
    assert set(machine.islands(least)) == {c for c in cliques if not any(c < other for other in cliques)}


@given(name=st.sampled_from(NAMES), data=st.data())
def test_a_machine_cut_to_fewer_gpus_agrees_with_the_whole_one(name: str, data: st.DataObject) -> None:
    whole = preset(name)
    part = preset(name, count=data.draw(st.integers(1, whole.count)))
    for a, b in combinations(range(part.count), 2):
        assert (part.path(a, b), part.links(a, b)) == (whole.path(a, b), whole.links(a, b))


def test_the_box_with_pcie_alone_takes_any_number() -> None:
    for count in (1, 2, 3, 5, 7, 16, 30):
        assert preset("pcie", count=count).count == count


def test_another_gpu_in_the_same_machine() -> None:
    machine = preset("dgx-a100", gpu="A100-40", count=4)
    assert {gpu.model for gpu in machine.gpus} == {"A100-40"}
    assert machine.key != preset("dgx-a100", count=4).key


def test_every_gpu_of_the_catalogue_can_be_in_a_machine() -> None:
    for spec in GPUS:
        box = preset("pcie", spec.name.lower(), 2)
        assert {gpu.model for gpu in box.gpus} == {spec.name}
        assert box.gpus[0].sm > 0
        # Its PCIe is the generation that the catalogue gives it, where that is what joins it.
        if spec.interconnect == "pcie":
            assert box.path(0, 1) is PathClass.PIX
            assert box.bandwidth(0, 1) == pytest.approx(spec.link_bandwidth / 1e9, rel=0.3)
    with pytest.raises(UnknownName, match=r"GPU model.*H100"):
        preset("pcie", "H999")


def test_switches_without_peer_access_of_one_pair_bear_a_ring_around_it() -> None:
    whole = preset("hgx-h100")
    barred = replace(whole, no_peer=((0, 1),))
    assert barred.links(0, 1) == 0
    group = barred.group(range(8))
    assert (group.ring_gb_s, group.nvls) == (whole.group(range(8)).ring_gb_s, None)
    assert barred.group((0, 1)).fabric == "host"
    assert barred.group((2, 3, 4)) == whole.group((2, 3, 4))


@pytest.mark.parametrize("count", [0, 9, -1])
def test_more_gpus_than_there_are(count: int) -> None:
    with pytest.raises(InputError, match=r"hgx-h100.*1 to 8"):
        preset("hgx-h100", count=count)


def test_an_unknown_machine_names_those_there_are() -> None:
    with pytest.raises(UnknownName, match=r"dgx1-v100.*did you mean hgx-h100"):
        preset("hgx-h10")


def test_questions_about_gpus_that_are_not_there() -> None:
    machine = preset("hgx-h100")
    for ask in (lambda: machine.path(0, 8), lambda: machine.links(-1, 0), lambda: machine.group([])):
        with pytest.raises(InputError):
            ask()
    with pytest.raises(InputError, match="twice"):
        machine.group((1, 1))


def test_the_slowest_gpu_of_a_mixed_machine_sets_the_pace() -> None:
    whole = preset("hgx-h100")
    text = write_nccl_xml(whole).replace('dev="3" sm="90"', 'dev="3" sm="80"')
    mixed = read_nccl_xml(text.replace('model="H100"', 'model="A100-80"', 1))
    assert mixed.bandwidth(0, 3) == 18 * 20.0
    assert mixed.bandwidth(0, 1) == whole.bandwidth(0, 1)
    assert (mixed.group((0, 3)).link_gb_s, mixed.group((0, 3)).nvls) == (20.0, None)
    assert mixed.group((0, 1)) == whole.group((0, 1))
    assert mixed.key.startswith("8xmixed-")
