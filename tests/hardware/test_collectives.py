"""Collectives against what was measured, against the physical links, and against what must hold of any group."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.collectives import BUSBW, CURVES, EFA, H200_SWEEP, SIZES, fitted_s, group_of, launched_s
from rakka_sim.config.gpus import GPUS, GpuSpec, gpu
from rakka_sim.errors import InputError
from rakka_sim.hardware import nccl
from rakka_sim.hardware.collectives import (
    Algorithm,
    Fabric,
    Group,
    algorithm,
    all_gather,
    all_reduce,
    all_to_all,
    bus_gb_s,
    own_group,
    point_to_point,
    reduce_scatter,
    switched,
)

BENCHMARK = nccl.BENCHMARK_BYTES
RING, NVLS = Algorithm.RING, Algorithm.NVLS
WITHIN = {RING: 0.08, NVLS: 0.03}
# How far the model may be off a fitted curve at any size from 32 KiB to 16 GiB.
OFF = {"A100-80": 0.11, "H200": 0.18, "B200": 0.08, "B200 x 4 nodes": 0.03}

sizes = st.floats(1.0, 1e11)
counts = st.integers(2, 72)


@st.composite
def groups(draw: st.DrawFn) -> Group:
    """Any group: one node or several, with links as NCCL counts them."""
    n = draw(counts)
    nodes = draw(st.sampled_from([1, 1, 2, 3, n]).filter(lambda k: k <= n))
    base = draw(st.sampled_from([switched(row, n) for row in nccl.NVLINK.values()]))
    if draw(st.booleans()):
        fabric = draw(st.sampled_from([Fabric.NVLINK, Fabric.PCIE, Fabric.HOST]))
        base = Group(n, fabric, draw(st.floats(1.0, 400.0)))
    nic, hop = draw(st.floats(1.0, 800.0)), draw(st.sampled_from([nccl.INFINIBAND_HOP, nccl.EFA_HOP]))
    return base if nodes == 1 else dataclasses.replace(base, nodes=nodes, nic_gb_s=nic, network_hop=hop)


# --- what was measured ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "gpus"), [(name, gpus) for name, rows in BUSBW.items() for gpus in rows])
def test_the_published_bus_bandwidths_and_choices_come_out(name: str, gpus: int) -> None:
    measured, chosen = BUSBW[name][gpus]
    group = own_group(gpu(name), gpus)
    assert algorithm(group, BENCHMARK) is chosen
    assert bus_gb_s(group, BENCHMARK) == pytest.approx(measured, rel=WITHIN[chosen])


@pytest.mark.parametrize(("name", "switch"), [("H200", 5), ("B200", 6)])
def test_nvls_begins_at_the_published_number_of_gpus(name: str, switch: int) -> None:
    chosen = [algorithm(own_group(gpu(name), gpus), BENCHMARK) for gpus in range(2, 9)]
    assert chosen == [RING] * (switch - 2) + [NVLS] * (9 - switch)


def test_without_nvls_eight_h200_get_their_ring() -> None:
    """367.61 GB/s were measured with NVLink SHARP off; all-gather and reduce-scatter stay rings at 361 and 363."""
    group = dataclasses.replace(own_group(gpu("H200"), 8), nvls=None)
    assert bus_gb_s(group, 16 << 30) == pytest.approx(367.61, rel=0.02)
    for once in (all_gather, reduce_scatter):
        assert 7 / 8 * BENCHMARK / once(own_group(gpu("H200"), 8), BENCHMARK) / 1e9 == pytest.approx(362, rel=0.03)


def test_eight_a100_get_their_ring() -> None:
    assert bus_gb_s(own_group(gpu("A100-80"), 8), BENCHMARK) == pytest.approx(234.9, rel=0.03)


def test_a_sweep_over_h200_comes_out() -> None:
    """The launch from the host is the benchmark's own. From 32 MiB on within 8 %; below, a late switch to NVLS and the
    low-latency protocol's better rate are not modelled: up to 30 %, half of all sizes within 10 %."""
    group = own_group(gpu("H200"), 8)
    wrong = [
        launched_s(group, size) / (1.75 * size / busbw / 1e9) - 1 for size, busbw in zip(SIZES, H200_SWEEP, strict=True)
    ]
    assert max(map(abs, wrong[10:])) < 0.08
    assert max(map(abs, wrong)) < 0.30
    assert sorted(map(abs, wrong))[10] < 0.10
    assert algorithm(group, 1 << 20) is RING  # as NCCL's log of that sweep says
    assert algorithm(group, 1 << 24) is NVLS


