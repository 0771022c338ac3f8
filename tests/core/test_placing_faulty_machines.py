"""Machines whose report is broken, through the loaders into the placement actors: read and placed on, or refused.

Never an error without a type, no GPU twice, nothing lost, and the best set of the machine as it was read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any

import pytest
from core.placing_oracle import best_sets, fits
from hardware.machines import machines
from hardware.test_live import Nvml
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st

from rakka_sim.actors.demands import demand_of
from rakka_sim.actors.placement import DeploymentPlacementActor
from rakka_sim.config.base import parse
from rakka_sim.config.deployment import Deployment
from rakka_sim.core.placing import NodeFacts
from rakka_sim.errors import InputError, NotEnoughGpus, PlacementError
from rakka_sim.hardware.machine import Machine
from rakka_sim.hardware.mig import MigState, profiles
from rakka_sim.hardware.nccl_write import write_nccl_xml
from rakka_sim.hardware.nccl_xml import read_nccl_xml
from rakka_sim.hardware.nvml import read_nvml
from rakka_sim.hardware.presets import preset
from rakka_sim.hardware.shape import MachineShape
from rakka_sim.hardware.topo_read import read_topo
from rakka_sim.hardware.topo_text import matrix_text
from rakka_sim.messages import Place, Release
from rakka_sim.runtime.sim import SimRuntime
from rakka_sim.values import NodeAssignment, PlacementResult

WAIT_S = 60.0
HUGE = "9" * 400
PRESETS = [
    preset(name) for name in ("dgx1-v100", "dgx1-p100", "dgx-a100", "hgx-h100", "pcie", "nvlink-pairs", "gb200-nvl72")
]
sound = st.one_of(st.sampled_from(PRESETS), machines(6))

# --- broken reports ---------------------------------------------------------------------------------------------

# An attribute of NCCL's file, and what a system or a hand has been seen to put there, or might.
NUMBERS = ["", "-1", "0", "3", "-4", "x", "1e9", HUGE, "0x10", "99999"]
ATTRIBUTES = {
    "numaid": [*NUMBERS, "2"],
    "link_speed": ["", "Unknown", "32 GT/s PCIe/s", "2.5 GT/s PCIe", "-"],
    "link_width": NUMBERS,
    "busid": ["", "fffffff:ff:ff.0", "0000:18:00.0", "none"],
    "class": ["", "0x030200", "0x060400", "0x068000", "garbage"],
    "sm": NUMBERS,
    "dev": NUMBERS,
    "model": ["", "H100", "no such GPU"],
    "count": NUMBERS,
    "target": ["", "0000:99:00.0", "fffffff:ff:ff.0", "0000:18:00.0"],
    "tclass": ["", "0x068000", "0x030200", "?"],
    "nopeer": ["", "0", "1,2", "7,x,-1", HUGE],
    "vendor": ["", "GenuineIntel", "CentaurHauls"],
    "arch": ["", "riscv", "arm64"],
    "familyid": NUMBERS,
    "modelid": NUMBERS,
    "speed": NUMBERS,
    "hostbridge": NUMBERS,
}


@st.composite
def faulty_files(draw: st.DrawFn) -> str:
    """A file of NCCL's with some links, attributes and GPUs lost or spoilt."""
    text = write_nccl_xml(draw(sound))
    for _ in range(draw(st.integers(0, 6))):
        what = draw(st.sampled_from(["link", "gpu", *ATTRIBUTES, *ATTRIBUTES]))
        if what == "link":
            text = _without(draw, text, r" *<nvlink [^>]*/>\n")
        elif what == "gpu":
            text = _without(draw, text, r" *<gpu (?:[^>]*/>\n|(?s:[^>]*[^/]>.*?</gpu>\n))")
        else:
            spoilt = draw(st.sampled_from(["", *(f' {what}="{value}"' for value in ATTRIBUTES[what])]))
            text = _replaced(draw, text, rf' {what}="[^"]*"', spoilt)
    return text


def _without(draw: st.DrawFn, text: str, pattern: str) -> str:
    return _replaced(draw, text, pattern, "")


def _replaced(draw: st.DrawFn, text: str, pattern: str, new: str) -> str:
    """One place or all places of a pattern."""
    found = [match.span() for match in re.finditer(pattern, text)]
    if not found:
        return text
    chosen = found if draw(st.integers(0, 4)) == 0 else [draw(st.sampled_from(found))]
    for start, end in reversed(chosen):
        text = text[:start] + new + text[end:]
    return text


CELLS = ["NV0", "NV1", "NV4", "NV18", f"NV{HUGE}", "SYS", "PIX", "NODE", "CNS", "???", "N/A", "X", "-1"]


