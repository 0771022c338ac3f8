"""The roofline's tensor parallelism by the set of GPUs: the default is unchanged, and a worse set shows in the step."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rakka_sim.config.gpus import GPUS, GpuSpec, gpu
from rakka_sim.config.models import model_spec
from rakka_sim.errors import InputError, MigNoPeers
from rakka_sim.hardware.collectives import Fabric, Group, all_gather, all_reduce, own_group
from rakka_sim.hardware.mig import slice_spec
from rakka_sim.timing.allreduce import TensorParallel
from rakka_sim.timing.api import StepShape
from rakka_sim.timing.constants import constants_for
from rakka_sim.timing.roofline import Roofline

LLAMA = model_spec("Llama-3.1-8B")
H200 = gpu("H200")
SOCKETS = Group(4, Fabric.PCIE, 22.0)  # across two Sapphire Rapids: what NCCL counts between them


def parallel(device: GpuSpec, group: Group | None, tp: int = 4) -> TensorParallel:
    return TensorParallel(LLAMA, device, tp, "bfloat16", constants_for(device), group)


def decode(rows: int, context: int) -> StepShape:
    return StepShape((), rows, rows * context, context, rows)


@given(st.sampled_from(GPUS), st.sampled_from([2, 4, 8]), st.integers(1, 8192))
def test_the_usual_machine_is_the_default(device: GpuSpec, tp: int, tokens: int) -> None:
    own, default = parallel(device, own_group(device, tp), tp), parallel(device, None, tp)
    assert own.seconds(tokens) == default.seconds(tokens)
    assert own.gather_seconds(tokens) == default.gather_seconds(tokens)


def test_across_sockets_decode_pays_nccls_latency_and_prefill_its_bytes() -> None:
    """65 reduces of 64 and 4,096 rows of 8 KiB, a few MB at most above the measured kernels' floor."""
    slow, fast = parallel(H200, SOCKETS), parallel(H200, None)
    for tokens in (64, 4096):
        assert slow.seconds(tokens) == pytest.approx(65 * all_reduce(SOCKETS, tokens * 8192))
    assert slow.gather_seconds(64) == pytest.approx(all_gather(SOCKETS, 64 * 128256 * 2))
    assert slow.seconds(1) - fast.seconds(1) > 65 * (6.6e-6 + 6 * 1e-6 - 4.4e-6)
    assert slow.seconds(4096) > 5 * fast.seconds(4096)


@pytest.mark.parametrize(
    "worse", [{"all_pairs": False}, {"nodes": 2, "nic_gb_s": 400.0}, {"hosts": 2}, {"fabric": Fabric.PCIE}]
)
def test_where_an_engines_own_kernels_do_not_work_nccl_does(worse: dict[str, Any]) -> None:
    """NVLink to some only, several nodes, even on one fabric, no NVLink: 64 rows are bound by NCCL's latency."""
    group = dataclasses.replace(own_group(H200, 4), **worse)
    assert parallel(H200, group).seconds(64) == pytest.approx(65 * all_reduce(group, 64 * 8192))
    assert parallel(H200, group).seconds(64) > 1.5 * parallel(H200, None).seconds(64)


def test_the_set_of_gpus_shows_in_tpot() -> None:
    """TP=4 inside an NVLink island against TP=4 across sockets: more than a third of a decode step."""
    island = Roofline(LLAMA, H200, 4, group=own_group(H200, 4))
    sockets = Roofline(LLAMA, H200, 4, group=SOCKETS)
    shape = decode(32, 1024)
    assert island.seconds(shape) == Roofline(LLAMA, H200, 4).seconds(shape)
    assert sockets.seconds(shape) > 1.33 * island.seconds(shape)


@given(st.sampled_from(GPUS), st.sampled_from([2, 4, 8]), st.integers(1, 8192), st.floats(0.05, 1.0))
def test_no_worse_set_is_faster(device: GpuSpec, tp: int, tokens: int, share: float) -> None:
    own = own_group(device, tp)
    usual = parallel(device, None, tp).seconds(tokens)
    for worse in (
        dataclasses.replace(own, ring_gb_s=own.ring_gb_s * share),
        dataclasses.replace(own, all_pairs=False),
        dataclasses.replace(own, nodes=2, nic_gb_s=50.0),
        dataclasses.replace(own, hosts=2),
        Group(tp, Fabric.HOST, min(own.ring_gb_s, 12.0)),
    ):
        assert parallel(device, worse, tp).seconds(tokens) >= usual


def test_a_slower_ring_of_the_same_fabric_slows_the_bytes_alone() -> None:
    l40s = gpu("L40S")
    half = parallel(l40s, Group(4, Fabric.PCIE, 12.0))
    whole = parallel(l40s, None)
    assert half.seconds(1000) - half.seconds(0) == pytest.approx(2 * (whole.seconds(1000) - whole.seconds(0)))
    assert half.seconds(0) == whole.seconds(0)


@given(st.integers(1, 300), st.integers(1, 64), st.integers(1, 4096))
def test_a_run_is_its_steps_on_any_set(steps: int, rows: int, context: int) -> None:
    roof, shape = Roofline(LLAMA, H200, 4, group=SOCKETS), decode(rows, context)
    single = [
        roof.seconds(StepShape((), rows, shape.decode_context + rows * j, context + j, rows)) for j in range(steps)
    ]
    assert roof.run_seconds(shape, steps).tolist() == single


def test_a_group_of_another_size_is_refused() -> None:
    with pytest.raises(InputError, match=r"GPUs of the group: 4 is not allowed; allowed: 2, the GPUs per replica"):
        parallel(H200, SOCKETS, tp=2)


def test_slices_do_not_work_as_one() -> None:
    part = slice_spec(H200, "3g.71gb")
    with pytest.raises(MigNoPeers, match=r"2 x H200 MIG 3g.71gb: MIG slices have no peer access"):
        Roofline(LLAMA, part, 2)
    assert Roofline(LLAMA, part, 1).seconds(decode(1, 1)) > 0
