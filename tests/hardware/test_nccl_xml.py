"""NCCL's files: real ones, made ones there and back, faulty and hostile ones."""

from __future__ import annotations

import contextlib
import re
from itertools import combinations
from pathlib import Path

import pytest
from hardware.machines import machines
from hypothesis import given
from hypothesis import strategies as st

from rakka_sim.config.machines import MACHINES
from rakka_sim.errors import InputError, RakkaError
from rakka_sim.hardware import xml_elements
from rakka_sim.hardware.files import load_machine
from rakka_sim.hardware.nccl_write import write_nccl_xml
from rakka_sim.hardware.nccl_xml import read_nccl_xml
from rakka_sim.hardware.parts import NvLink, SwitchLink
from rakka_sim.hardware.presets import preset
from rakka_sim.hardware.topology import Machine, PathClass

# --- real files -------------------------------------------------------------------------------------------------

# File, GPUs, model of the first one, network cards, islands by PCIe or NVLink, parts of its notes.
REAL = [
    ("aws-g5.48xl-topo.xml", 0, "", 0, [], ["9 x a PCI device without a class"]),
    ("aws-p4d-24xl-topo.xml", 8, "A100-40", 4, [[0, 1], [2, 3], [4, 5], [6, 7]], []),
    ("aws-p4de-24xl-topo.xml", 8, "A100-80", 4, [[0, 1], [2, 3], [4, 5], [6, 7]], []),
    (
        "aws-p5.48xl-topo-2025.xml",
        0,
        "",
        0,
        [],
        ["32 x link_speed '32 GT/s PCIe/s'", "32 x a PCI device without a class"],
    ),
    ("azure-ncv4-topo.xml", 4, "A100-80", 1, [[0], [1], [2], [3]], ["4 x an NVLink of a GPU to itself"]),
    ("azure-ndv2-topo.xml", 8, "", 1, [[k] for k in range(8)], []),
    ("azure-ndv4-topo.xml", 8, "", 8, [[0, 1], [2, 3], [4, 5], [6, 7]], []),
    ("azure-ndv5-topo.xml", 8, "", 8, [[k] for k in range(8)], []),
    ("oci-h100-topology.xml", 8, "H100", 8, [list(range(8))], []),
]


@pytest.mark.parametrize(("file", "gpus", "model", "nics", "islands", "notes"), REAL, ids=[row[0] for row in REAL])
def test_a_real_file(
    shared_data: Path, file: str, gpus: int, model: str, nics: int, islands: list[list[int]], notes: list[str]
) -> None:
    machine = load_machine(shared_data / "topologies" / file)
    assert (machine.count, len(machine.nics)) == (gpus, nics)
    assert not gpus or machine.gpus[0].model == model
    assert [sorted(island) for island in machine.islands()] == islands
    for note in notes:
        assert any(note in said for said in machine.notes), machine.notes
    assert read_nccl_xml(write_nccl_xml(machine)) == machine


def test_every_file_of_the_folder_is_one_of_them(shared_data: Path) -> None:
    assert {path.name for path in (shared_data / "topologies").glob("*.xml")} == {row[0] for row in REAL}


def test_the_links_of_a_real_hgx(shared_data: Path) -> None:
    machine = load_machine(shared_data / "topologies" / "oci-h100-topology.xml")
    for gpu in range(8):
        assert sorted(link.count for link in machine.switch_links if link.gpu == gpu) == [4, 4, 5, 5]
    assert {machine.links(a, b) for a, b in combinations(range(8), 2)} == {18}
    assert machine.group(range(8)) == preset("hgx-h100").group(range(8))
    # Its bridges are two deep, and the upper ones are at 5 GT/s: what NCCL counts there is 6 GB/s, less Intel's share.
    assert machine.with_nvlinks().bandwidth(0, 1) == pytest.approx(6.0 * 5 / 6)


def test_nvlinks_laid_over_a_file_without_any(shared_data: Path) -> None:
    bare = load_machine(shared_data / "topologies" / "azure-ndv5-topo.xml", "H100")
    assert {gpu.model for gpu in bare.gpus} == {"H100"}
    wired = bare.with_nvlinks(switch_links=preset("hgx-h100").switch_links)
    assert wired.islands() == (frozenset(range(8)),)
    assert {wired.path(0, b) for b in range(1, 8)} == {PathClass.NV}
    assert read_nccl_xml(write_nccl_xml(wired)) == wired


def test_gpus_of_a_file_without_numbers_are_in_the_order_of_their_addresses(shared_data: Path) -> None:
    machine = load_machine(shared_data / "topologies" / "azure-ndv4-topo.xml")
    by_index = {pci.gpu.index: pci.bus_id for pci in machine.devices if pci.gpu}
    assert [by_index[k] for k in range(8)] == sorted(by_index.values())
    assert [machine.pairs.numa[k] for k in range(8)] == [1, 1, 0, 0, 3, 3, 2, 2]