@st.composite
def faulty_matrices(draw: st.DrawFn) -> str:
    """A `topo -m` with cells that one side alone reports, or that are no path."""
    lines = matrix_text(draw(st.sampled_from(PRESETS[:-1]))).split("\n")
    rows = [at for at, line in enumerate(lines) if re.match(r"GPU\d", line)]
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.sampled_from(rows))
        cells = [match.span() for match in re.finditer(r"\S+", lines[at])][1:]
        start, end = draw(st.sampled_from(cells))
        new = draw(
            st.sampled_from(["NV1", "NV4", "NV18", "NV99", "SYS", "PIX", "NODE", "CNS", "???", "N/A", "X", "-1"])
        )
        lines[at] = lines[at][:start] + new.ljust(end - start) + lines[at][end:]
    return "\n".join(lines)


@st.composite
def faulty_drivers(draw: st.DrawFn) -> Nvml:
    """An NVML without some of its functions, that calls some peers unreachable."""
    functions = [name for name in vars(Nvml) if name.startswith("nvml") and "Count" not in name]
    needed = {"nvmlDeviceGetHandleByIndex", "nvmlDeviceGetName", "nvmlDeviceGetUUID", "nvmlDeviceGetPciInfo"}
    missing = draw(st.sets(st.sampled_from([name for name in functions if name not in needed]), max_size=3))
    machine = draw(st.sampled_from(PRESETS))
    pairs = st.sampled_from([(a, b) for a in range(machine.count) for b in range(machine.count) if a != b])
    return Nvml(machine, tuple(missing), draw(st.dictionaries(pairs, st.sampled_from([1, 3, 4, 5]), max_size=4)))


def _read(reader: Callable[[Any], Machine], report: Any) -> Machine:
    """The machine of a report; one that is no topology is refused, by name, and ends the example."""
    try:
        return reader(report)
    except InputError:
        event("refused by the loader")
        assume(False)
        raise


as_read = st.one_of(
    faulty_files().map(lambda text: _read(read_nccl_xml, text)),
    faulty_matrices().map(lambda text: _read(read_topo, text)),
    faulty_drivers().map(lambda nvml: _read(read_nvml, nvml)),
)


# --- placing on them --------------------------------------------------------------------------------------------


def deployment(name: str, replicas: int, gpus: int, **placement: Any) -> Deployment:
    fields = {"name": name, "replicas": replicas, "gpus": gpus, "model": "Qwen3-0.6B", "placement": placement}
    return parse(Deployment, fields, "test")


class Cluster:
    """The placement actors on some nodes, and beside them a dict of who has what."""

    def __init__(self, facts: list[NodeFacts]) -> None:
        self.facts = {each.name: each for each in facts}
        self.system = SimRuntime(0)
        self.ref = self.system.spawn("placement", lambda: DeploymentPlacementActor("topology", facts))
        self.held: dict[str, tuple[NodeAssignment, ...]] = {}

    def place(self, wanted: Deployment) -> tuple[NodeAssignment, ...] | None:
        """Where it went, None where there was no room; anything else than that is a fault."""
        try:
            result = self.system.ask(self.ref, Place(wanted), WAIT_S)
        except PlacementError:
            return None
        assert isinstance(result, PlacementResult)
        self.held[wanted.name] = result.assignments
        assert [each.replica_index for each in result.assignments] == list(range(wanted.replicas))
        self.check()
        return result.assignments

    def release(self, name: str) -> None:
        self.system.ask(self.ref, Release(name), WAIT_S)
        del self.held[name]

    def check(self) -> None:
        """Nothing is held twice, and nothing that is not there."""
        whole = [(each.node, gpu) for each in self._all() if each.slice is None for gpu in each.gpus]
        assert len(set(whole)) == len(whole)
        for node, gpu in whole:
            assert 0 <= gpu < self.facts[node].shape.count
            assert gpu not in self.facts[node].sliced

    def _all(self) -> Iterator[NodeAssignment]:
        return (each for assignments in self.held.values() for each in assignments)

    def free(self, node: str) -> list[int]:
        """The whole GPUs that nobody has, by the dict alone."""
        taken = {gpu for each in self._all() if each.node == node for gpu in each.gpus}
        facts = self.facts[node]
        return [gpu for gpu in range(facts.shape.count) if gpu not in taken and gpu not in facts.sliced]


@settings(max_examples=150)  # each reads a machine and tries all its sets
@given(as_read, st.data())
def test_replicas_go_to_the_best_sets_of_the_machine_as_it_was_read(machine: Machine, data: st.DataObject) -> None:
    assume(machine.count)
    shape = MachineShape(machine)
    cluster = Cluster([NodeFacts("n", shape)])
    for number in range(data.draw(st.integers(1, 4))):
        free, size = cluster.free("n"), data.draw(st.integers(1, machine.count))
        wanted = deployment(f"d{number}", 1, size)
        placed = cluster.place(wanted)
        assert (placed is not None) == (size <= len(free))
        if placed is not None:
            assert placed[0].gpus == best_sets(shape, free, size, demand_of(wanted).message_bytes)[0]
        if cluster.held and data.draw(st.booleans()):
            cluster.release(data.draw(st.sampled_from(sorted(cluster.held))))
    for name in list(cluster.held):
        cluster.release(name)
    assert cluster.place(deployment("all of it", 1, machine.count)) is not None


