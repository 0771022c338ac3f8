"""The matrix of nvidia-smi: shapes that people have posted, presets printed and read, faults."""

from __future__ import annotations

import contextlib
from itertools import combinations

import pytest
from hardware.machines import machines
from hypothesis import given
from hypothesis import strategies as st

from rakka_sim.config.machines import MACHINES
from rakka_sim.errors import InputError
from rakka_sim.hardware.presets import preset
from rakka_sim.hardware.topo_read import read_topo
from rakka_sim.hardware.topo_text import matrix_text
from rakka_sim.hardware.topology import Machine, PathClass

# An HGX H200 with three GPUs to a NUMA node, the header underlined by the terminal as nvidia-smi does.
UNDERLINED = """\
\t\x1b[4mGPU0\tGPU1\tGPU2\tGPU3\tNIC0\tNIC1\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\x1b[0m
GPU0\t X \tNV18\tNV18\tNV18\tPIX\tNODE\t0-23,96-119\t0\t\tN/A
GPU1\tNV18\t X \tNV18\tNV18\tNODE\tPIX\t0-23,96-119\t0\t\tN/A
GPU2\tNV18\tNV18\t X \tNV18\tSYS\tSYS\t24-47,120-143\t1\t\tN/A
GPU3\tNV18\tNV18\tNV18\t X \tSYS\tSYS\t24-47,120-143\t1\t\tN/A
NIC0\tPIX\tNODE\tSYS\tSYS\t X \tNODE
NIC1\tNODE\tPIX\tSYS\tSYS\tNODE\t X

Legend:

  X    = Self
  SYS  = Connection traversing PCIe as well as the SMP interconnect between NUMA nodes (e.g., QPI/UPI)
  PIX  = Connection traversing at most a single PCIe bridge
  NV#  = Connection traversing a bonded set of # NVLinks

NIC Legend:

  NIC0: mlx5_0
  NIC1: mlx5_bond_0
"""

# NVLink bridges between neighbours but one, everything else across sockets though only two NUMA nodes are named.
BRIDGES = """\
$ nvidia-smi topo -m
        GPU0    GPU1    GPU2    GPU3    CPU Affinity    NUMA Affinity
GPU0     X      SYS     NV12    SYS     0-31            0
GPU1    SYS      X      SYS     NV12    0-31            0
GPU2    NV12    SYS      X      SYS     32-63           1
GPU3    SYS     NV12    SYS      X      32-63           1
"""

# An old driver: SOC for SYS, cards by name, no NUMA column.
OLD = """\
        GPU0    GPU1    GPU2    GPU3    mlx4_0  CPU Affinity
GPU0     X      PIX     SOC     SOC     PHB     0-7,16-23
GPU1    PIX      X      SOC     SOC     PHB     0-7,16-23
GPU2    SOC     SOC      X      PIX     SOC     8-15,24-31
GPU3    SOC     SOC     PIX      X      SOC     8-15,24-31
mlx4_0  PHB     PHB     SOC     SOC      X
"""

# PCIe alone: a pair on one switch, halves on a tree of them.
BOX = """\
        GPU0    GPU1    GPU2    GPU3    GPU4    GPU5    GPU6    GPU7    CPU Affinity    NUMA Affinity
GPU0     X      PIX     PXB     PXB     SYS     SYS     SYS     SYS     0-31            0
GPU1    PIX      X      PXB     PXB     SYS     SYS     SYS     SYS     0-31            0
GPU2    PXB     PXB      X      PXB     SYS     SYS     SYS     SYS     0-31            0
GPU3    PXB     PXB     PXB      X      SYS     SYS     SYS     SYS     0-31            0
GPU4    SYS     SYS     SYS     SYS      X      PIX     PXB     PXB     32-63           1
GPU5    SYS     SYS     SYS     SYS     PIX      X      PXB     PXB     32-63           1
GPU6    SYS     SYS     SYS     SYS     PXB     PXB      X      PXB     32-63           1
GPU7    SYS     SYS     SYS     SYS     PXB     PXB     PXB      X      32-63           1
"""


