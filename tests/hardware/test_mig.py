"""MIG against enumeration: what is legal, how many states there are, where a slice hurts least, what a slice is."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rakka_sim.config.deployment import EngineConfig
from rakka_sim.config.gpus import gpu
from rakka_sim.config.models import model_spec
from rakka_sim.engines.sizing import kv_block_count
from rakka_sim.errors import MigNoPeers, NoMigStart, UnknownName
from rakka_sim.hardware.mig import MigState, check_peers, packed, profile, profiles, slice_spec, states
from rakka_sim.hardware.mig_tables import CUTS, GIB, Profile
from rakka_sim.timing.api import StepShape
from rakka_sim.timing.implied import implied
from rakka_sim.timing.roofline import Roofline

SEVEN = [cut.gpu for cut in CUTS if cut.memory == 8]
NAMES = [cut.gpu for cut in CUTS]
Placed = tuple[tuple[str, int], ...]


def brute(kinds: tuple[Profile, ...], memory: int) -> set[frozenset[tuple[str, int]]]:
    """Every legal set of slices, by trying all subsets of (profile, start) that can be: slow, and plainly right."""
    slots = [(row, start) for row in kinds for start in row.starts]
    found = set()
    for count in range(memory + 1):
        for chosen in itertools.combinations(slots, count):
            taken = [at for row, start in chosen for at in range(start, start + row.memory)]
            few = all(sum(other is row for other, _ in chosen) <= row.most for row, _ in chosen)
            if few and len(taken) == len(set(taken)) and max(taken, default=0) < memory:
                found.add(frozenset((row.name, start) for row, start in chosen))
    return found


def without_doubles(name: str) -> tuple[Profile, ...]:
    return tuple(row for row in profiles(name) if row.nvml_id != 15)


def free_memory(state: MigState) -> int:
    memory = next(cut.memory for cut in CUTS if cut.gpu == state.gpu)
    return memory - sum(profile(state.gpu, name).memory for name, _ in state.placed)


def maximal(kinds: tuple[Profile, ...], found: set[frozenset[tuple[str, int]]]) -> int:
    """How many of all legal sets of slices no slice can be added to."""
    slots = [(row.name, start) for row in kinds for start in row.starts]
    return sum(not any(slot not in placed and placed | {slot} in found for slot in slots) for placed in found)


@st.composite
def partly(draw: st.DrawFn) -> MigState:
    """A state reached by adding what fits, then taking some away again."""
    state = MigState(draw(st.sampled_from(NAMES)))
    for _ in range(draw(st.integers(0, 8))):
        if not (left := state.remaining()):
            break
        state = state.add(*draw(st.sampled_from(left)))
    for slot in draw(st.lists(st.sampled_from(state.placed), unique=True)) if state.placed else []:
        state = state.remove(*slot)
    return state


# --- how many states --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SEVEN)
def test_the_states_and_the_maximal_ones_are_as_many_as_known(name: str) -> None:
    every = profiles(name, media=True)
    counted = {}
    for kinds in (without_doubles(name), profiles(name), every):
        found = states(kinds)
        counted[len(kinds)] = len(found), maximal(kinds, {frozenset(placed) for placed in found})
    assert counted == {5: (298, 19), 6: (723, 78), 7: (2319, 239)}


def test_the_states_are_those_found_by_trying_all_subsets() -> None:
    for name, kinds in (("A30", profiles("A30")), ("H200", without_doubles("H200"))):
        found = states(kinds)
        assert len(set(found)) == len(found)
        assert {frozenset(placed) for placed in found} == brute(kinds, 4 if name == "A30" else 8)


def test_the_compute_slices_never_bind() -> None:
    kinds = {row.name: row for row in profiles("H200", media=True)}
    for placed in states(tuple(kinds.values())):
        assert sum(kinds[name].compute for name, _ in placed) <= 7


@given(partly())
def test_every_state_reached_by_hand_is_one_of_them(state: MigState) -> None:
    kinds = profiles(state.gpu)
    found = {frozenset(placed) for placed in states(kinds)}
    assert frozenset(state.placed) in found
    assert state.remaining() == tuple(
        (row.name, start)
        for row in kinds
        for start in row.starts
        if frozenset({*state.placed, (row.name, start)}) in found and (row.name, start) not in state.placed
    )


# --- one state --------------------------------------------------------------------------------------------------


@given(partly(), st.data())
def test_to_remove_what_was_added_is_to_have_done_nothing(state: MigState, data: st.DataObject) -> None:
    for name, start in state.remaining():
        assert state.add(name, start).remove(name, start) == state
        assert hash(state.add(name, start).remove(name, start)) == hash(state)
    order = data.draw(st.permutations(state.placed))
    assert MigState(state.gpu, tuple(order)) == state


@given(partly())
def test_no_two_slices_overlap_and_no_profile_is_too_many(state: MigState) -> None:
    rows = [(profile(state.gpu, name), start) for name, start in state.placed]
    taken = [at for row, start in rows for at in range(start, start + row.memory)]
    assert len(taken) == len(set(taken))
    assert set(taken) <= set(range(next(cut.memory for cut in CUTS if cut.gpu == state.gpu)))
    assert all(sum(other is row for other, _ in rows) <= row.most for row, _ in rows)


@given(partly())
def test_the_best_start_leaves_most(state: MigState) -> None:
    for row in profiles(state.gpu):
        left = {start: len(state.add(row.name, start).remaining()) for start in state.starts(row.name)}
        if left:
            best = state.best_start(row.name)
            assert left[best] == max(left.values())
            assert best == min(start for start, count in left.items() if count == left[best])
        else:
            with pytest.raises(NoMigStart, match="free starts: none"):
                state.best_start(row.name)


@given(partly())
def test_room_is_what_any_order_fits(state: MigState) -> None:
    for row in profiles(state.gpu):
        fits = [
            len(placed) - len(state.placed)
            for placed in states(profiles(state.gpu))
            if set(state.placed) <= set(placed) and {name for name, _ in set(placed) - set(state.placed)} <= {row.name}
        ]
        assert state.room(row.name) == max(fits)


@pytest.mark.parametrize("name", SEVEN)
def test_an_empty_gpu_prefers_the_known_starts(name: str) -> None:
    one, double, two, three, four, seven = (row.name for row in profiles(name))
    empty = MigState(name)
    assert [empty.best_start(kind) for kind in (one, double, two, three, four, seven)] == [6, 6, 4, 4, 0, 0]
    left = [len(empty.add(one, start).remaining()) for start in range(7)]
    assert left == [12, 12, 12, 12, 13, 13, 14]
    assert [len(empty.add(three, start).remaining()) for start in (0, 4)] == [7, 10]
    assert empty.add(three, 0).starts(four) == ()
    assert empty.add(three, 4).starts(four) == (0,)
    assert [empty.room(kind) for kind in (one, double, two, three, four, seven)] == [7, 4, 3, 2, 1, 1]


def test_the_driver_takes_the_same_order_for_seven_small_ones() -> None:
    """Starts 6, 4, 5, 0, 1, 2, 3, from a log of an H100 in which the driver chose them itself."""
    state, order = MigState("H100"), []
    while state.starts("1g.10gb"):
        order.append(state.best_start("1g.10gb"))
        state = state.add("1g.10gb", order[-1])
    assert order == [6, 4, 5, 0, 1, 2, 3]
    assert free_memory(state) == 1
    assert state.remaining() == ()


def test_a_fragmented_gpu_fits_no_large_slice() -> None:
    """Seen in the field (dra-driver #933): 1g at 0, 1, 5. Five memory slices are free, yet no 3g and no 4g fits."""
    state = MigState("H100", (("1g.10gb", 0), ("1g.10gb", 1), ("1g.10gb", 5)))
    assert state.starts("3g.40gb") == state.starts("4g.40gb") == ()
    assert (state.room("1g.10gb"), state.room("2g.20gb"), free_memory(state)) == (4, 1, 5)
    assert MigState("H100").add("1g.10gb", 6).add("1g.10gb", 4).add("1g.10gb", 5).starts("4g.40gb") == (0,)


def test_two_halves_leave_no_room_for_the_seventh_compute_slice() -> None:
    halves = packed("H200", ["3g.71gb", "3g.71gb"])
    assert halves.remaining() == ()
    assert free_memory(halves) == 0
    assert sum(profile("H200", name).compute for name, _ in halves.placed) == 6


@pytest.mark.parametrize(
    ("slots", "message"),
    [
        ([("1g.18gb", 7)], r"1g.18gb on H200 cannot be at 7; free starts: 0, 1, 2, 3, 4, 5, 6"),
        ([("2g.35gb", 1)], r"2g.35gb on H200 cannot be at 1; free starts: 0, 2, 4"),
        ([("3g.71gb", 0), ("4g.71gb", 0)], r"4g.71gb on H200 cannot be at 0; free starts: none"),
        ([("1g.18gb+me", 0), ("1g.18gb+me", 3)], r"1g.18gb\+me on H200 cannot be at 3; free starts: none"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_would(slots: list[tuple[str, int]], message: str) -> None:
    with pytest.raises(NoMigStart, match=message):
        MigState("H200", tuple(slots))
    *first, last = slots
    with pytest.raises(NoMigStart, match=message):
        MigState("H200", tuple(first)).add(*last)


def test_what_is_not_there_cannot_be_removed() -> None:
    with pytest.raises(NoMigStart, match=r"1g.18gb on H200 cannot be at 3; placed starts: 6"):
        MigState("H200", (("1g.18gb", 6),)).remove("1g.18gb", 3)


def test_names_are_those_of_the_catalogue() -> None:
    assert MigState("NVIDIA H200").gpu == "H200"
    assert profiles("nvidia a100-sxm4-80gb") == profiles("A100-80")
    with pytest.raises(
        UnknownName, match=r"MIG profile of H200: '1g.10gb' is not allowed; allowed: 1g.18gb, 1g.18gb\+me, 1g.35gb"
    ):
        profile("H200", "1g.10gb")
    for name in ("L40S", "H300"):
        with pytest.raises(UnknownName, match=f"gpu that can be cut into slices: '{name}'"):
            profiles(name)


# --- several at once --------------------------------------------------------------------------------------------


@given(
    st.sampled_from(NAMES).flatmap(
        lambda name: st.tuples(
            st.just(name), st.lists(st.sampled_from([row.name for row in profiles(name)]), max_size=7)
        )
    )
)
def test_a_list_of_profiles_is_packed_exactly_if_it_can_be(asked: tuple[str, list[str]]) -> None:
    name, names = asked
    fits = any(sorted(kind for kind, _ in placed) == sorted(names) for placed in states(profiles(name)))
    try:
        state = packed(name, names)
    except NoMigStart:
        assert not fits
    else:
        assert fits
        assert sorted(kind for kind, _ in state.placed) == sorted(names)


def test_a_packed_gpu_keeps_its_gaps_together() -> None:
    state = packed("H200", ["3g.71gb", "1g.18gb", "1g.18gb"])
    assert state.starts("2g.35gb")


# --- the tables -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", CUTS, ids=lambda cut: cut.gpu)
def test_a_table_agrees_with_itself(cut: object) -> None:
    row = next(known for known in CUTS if known is cut)
    assert row.source
    for kind in row.profiles:
        assert kind.name.startswith(f"{kind.compute}g.")
        assert all(start + kind.memory <= row.memory for start in kind.starts)
        # As many as are disjoint, counted by going through the starts.
        free, most = 0, 0
        for start in kind.starts:
            if start >= free:
                free, most = start + kind.memory, most + 1
        assert kind.most == (most if kind.plain else 1)
        # The name says GB of the fraction of memory; the driver keeps some for itself.
        gigabytes = int(kind.name.split(".")[1].removesuffix("+me").removesuffix("gb"))
        assert 0.90 * gigabytes < kind.memory_bytes / 1e9 < 1.08 * gigabytes


def test_the_traps_of_the_mocks_are_avoided() -> None:
    three, seven = profile("H100", "3g.40gb"), profile("H100", "7g.80gb")
    assert (three.memory, three.sms, seven.memory, seven.sms) == (4, 60, 8, 132)
    assert profile("H100", "1g.20gb").starts == (0, 2, 4, 6)
    assert profile("A100-40", "7g.40gb").sms == 98  # of 108: ten are lost


# --- a slice as a device ----------------------------------------------------------------------------------------


def test_a_slice_is_its_share_of_the_gpu() -> None:
    """1g.18gb: 16 of 132 SMs and one of eight memory slices of an H200."""
    h200, part = gpu("H200"), slice_spec(gpu("H200"), "1g.18gb")
    assert (part.name, part.slice_of, part.sms) == ("H200 MIG 1g.18gb", "H200", 16)
    assert part.memory_bytes == 16 * GIB
    assert part.memory_bandwidth == 600e9
    assert part.bf16_flops == pytest.approx(989e12 * 16 / 132)
    assert part.fp8_flops == pytest.approx(1979e12 * 16 / 132)
    assert slice_spec(gpu("A100-80"), "1g.10gb").fp8_flops is None
    whole = slice_spec(h200, "7g.141gb")
    assert (whole.sms, whole.memory_bandwidth, whole.bf16_flops) == (h200.sms, h200.memory_bandwidth, h200.bf16_flops)


@pytest.mark.parametrize("name", SEVEN)
def test_the_roofline_and_the_kv_cache_take_a_slice(name: str) -> None:
    """A small model on every slice: the smaller, the slower and the fewer blocks; never beyond the slice's physics."""
    small = model_spec("Qwen3-0.6B")
    device = gpu(name)
    one = slice_spec(device, profiles(name)[0].name)
    half = slice_spec(device, profiles(name)[3].name)
    shape = StepShape((), 4, 4 * 512, 512, 4)
    times = [Roofline(small, spec).seconds(shape) for spec in (one, half, device)]
    assert times[0] > times[1] > times[2]
    assert all(not implied(Roofline(small, spec), spec, shape).impossible for spec in (one, half))
    blocks = [kv_block_count(small, spec, EngineConfig()).blocks for spec in (one, half, device)]
    assert 0 < blocks[0] < blocks[1] < blocks[2]


def test_slices_have_no_peers() -> None:
    part = slice_spec(gpu("H200"), "1g.18gb")
    check_peers(part, 1)
    check_peers(gpu("H200"), 8)
    with pytest.raises(MigNoPeers, match=r"2 x H200 MIG 1g.18gb: MIG slices have no peer access") as caught:
        check_peers(part, 2)
    assert dataclasses.asdict(caught.value) == {"device": "H200 MIG 1g.18gb", "gpus": 2}
