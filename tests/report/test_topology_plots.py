"""Pictures and texts of topologies: everything is there, and in the colours that were asked for."""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pytest
from hardware.machines import machines
from hypothesis import given, settings
from matplotlib.colors import to_hex
from matplotlib.image import imread
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.text import Text

from rakka_sim.config.machines import MACHINES
from rakka_sim.errors import InputError
from rakka_sim.hardware.nccl_write import write_nccl_xml
from rakka_sim.hardware.nccl_xml import read_nccl_xml
from rakka_sim.hardware.presets import preset
from rakka_sim.hardware.topo_read import read_topo
from rakka_sim.hardware.topology import ClusterTopology, Machine, Node
from rakka_sim.report.cluster_plot import MOST_NODES, draw, side_by_side
from rakka_sim.report.figures import BLUE, ORANGE, RED, Figure
from rakka_sim.report.files import save_figure
from rakka_sim.report.marks import FREE, colours_for, ink
from rakka_sim.report.topology_text import describe


def _texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def _faces(figure: Figure) -> Iterator[str]:
    for box in figure.findobj(Rectangle):
        if box.get_facecolor()[3] and box.axes is not None:
            yield to_hex(box.get_facecolor())


def _drawn(figure: Figure) -> bytes:
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=40)
    return png.getvalue()


@pytest.mark.parametrize("name", [spec.name for spec in MACHINES])
def test_every_machine_is_drawn_whole(name: str) -> None:
    machine = preset(name)
    figure = draw(machine)
    texts = _texts(figure)
    assert sorted(text for text in texts if text.startswith("GPU ")) == sorted(f"GPU {k}" for k in range(machine.count))
    assert sum(text.startswith("NUMA node") for text in texts) == len(machine.cpus)
    assert sum("NIC" in text for text in texts) >= (1 if machine.nics else 0)
    assert any("NVSwitch" in text for text in texts) == bool(machine.switch_links)
    curves = [patch for patch in figure.findobj(PathPatch) if patch.axes is not None]
    assert len(curves) == len(machine.nvlinks)
    if name == "dgx1-v100":
        assert imread(io.BytesIO(_drawn(figure))).std() > 0.01


@settings(max_examples=15)
@given(machine=machines())
def test_any_machine_is_drawn_and_told(machine: Machine) -> None:
    texts = _texts(draw(machine))
    assert sum(text.startswith("GPU ") for text in texts) == machine.count
    assert machine.key in describe(machine)


def test_a_placement_is_in_its_colours() -> None:
    marks = {0: "a/0", 1: "a/0", 2: "b/0", 3: ("a/1", "b/0")}
    figure = draw(preset("dgx1-v100"), marks, colours={"b/0": "#123456"})
    faces = list(_faces(figure))
    assert faces.count(BLUE) >= 2
    assert faces.count("#123456") >= 2
    assert faces.count(FREE) == 4
    edges = [to_hex(box.get_edgecolor()) for box in figure.findobj(Rectangle) if box.get_edgecolor()[3]]
    assert edges.count(RED) == 1  # the GPU that two share
    legend = figure.axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["a/0", "b/0", "a/1"]


def _cluster(nodes: int = 3) -> ClusterTopology:
    hgx = preset("hgx-h100")
    made = [Node(f"h100-{i}", hgx, f"rack-{i % 2}", region="us-east") for i in range(nodes)]
    return ClusterTopology((*made, Node("egress-of-a-very-long-name-indeed-it-is", egress=True)), name="c$1")


def test_a_cluster_is_drawn_node_by_node() -> None:
    figure = draw(_cluster(), {("h100-1", 2): "x"})
    texts = _texts(figure)
    assert {"h100-0", "h100-1", "h100-2", "egress", "no GPUs"} <= set(texts)
    assert texts.count("7") == 3
    assert sum("rack rack-0" in text for text in texts) == 1
    assert list(_faces(figure)).count(BLUE) == 1 + 1  # the GPU, and the legend
    assert _drawn(figure)


def test_two_policies_side_by_side_share_their_colours() -> None:
    first = {("h100-0", gpu): "llama/0" for gpu in range(4)} | {("h100-1", 0): "qwen/0"}
    second = {("h100-2", 7): "qwen/0"}
    figure = side_by_side(_cluster(), {"topology": first, "pack": second})
    above, below = figure.axes
    assert (above.get_title(loc="left"), below.get_title(loc="left")) == ("topology", "pack")
    colours = [[to_hex(p.get_facecolor()) for p in axes.patches if isinstance(p, Rectangle)] for axes in figure.axes]
    assert (colours[0].count(BLUE), colours[0].count(ORANGE)) == (4, 1)
    assert (colours[1].count(BLUE), colours[1].count(ORANGE)) == (0, 1)


def test_a_large_cluster_says_what_it_leaves_out() -> None:
    box = preset("single")
    cluster = ClusterTopology(tuple(Node(f"n{i}", box) for i in range(MOST_NODES + 5)))
    assert "and 5 nodes more" in _texts(draw(cluster))
    assert f"and {MOST_NODES + 5 - 60} nodes more" in describe(cluster)


def test_names_are_never_mathematics() -> None:
    assert _drawn(draw(_cluster(), {("h100-0", 0): "a$b$_x"}, title="$x$"))


def test_labels_can_be_read_on_their_colours() -> None:
    assert (ink(["#ffffff"]), ink(["#000000"]), ink([])) == ("#1a202c", "white", "#1a202c")
    many = colours_for({k: f"l{k}" for k in range(40)})
    assert len(many) == 40
    assert len(set(list(many.values())[:16])) == 16


@pytest.mark.parametrize("name", [spec.name for spec in MACHINES])
def test_the_text_holds_the_matrix_and_the_islands(name: str) -> None:
    machine = preset(name)
    text = describe(machine)
    again = read_topo(text, machine.gpus[0].model)
    for a, b in combinations(range(machine.count), 2):
        assert (again.path(a, b), again.links(a, b)) == (machine.path(a, b), machine.links(a, b))
    for island in machine.islands():
        assert f"  {', '.join(map(str, sorted(island)))}" in text
    assert "Source: " in text


def test_the_text_holds_the_notes() -> None:
    text = write_nccl_xml(preset("single")).replace("32.0 GT/s PCIe", "fast")
    assert "note: link_speed 'fast', which NCCL does not know: counted as PCIe 3" in describe(read_nccl_xml(text))


def test_the_text_of_a_cluster_names_islands_that_span_nodes() -> None:
    tray = preset("gb200-nvl72")
    text = describe(ClusterTopology(tuple(Node(f"t{i}", tray, nvlink_domain="d") for i in range(18))))
    assert "72 GPUs of 18 nodes, t0 to t9" in text


def test_a_picture_is_saved_whole_or_refused(tmp_path: Path) -> None:
    figure = draw(preset("single"))
    for ending in ("png", "svg", "pdf"):
        assert save_figure(figure, tmp_path / f"a.{ending}").stat().st_size > 500
    with pytest.raises(InputError, match=r"ends in \..*\.png"):
        save_figure(figure, tmp_path / "a.xyz")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="can be written"):
        save_figure(figure, tmp_path / "file" / "a.png")