def _cells(machine: Machine) -> list[str]:
    n = machine.count
    return [f"NV{machine.links(a, b)}" if machine.links(a, b) else machine.path(a, b).name
            for a, b in combinations(range(n), 2)]  # fmt: skip


def test_a_matrix_with_cards_numa_nodes_colours_and_legends() -> None:
    machine = read_topo(UNDERLINED, "H200")
    assert machine.notes == ()
    assert set(_cells(machine)) == {"NV18"}
    assert len(machine.switch_links) == 4  # four GPUs have not three times eighteen links each
    assert machine.bandwidth(0, 3) == pytest.approx(370.8)
    assert machine.pairs.numa == (0, 0, 1, 1)
    assert machine.cpus[0].affinity == "00ffffff,00000000,00000000,00ffffff"
    assert [port.name for pci in machine.nics for port in pci.ports] == ["mlx5_0", "mlx5_bond_0"]
    assert [[way.name for way in ways] for _, ways in machine.pairs.nics] == [
        ["PIX", "NODE", "SYS", "SYS"], ["NODE", "PIX", "SYS", "SYS"],
    ]  # fmt: skip
    assert machine.with_nvlinks().path(0, 1) is PathClass.NODE  # what the NVLinks hid


def test_the_cpu_list_becomes_a_mask_and_back() -> None:
    machine = read_topo(UNDERLINED, "H200")
    assert int(machine.cpus[0].affinity.replace(",", ""), 16) == sum(1 << c for c in [*range(24), *range(96, 120)])
    assert "0-23,96-119" in matrix_text(machine)


def test_nvlink_bridges_across_numa_nodes() -> None:
    machine = read_topo(BRIDGES, "A100-80")
    assert _cells(machine) == ["SYS", "NV12", "SYS", "SYS", "NV12", "SYS"]
    assert [sorted(island) for island in machine.islands()] == [[0, 2], [1, 3]]
    assert machine.switch_links == ()
    assert machine.notes == ()


def test_an_old_driver() -> None:
    machine = read_topo(OLD, "P100")
    assert _cells(machine) == ["PIX", "SYS", "SYS", "SYS", "SYS", "PIX"]
    assert [port.name for pci in machine.nics for port in pci.ports] == ["mlx4_0"]
    assert [way.name for way in machine.pairs.nics[0][1]] == ["PHB", "PHB", "SYS", "SYS"]
    assert machine.pairs.numa == (-1, -1, -1, -1)


def test_a_box_with_pcie_alone() -> None:
    machine = read_topo(BOX, "L40S")
    printed = [line.split()[1:9] for line in BOX.splitlines()[1:]]
    assert _cells(machine) == [printed[a][b] for a, b in combinations(range(8), 2)]
    assert [sorted(island) for island in machine.islands()] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert machine.bandwidth(0, 2) == 12.0  # bridges that say nothing are Gen3


@pytest.mark.parametrize("spec", MACHINES, ids=[spec.name for spec in MACHINES])
def test_a_preset_printed_and_read_is_as_it_was(spec: object) -> None:
    machine = preset(spec.name)  # type: ignore[attr-defined]
    text = matrix_text(machine)
    again = read_topo(text, machine.gpus[0].model)
    assert matrix_text(again) == text
    assert again.pairs.links == machine.pairs.links
    assert again.pairs.paths == machine.pairs.paths
    assert again.pairs.fabric == machine.pairs.fabric
    assert again.islands() == machine.islands()
    assert again.notes == ()


@given(machine=machines())
def test_any_machine_printed_is_read(machine: Machine) -> None:
    if not machine.count:
        return
    again = read_topo(matrix_text(machine), machine.gpus[0].model)
    assert again.count == machine.count
    assert len(again.nics) == sum(max(1, len(pci.ports)) for pci in machine.nics)
    assert again.pairs.links == machine.pairs.links
    for a, b in combinations(range(machine.count), 2):
        # An NVLink hides the PCIe path, and only that.
        if not machine.links(a, b):
            assert again.path(a, b) is machine.path(a, b)


# --- faults -----------------------------------------------------------------------------------------------------