@given(as_read, sound, st.lists(st.tuples(st.integers(1, 3), st.integers(1, 4), st.booleans()), max_size=4))
def test_no_gpu_is_held_twice_and_none_is_lost(
    machine: Machine, other: Machine, asked: list[tuple[int, int, bool]]
) -> None:
    cluster = Cluster([NodeFacts("faulty", MachineShape(machine)), NodeFacts("sound", MachineShape(other))])
    total = {"faulty": machine.count, "sound": other.count}
    for number, (replicas, size, island) in enumerate(asked):
        free = [len(cluster.free(node)) for node in total]
        before = dict(cluster.held)
        wishes = {"island": "require"} if island else {}
        placed = cluster.place(deployment(f"d{number}", replicas, size, **wishes))
        if placed is None:
            assert cluster.held == before
        elif island:
            islands = {name: facts.shape.islands for name, facts in cluster.facts.items()}
            for each in placed:
                assert any(set(each.gpus) <= set(island) for island in islands[each.node])
        if not island:
            assert (placed is not None) == fits(free, [size] * replicas)
    for name in list(cluster.held):
        cluster.release(name)
    singles = sum(total.values())
    if singles:
        assert cluster.place(deployment("each of them", singles, 1)) is not None
        assert cluster.place(deployment("one more", 1, 1)) is None


@st.composite
def fragmented(draw: st.DrawFn, kind: str) -> MigState:
    """What slices that came and went have left."""
    state, known = MigState(kind), [profile.name for profile in profiles(kind)]
    for _ in range(draw(st.integers(0, 9))):
        if state.placed and draw(st.booleans()):
            state = state.remove(*draw(st.sampled_from(state.placed)))
        elif ways := state.remaining():
            state = state.add(*draw(st.sampled_from(ways)))
    assert set(known) >= {name for name, _ in state.placed}
    return state


@given(as_read, st.data())
def test_slices_and_whole_gpus_keep_out_of_each_others_way(machine: Machine, data: st.DataObject) -> None:
    assume(machine.count)
    kind = data.draw(st.sampled_from(["H100", "A30"]))
    cut = sorted(data.draw(st.sets(st.integers(0, machine.count - 1), max_size=3)))
    boards = {gpu: data.draw(fragmented(kind)) for gpu in cut}
    cluster = Cluster([NodeFacts("n", MachineShape(machine), sliced=boards)])
    names = [profile.name for profile in profiles(kind)]
    for number in range(data.draw(st.integers(1, 4))):
        profile = data.draw(st.sampled_from(["", *names]))
        size = 1 if profile else data.draw(st.integers(1, machine.count))
        replicas = data.draw(st.integers(1, 3)) if profile else 1
        room = sum(board.room(profile) for board in boards.values()) if profile else len(cluster.free("n")) // size
        placed = cluster.place(deployment(f"d{number}", replicas, size, **({"mig": profile} if profile else {})))
        assert (placed is not None) == (replicas <= room)
        for each in placed if placed is not None and profile else ():
            (gpu,), slot = each.gpus, each.slice
            assert slot is not None
            assert slot.profile == profile
            boards[gpu] = boards[gpu].add(slot.profile, slot.start)  # raises where it overlaps what is there


# --- cases ------------------------------------------------------------------------------------------------------


def _spoilt(name: str, pattern: str, new: str, count: int = 0) -> Machine:
    text = write_nccl_xml(preset(name))
    assert re.search(pattern, text)
    return read_nccl_xml(re.sub(pattern, new, text, count=count))


def _address(machine: Machine, gpu: int) -> str:
    return next(pci.bus_id for pci in machine.devices if pci.gpu and pci.gpu.index == gpu)


def _reporting(machine: Machine, gpu: int, pattern: str, new: str) -> Machine:
    """The machine as it is read where one GPU's report is spoilt."""
    text = write_nccl_xml(machine)
    start = text.index(f'busid="{_address(machine, gpu)}"')
    end = text.index("</gpu>", start)
    assert re.search(pattern, text[start:end])
    return read_nccl_xml(text[:start] + re.sub(pattern, new, text[start:end]) + text[end:])