# --- there and back ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [spec.name for spec in MACHINES])
def test_a_preset_written_and_read_is_the_same(name: str) -> None:
    machine = preset(name)
    again = read_nccl_xml(write_nccl_xml(machine))
    assert again == machine
    assert hash(again) == hash(machine)
    assert (again.name, again.key, again.notes) == (name, machine.key, ())


@given(machine=machines())
def test_any_machine_written_and_read_is_the_same(machine: Machine) -> None:
    again = read_nccl_xml(write_nccl_xml(machine))
    assert again == machine
    assert again.pairs is machine.pairs
    assert again.name == machine.name


@given(machine=machines())
def test_what_is_asked_of_any_machine_is_symmetric_and_answered(machine: Machine) -> None:
    for a, b in combinations(range(machine.count), 2):
        assert machine.path(a, b) is machine.path(b, a)
        assert machine.links(a, b) == machine.links(b, a)
        assert 0 < machine.bandwidth(a, b) == machine.bandwidth(b, a)
        assert ((a, b) in machine.no_peer) <= (machine.links(a, b) == 0)
    for k in range(1, machine.count + 1):
        gpus = tuple(range(k))
        assert sorted(machine.ring(gpus)) == list(gpus)
        assert (machine.all_reduce_s(gpus, 1 << 20) > 0) == (k > 1)


@given(machine=machines(), data=st.data())
def test_relabelled_gpus_cost_the_same(machine: Machine, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(machine.count)))
    text = write_nccl_xml(machine)
    text = re.sub(r'dev="(\d+)" (?=.*rank=)', lambda m: f'dev="{order[int(m[1])]}" ', text)
    text = re.sub(
        r'nopeer="([\d,]+)"', lambda m: 'nopeer="' + ",".join(str(order[int(k)]) for k in m[1].split(",")) + '"', text
    )
    other = read_nccl_xml(text)
    for k in range(1, machine.count + 1):
        for gpus in combinations(range(machine.count), k):
            moved = [order[gpu] for gpu in gpus]
            assert other.all_reduce_s(moved, 1 << 22) == pytest.approx(machine.all_reduce_s(gpus, 1 << 22))


# --- faults -----------------------------------------------------------------------------------------------------

GPU = (
    '<pci busid="0000:0{i}:00.0" class="0x030200" link_speed="{speed}" link_width="16">'
    '<gpu dev="{i}" sm="90">{links}</gpu></pci>'
)


def _system(links: list[str], speed: str = "32.0 GT/s PCIe", cpu: str = 'numaid="0"') -> str:
    gpus = "".join(GPU.format(i=i, speed=speed, links=text) for i, text in enumerate(links))
    return f'<system version="1"><cpu {cpu} arch="x86_64" vendor="AuthenticAMD">{gpus}</cpu></system>'


def _link(target: int, count: object = 4) -> str:
    return f'<nvlink target="0000:0{target}:00.0" count="{count}" tclass="0x030200"/>'


def _fabric(count: int) -> str:
    return f'<nvlink target="fffffff:ff:ff.0" count="{count}" tclass="0x068000"/>'


def test_an_asymmetric_link_counts_as_the_smaller_end() -> None:
    machine = read_nccl_xml(_system([_link(1, 4), _link(0, 2)]))
    assert machine.nvlinks == (NvLink(0, 1, 2),)
    assert "GPU 0 reports 4 NVLinks to GPU 1, which reports 2: 2 counted" in machine.notes
    one_sided = read_nccl_xml(_system([_link(1, 4), ""]))
    assert one_sided.links(0, 1) == 0
    assert one_sided.path(0, 1) is PathClass.PHB
    assert any("which reports 0" in note for note in one_sided.notes)


def test_a_gpu_without_nvlinks_among_others_is_reached_by_pcie() -> None:
    machine = read_nccl_xml(_system([_fabric(18), _fabric(18), "", _fabric(18)]))
    assert [machine.links(2, gpu) for gpu in (0, 1, 3)] == [0, 0, 0]
    assert machine.links(0, 3) == 18
    assert [sorted(island) for island in machine.islands()] == [[0, 1, 3], [2]]
    assert any("GPUs 2 report no NVLink" in note for note in machine.notes)
    assert machine.all_reduce_s(range(4), 1 << 26) > 5 * machine.all_reduce_s([0, 1, 3], 1 << 26)


def test_a_gpu_with_fewer_links_into_the_fabric_slows_its_pairs_only() -> None:
    machine = read_nccl_xml(_system([_fabric(18), _fabric(9), _fabric(18)]))
    assert (machine.links(0, 2), machine.links(0, 1), machine.links(1, 2)) == (18, 9, 9)
    assert machine.switch_links[1] == SwitchLink(1, "fffffff:ff:ff.0", 9)
    assert machine.group([0, 2]).ring_gb_s == pytest.approx(2 * machine.group([0, 1]).ring_gb_s)


def test_a_numa_id_of_minus_one() -> None:
    machine = read_nccl_xml(_system([_link(1), _link(0)], cpu='numaid="-1"'))
    assert machine.pairs.numa == (-1, -1)
    assert any("without a NUMA id" in note for note in machine.notes)