@pytest.mark.parametrize("curve", CURVES)
def test_the_fitted_size_curves_come_out(curve: str) -> None:
    """Pipelines, and the hop over EFA, were taken from these curves; bandwidths and all other latencies were not."""
    for size in SIZES:
        assert launched_s(group_of(curve), size) == pytest.approx(fitted_s(curve, size), rel=OFF[curve])


def test_over_efa_each_gpu_gets_three_quarters_of_its_nics() -> None:
    """36.5 of 50 GB/s were measured; NIC_SHARE is that figure, so this holds the formula to it, not the constant."""
    assert bus_gb_s(EFA, BENCHMARK) * 3 / 31 == pytest.approx(36.5, rel=0.02)


def test_small_messages_over_many_nodes_climb_a_tree() -> None:
    wide = dataclasses.replace(own_group(gpu("H200"), 128), nodes=16, nic_gb_s=400.0)
    assert algorithm(wide, 8 << 10) is Algorithm.TREE
    assert algorithm(wide, 8 << 30) is RING
    # 6.8 us + 2 (7 x 0.6 us + 4 x 5 us), and hardly any bytes.
    assert all_reduce(wide, 1.0) == pytest.approx(6.8e-6 + 2 * (7 * 0.6e-6 + 4 * 5e-6), rel=0.01)


def test_a_decode_sized_message_costs_its_hops() -> None:
    """8 KiB among four: 6 hops of 0.6 us by NVLink, 1 us by PCIe, 2 us through host memory, on top of 6.6 us."""
    links = {fabric: Group(4, fabric, 20.0, pipeline_s=0.0) for fabric in (Fabric.NVSWITCH, Fabric.PCIE, Fabric.HOST)}
    for fabric, hop in ((Fabric.NVSWITCH, 0.6e-6), (Fabric.PCIE, 1e-6), (Fabric.HOST, 2e-6)):
        assert all_reduce(links[fabric], 8192) == pytest.approx(6.6e-6 + 6 * hop + 1.5 * 8192 / 20e9, rel=1e-9)


# --- what must hold of any group --------------------------------------------------------------------------------


COLLECTIVES = (all_reduce, all_gather, reduce_scatter, all_to_all, point_to_point)


@given(groups(), sizes, st.floats(1.0, 100.0).map(lambda times: times * (1 + 1e-9)))
def test_more_bytes_take_more(group: Group, size: float, times: float) -> None:
    for collective in COLLECTIVES:
        assert 0 < collective(group, size) < collective(group, size * times)


def wire_bytes(group: Group, chosen: Algorithm, size: float) -> float:
    """What a GPU must send over its links for an all-reduce of one node, whatever the schedule."""
    n = group.gpus
    return (n + 1) / n * size if chosen is NVLS else 2 * (n - 1) / n * size


@given(st.sampled_from([*nccl.NVLINK.values()]), counts, sizes)
def test_no_gpu_sends_faster_than_its_nvlinks(links: nccl.NvLink, gpus: int, size: float) -> None:
    group = switched(links, gpus)
    physical = links.links * links.link_gb_s * 1e9
    assert all_reduce(group, size) * physical > wire_bytes(group, algorithm(group, size), size)
    assert all_gather(group, size) * physical > (gpus - 1) / gpus * size
    assert all_to_all(group, size) * physical > (gpus - 1) / gpus * size
    assert point_to_point(group, size) * physical > size


@given(st.sampled_from([*nccl.PCIE_X16_GB_S.values()]), counts, sizes)
def test_no_gpu_sends_faster_than_its_pcie(rates: tuple[float, float], gpus: int, size: float) -> None:
    physical, counted = rates
    group = Group(gpus, Fabric.PCIE, counted)
    assert all_reduce(group, size) * physical * 1e9 > 2 * (gpus - 1) / gpus * size
    assert all_to_all(group, size) * physical * 1e9 > (gpus - 1) / gpus * size


@given(groups().filter(lambda group: group.nodes > 1), sizes)
def test_no_node_sends_faster_than_its_nics(group: Group, size: float) -> None:
    k = group.nodes
    assert all_reduce(group, size) * group.nic_gb_s * 1e9 > 2 * (k - 1) / k * size
    assert all_gather(group, size) * group.nic_gb_s * 1e9 > (k - 1) / k * size
    assert point_to_point(group, size) * group.nic_gb_s * 1e9 > size


@given(groups(), sizes, st.floats(1.0, 10.0))
def test_a_faster_ring_is_never_slower(group: Group, size: float, times: float) -> None:
    faster = dataclasses.replace(group, ring_gb_s=group.ring_gb_s * times)
    assert all(collective(faster, size) <= collective(group, size) * (1 + 1e-12) for collective in COLLECTIVES)