@pytest.mark.parametrize(
    ("pattern", "new"),
    [
        (r'modelid="\d+"', 'modelid="-1"'),
        (r'link_width="16"', 'link_width="-4"'),
        (r'link_width="16"', f'link_width="{HUGE}"'),
        (r'sm="70"', f'sm="{HUGE}"'),
        (r'sm="70"', 'sm="-70"'),
        (r'speed="100000"', f'speed="{HUGE}"'),
        (r'numaid="\d"', 'numaid="-1"'),
        (r'link_speed="[^"]*"', 'link_speed="no such"'),
    ],
)
def test_what_no_system_should_say_of_a_machine_is_noted_and_costs_no_placement(pattern: str, new: str) -> None:
    machine = _spoilt("dgx1-v100", pattern, new)
    assert machine.notes or new == 'modelid="-1"'
    for a, b in combinations(range(8), 2):
        assert 0 < machine.bandwidth(a, b) < 1_000
    placed = Cluster([NodeFacts("n", MachineShape(machine))]).place(deployment("d", 2, 4))
    assert placed is not None


def test_a_gpu_that_lost_its_nvlinks_is_taken_last() -> None:
    """As on a real GB300, where one GPU of eight came up without them."""
    machine = _reporting(preset("hgx-h100"), 0, r"\s*<nvlink [^>]*/>", "")
    cluster = Cluster([NodeFacts("n", MachineShape(machine))])
    assert [cluster.place(deployment(f"d{k}", 1, 2))[0].gpus for k in range(3)] == [(1, 2), (3, 4), (5, 6)]  # type: ignore[index]
    assert cluster.place(deployment("last", 1, 2))[0].gpus == (0, 7)  # type: ignore[index]


def test_a_link_that_one_end_reports_is_no_link() -> None:
    """GPUs 0 and 3 have two links, of which only 0 knows: four replicas take other pairs."""
    machine = preset("dgx1-v100")
    read = _reporting(machine, 3, rf'\s*<nvlink target="{_address(machine, 0)}"[^>]*/>', "")
    assert any("GPU 0 reports 2 NVLinks to GPU 3, which reports 0" in note for note in read.notes)
    placed = Cluster([NodeFacts("n", MachineShape(read))]).place(deployment("d", 4, 2))
    assert placed is not None
    assert {each.gpus for each in placed} == {(0, 4), (1, 5), (2, 3), (6, 7)}


def test_of_links_that_both_ends_report_the_fewer_count() -> None:
    """GPU 3 knows of one of its two links to GPU 0; which pair is wider decides where a replica goes."""
    machine = preset("dgx1-v100")
    read = _reporting(machine, 3, rf'(<nvlink target="{_address(machine, 0)}" count=)"2"', r'\1"1"')
    assert read.links(0, 3) == 1
    assert any("reports 1: 1 counted" in note for note in read.notes)
    placed = Cluster([NodeFacts("n", MachineShape(read))]).place(deployment("d", 4, 2))
    assert placed is not None
    assert {each.gpus for each in placed} == {(0, 4), (1, 5), (2, 3), (6, 7)}


def test_a_matrix_with_more_links_than_a_gpu_can_have() -> None:
    text = matrix_text(preset("dgx1-v100"))
    machine = read_topo(re.sub(r"NV2", f"NV{HUGE}", text), "V100")
    assert any("the most there are" in note for note in machine.notes)
    placed = Cluster([NodeFacts("n", MachineShape(machine))]).place(deployment("d", 2, 4))
    assert placed is not None


def test_peers_that_the_driver_keeps_apart_are_not_put_together() -> None:
    """An NVLink that may not be used (P2P is off for that pair) is worth less than the path of any other pair."""
    machine = read_nvml(Nvml(preset("hgx-h100"), p2p={(1, 0): 5}))
    assert machine.no_peer == ((0, 1),)
    assert (machine.links(0, 1), machine.group((0, 1)).fabric) == (0, "host")
    cluster = Cluster([NodeFacts("n", MachineShape(machine))])
    for number in range(4):
        placed = cluster.place(deployment(f"d{number}", 1, 2))
        assert placed is not None
        assert placed[0].gpus != (0, 1)


def test_addresses_that_are_there_twice_are_refused() -> None:
    with pytest.raises(InputError, match="busid of GPUs"):
        _spoilt("hgx-h100", r'busid="0000:\w+:00.0" class="0x030200"', 'busid="0000:18:00.0" class="0x030200"')


def test_no_place_on_a_machine_without_gpus() -> None:
    cluster = Cluster([NodeFacts("n", MachineShape(_spoilt("single", r'class="0x030200"|<gpu [^>]*/>', "")))])
    with pytest.raises(PlacementError):
        cluster.system.ask(cluster.ref, Place(deployment("d", 1, 1)), WAIT_S)
    busy = Cluster([NodeFacts("n", MachineShape(preset("single")))])
    assert busy.place(deployment("d", 1, 1)) is not None
    with pytest.raises(NotEnoughGpus):
        busy.system.ask(busy.ref, Place(deployment("e", 1, 1)), WAIT_S)