@pytest.mark.parametrize("speed", ["32 GT/s PCIe/s", "Unknown", "", "warp 9"])
def test_an_unknown_speed_is_gen3(speed: str) -> None:
    machine = read_nccl_xml(_system(["", ""], speed=speed))
    assert machine.bandwidth(0, 1) == 12.0
    assert any("counted as PCIe 3" in note for note in machine.notes)


def test_nvlinks_that_the_driver_does_not_let_be_used_are_not() -> None:
    text = _system([_link(1), _link(0)]).replace('dev="0"', 'dev="0" nopeer="1"')
    machine = read_nccl_xml(text)
    assert (machine.links(0, 1), machine.path(0, 1)) == (0, PathClass.PHB)
    assert machine.bandwidth(0, 1) == 24.0  # PCIe 5, half of it: through host memory


@pytest.mark.parametrize(
    ("links", "note"),
    [
        ([_link(0)], "to itself"),
        ([_link(7)], "no GPU and no switch"),
        ([_link(1, "many"), _link(0, "many")], "no number"),
        ([_link(1, 0), _link(0, 0)], "counted as 0"),
        ([_link(1, 1000), _link(0, 1000)], "counted as 36"),
        ([_link(1, -3), _link(0, 4)], "counted as 0"),
    ],
)
def test_links_that_cannot_be(links: list[str], note: str) -> None:
    machine = read_nccl_xml(_system(links))
    assert any(note in said for said in machine.notes), machine.notes
    assert all(link.count <= 36 for link in machine.nvlinks)


def test_numbers_of_gpus_with_holes_are_closed() -> None:
    machine = read_nccl_xml(_system(["", "", ""]).replace('dev="1"', 'dev="5"'))
    assert {pci.gpu.index: pci.bus_id for pci in machine.devices if pci.gpu} == {
        0: "0000:00:00.0", 1: "0000:02:00.0", 2: "0000:01:00.0",
    }  # fmt: skip
    assert any("numbered anew" in note for note in machine.notes)


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("<topology/>", "NCCL topology, line 1.*<system>"),
        ("<system>", "line 1.*well-formed XML"),
        ("", "well-formed XML"),
        ("<system><cpu host_hash='a'/><cpu host_hash='b'/></system>", "one host"),
        (_system(["", ""]).replace("0000:01", "0000:00"), "busid of GPUs"),
    ],
)
def test_what_is_no_topology_says_where(text: str, finding: str) -> None:
    with pytest.raises(InputError, match=finding):
        read_nccl_xml(text)


def test_an_empty_system_has_no_gpus() -> None:
    machine = read_nccl_xml('<system version="1"/>')
    assert (machine.count, machine.islands(), machine.key) == (0, (), read_nccl_xml("<system/>").key)


# --- hostile files ----------------------------------------------------------------------------------------------

BOMB = """<?xml version="1.0"?>
<!DOCTYPE system [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]>
<system><cpu numaid="&c;"/></system>"""
OUTSIDE = '<!DOCTYPE system [<!ENTITY x SYSTEM "file:///etc/hostname">]><system><cpu numaid="&x;"/></system>'


@pytest.mark.parametrize("text", [BOMB, OUTSIDE, '<!DOCTYPE system SYSTEM "http://a.example/x.dtd"><system/>'])
def test_a_dtd_is_refused_before_anything_of_it_is_used(text: str) -> None:
    with pytest.raises(InputError, match="no DTD and no entities"):
        read_nccl_xml(text)


def test_files_that_are_too_large_deep_or_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = "<system><cpu>" + "<pci>" * 100 + "</pci>" * 100 + "</cpu></system>"
    with pytest.raises(InputError, match="nested deeper"):
        read_nccl_xml(deep)
    many = "<system>" + "<cpu/>" * (xml_elements.MOST_ELEMENTS + 1) + "</system>"
    with pytest.raises(InputError, match="elements"):
        read_nccl_xml(many)
    monkeypatch.setattr(xml_elements, "MOST_BYTES", 1000)
    with pytest.raises(InputError, match="at most 1000 bytes"):
        read_nccl_xml("<system>" + " " * 1000 + "</system>")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="an existing file"):
        load_machine(tmp_path / "none.xml")
    with pytest.raises(InputError, match="a readable file"):
        load_machine(tmp_path)
    (tmp_path / "x.xml").write_bytes(b"\xff\xfe<system/>")
    with pytest.raises(InputError, match="UTF-8"):
        load_machine(tmp_path / "x.xml")


@given(text=st.text(max_size=300) | st.text("<>/=\"' systemcpugnvlink0123456789", max_size=300))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(InputError):
        read_nccl_xml(text)


@given(machine=machines(), data=st.data())
def test_a_file_with_a_piece_cut_out_is_read_or_refused(machine: Machine, data: st.DataObject) -> None:
    text = write_nccl_xml(machine)
    a, b = sorted((data.draw(st.integers(0, len(text))), data.draw(st.integers(0, len(text)))))
    try:
        found = read_nccl_xml(text[:a] + text[b:])
    except RakkaError:
        return
    for x, y in combinations(range(found.count), 2):
        assert found.bandwidth(x, y) > 0