def test_links_that_differ_by_direction() -> None:
    machine = read_topo(BRIDGES.replace("GPU2    NV12", "GPU2    NV4 "), "A100-80")
    assert machine.links(0, 2) == 4
    assert any("GPU 0 reports 12 NVLinks to GPU 2, which reports 4" in note for note in machine.notes)
    one_sided = read_topo(BRIDGES.replace("GPU2    NV12", "GPU2    SYS "), "A100-80")
    assert one_sided.path(0, 2) is PathClass.SYS
    assert any("which reports 0" in note for note in one_sided.notes)


def test_a_gpu_that_lost_its_links() -> None:
    lost = preset("hgx-h100", count=4)
    lost = lost.with_nvlinks(switch_links=[link for link in lost.switch_links if link.gpu != 2])
    machine = read_topo(matrix_text(lost), "H100")
    assert [machine.links(2, gpu) for gpu in (0, 1, 3)] == [0, 0, 0]
    assert [sorted(island) for island in machine.islands()] == [[0, 1, 3], [2]]


def test_paths_that_make_no_tree_are_told() -> None:
    text = OLD.replace("GPU0     X      PIX     SOC", "GPU0     X      PIX     PIX").replace(
        "GPU2    SOC     SOC      X", "GPU2    PIX     SOC      X"
    )
    machine = read_topo(text, "P100")
    assert machine.path(0, 2) is PathClass.PIX
    assert any("is SYS, but others put them at" in note for note in machine.notes)


def test_a_word_that_is_no_path() -> None:
    machine = read_topo(BRIDGES.replace("SYS     NV12    SYS      X", "BAD     NV12    SYS      X"), "A100-80")
    assert machine.path(0, 3) is PathClass.SYS
    assert any("'BAD'" in note for note in machine.notes)


def test_without_a_model_it_says_what_is_assumed() -> None:
    machine = read_topo(BRIDGES)
    assert any("no GPU model" in note for note in machine.notes)
    assert machine.bandwidth(0, 2) == 12 * 20.0


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("", "no line of GPU0"),
        ("hello\nworld", "no line of GPU0"),
        ("        GPU0 GPU1\nGPU0 X SYS\n", "no row of GPU1"),
        ("        GPU0 GPU1\nGPU0 X\nGPU1 SYS X\n", "GPU0.*1 cells"),
        ("   GPU0 GPU0\nGPU0 X X\n", "each once"),
    ],
)
def test_what_is_no_matrix_says_where(text: str, finding: str) -> None:
    with pytest.raises(InputError, match=finding):
        read_topo(text)


@given(text=st.text("GPUNIC0123 XSYSPIXNV\t\n-,", max_size=200), cut=st.integers(0, len(UNDERLINED)))
def test_any_text_is_read_or_refused(text: str, cut: int) -> None:
    for given_text in (text, UNDERLINED[:cut] + text + UNDERLINED[cut:]):
        with contextlib.suppress(InputError):
            read_topo(given_text, "H200")


def test_paths_that_differ_by_direction_are_the_farther_one() -> None:
    machine = read_topo(BOX.replace("GPU1    PIX ", "GPU1    PHB "), "L40S")
    assert machine.path(0, 1) is PathClass.PXB  # both are PXB to GPU 2, so no farther than that from each other
    assert any("GPU0 to GPU1 is PHB, but others put them at PXB" in note for note in machine.notes)
    alone = read_topo("        GPU0 GPU1\nGPU0 X PIX\nGPU1 PHB X\n", "L40S")
    assert alone.path(0, 1) is PathClass.PHB


@pytest.mark.parametrize("cell", ["NV", "X", "NET", "NVL"])
def test_a_word_that_is_no_path_between_two_is_noted(cell: str) -> None:
    machine = read_topo(f"\tGPU0\tGPU1\nGPU0\t X \t{cell}\nGPU1\t{cell}\t X \n")
    assert (machine.count, machine.links(0, 1), machine.path(0, 1)) == (2, 0, PathClass.SYS)
    assert any(repr(cell) in note for note in machine.notes)