@given(sizes, counts, st.floats(10.0, 300.0))
def test_a_worse_fabric_is_never_faster(size: float, gpus: int, rate: float) -> None:
    order = [Group(gpus, fabric, rate) for fabric in (Fabric.NVSWITCH, Fabric.NVLINK, Fabric.PCIE, Fabric.HOST)]
    times = [all_reduce(group, size) for group in order]
    assert times == sorted(times)


@given(groups(), sizes)
def test_what_is_chosen_is_the_fastest_way(group: Group, size: float) -> None:
    best = all_reduce(group, size)
    assert best <= all_reduce(dataclasses.replace(group, nvls=None), size)
    assert algorithm(dataclasses.replace(group, nvls=None), size) is not NVLS
    assert bus_gb_s(group, size) == pytest.approx(2 * (group.gpus - 1) / group.gpus * size / best / 1e9)


@given(groups(), st.floats(1.0, BENCHMARK))
def test_an_all_reduce_is_no_worse_than_its_two_halves(group: Group, size: float) -> None:
    """A ring all-reduce is a reduce-scatter and an all-gather with one start, and one pipeline to fill, less."""
    ring = dataclasses.replace(group, nvls=None)
    two = reduce_scatter(ring, size) + all_gather(ring, size)
    assert all_reduce(ring, size) <= (two - nccl.RING_BASE_S) * (1 + 1e-9)


@given(groups())
def test_nothing_takes_no_time_and_one_gpu_talks_to_nobody(group: Group) -> None:
    alone = Group(1, group.fabric)
    assert all(collective(group, 0) == collective(alone, 1e9) == 0.0 for collective in COLLECTIVES)
    assert algorithm(group, 0) is algorithm(alone, 1e9) is Algorithm.NONE
    assert bus_gb_s(alone, 1e9) == 0.0
    assert hash(group) == hash(dataclasses.replace(group))


def test_between_the_halves_of_a_pcie_box_all_to_all_is_slow() -> None:
    """Eight buffers of 8 GB: 8 x 8 / 4 = 16 GB each way through the one link between the halves, at 20 GB/s."""
    box = Group(8, Fabric.PCIE, 20.0, pipeline_s=0.0)
    assert all_to_all(box, 8e9) == pytest.approx(2 * 8e9 / 20e9, rel=1e-4)
    assert all_to_all(dataclasses.replace(box, fabric=Fabric.NVSWITCH), 8e9) == pytest.approx(7e9 / 20e9, rel=1e-4)


# --- groups -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", GPUS, ids=lambda spec: spec.name)
def test_every_gpu_has_a_group_of_its_own_below_its_datasheet(device: GpuSpec) -> None:
    group = own_group(device, 4)
    assert (group.fabric is Fabric.NVSWITCH) == (device.interconnect == "nvlink")
    assert 0.3 < group.ring_gb_s * 1e9 / device.link_bandwidth < 0.9
    assert (group.nvls is not None) == (device.architecture in {"hopper", "blackwell"} and group.links > 0)


def test_a_gpu_with_an_unknown_link_needs_a_group_of_its_own() -> None:
    for name, rate in (("H200", 123e9), ("L40S", 40e9)):
        with pytest.raises(InputError, match=f"rate of {name} in GB/s: .* or give a group"):
            own_group(dataclasses.replace(gpu(name), link_bandwidth=rate), 2)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"gpus": 0}, "gpus: 0"),
        ({"nodes": 9, "nic_gb_s": 1.0}, "nodes: 9 is not allowed; allowed: 1 to 8"),
        ({"ring_gb_s": 0.0}, "ring_gb_s: 0.0"),
        ({"ring_gb_s": math.nan}, "ring_gb_s: nan"),
        ({"nodes": 2}, "nic_gb_s: 0.0"),
        ({"fabric": Fabric.NETWORK}, "fabric"),
        ({"nvls": 0.8}, "links: 0"),
        ({"pipeline_s": -1.0}, "pipeline_s: -1.0"),
    ],
)
def test_a_group_that_cannot_be_is_refused(keywords: dict[str, object], message: str) -> None:
    given: dict[str, object] = {"gpus": 8, "fabric": Fabric.PCIE, "ring_gb_s": 24.0}
    with pytest.raises(InputError, match=message):
        Group(**{**given, **keywords})  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [-1, math.nan, math.inf])
def test_what_is_no_size_is_refused(size: float) -> None:
    for collective in COLLECTIVES:
        with pytest.raises(InputError, match="bytes of a collective"):
            collective(own_group(gpu("H200"), 2), size)
