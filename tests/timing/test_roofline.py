"""The roofline: a run is its steps to the last bit, physics is never beaten, and the hand-computed cases come out."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rakka_sim.config.gpus import GPUS, GpuSpec, gpu
from rakka_sim.config.models import PRESETS, ModelSpec, from_hf, model_spec
from rakka_sim.errors import InputError, InvariantBroken
from rakka_sim.timing.api import StepShape
from rakka_sim.timing.constants import CONSTANTS, AllReduce, Constants
from rakka_sim.timing.implied import Implied, implied
from rakka_sim.timing.roofline import HOST_OVERHEAD_S, Roofline

LLAMA = model_spec("Llama-3.1-8B")
WINDOWED = from_hf(PRESETS["Mistral-7B"] | {"sliding_window": 1024}, "Mistral-7B-window")
MODELS = [*(model_spec(name) for name in PRESETS), WINDOWED]
# No latency, no loss, and a GEMM takes the longer of its two times: what the physics alone allows.
IDEAL = Constants(
    bandwidth=1.0,
    gemm=1.0,
    gemm_fp8=1.0,
    gemm_experts=1.0,
    attention=1.0,
    kernel_s=0.0,
    attention_s=0.0,
    tile=1,
    tile_s=0.0,
    packs_groups=True,
    reduce=AllReduce(0.0, 0.0, 1.0),
    source="none: this is the bound",
    knee=1000.0,
    skew=0.0,
    sampler_s=0.0,
    logit_bytes=0,
)

roofs = st.builds(
    lambda model, device, tp: Roofline(model, device, tp),
    st.sampled_from(MODELS),
    st.sampled_from(GPUS),
    st.sampled_from([1, 2, 4]),
)


@st.composite
def decodes(draw: st.DrawFn) -> StepShape:
    contexts = draw(st.lists(st.integers(1, 8192), min_size=1, max_size=64))
    return StepShape((), len(contexts), sum(contexts), max(contexts), len(contexts))


chunks = st.tuples(st.integers(1, 2048), st.integers(0, 8192))


@st.composite
def mixed(draw: st.DrawFn) -> StepShape:
    prefill = tuple(draw(st.lists(chunks, min_size=1, max_size=4)))
    decode = draw(decodes())
    return dataclasses.replace(decode, prefill=prefill, samples=decode.samples + draw(st.integers(0, len(prefill))))


def decode(rows: int, context: int) -> StepShape:
    return StepShape((), rows, rows * context, context, rows)


def prefill(chunk: int, cached: int = 0) -> StepShape:
    return StepShape(((chunk, cached),), samples=1)


# --- a run is its steps -----------------------------------------------------------------------------------------


def one_by_one(roof: Roofline, shape: StepShape, steps: int) -> list[float]:
    rows = shape.decode_seqs
    return [
        roof.seconds(StepShape((), rows, shape.decode_context + rows * j, shape.decode_max + j, shape.samples))
        for j in range(steps)
    ]


@given(roofs, decodes(), st.integers(1, 300))
def test_a_run_is_its_steps_to_the_last_bit(roof: Roofline, shape: StepShape, steps: int) -> None:
    assert roof.run_seconds(shape, steps).tolist() == one_by_one(roof, shape, steps)


@given(st.lists(st.integers(1, 1200), min_size=1, max_size=8), st.integers(1, 300))
def test_a_run_that_grows_into_its_window_is_its_steps(contexts: list[int], steps: int) -> None:
    roof = Roofline(WINDOWED, gpu("H200"))
    shape = StepShape((), len(contexts), sum(contexts), max(contexts), len(contexts))
    assert roof.run_seconds(shape, steps).tolist() == one_by_one(roof, shape, steps)


@given(roofs, mixed())
def test_a_mixed_step_is_a_run_of_one(roof: Roofline, shape: StepShape) -> None:
    assert roof.run_seconds(shape, 1).tolist() == [roof.seconds(shape)]


def test_a_run_has_no_prefill_rows() -> None:
    with pytest.raises(InvariantBroken, match="prefill"):
        Roofline(LLAMA, gpu("H200")).run_seconds(prefill(16), 2)


# --- physics ----------------------------------------------------------------------------------------------------


@given(roofs, st.one_of(decodes(), mixed()))
def test_no_step_implies_more_than_the_datasheet(roof: Roofline, shape: StepShape) -> None:
    rates = implied(roof, roof.gpu, shape)
    assert not rates.impossible, str(rates)


@given(st.sampled_from(MODELS), st.sampled_from(GPUS), st.one_of(decodes(), mixed()))
def test_no_step_beats_the_bound(model: ModelSpec, device: GpuSpec, shape: StepShape) -> None:
    assert Roofline(model, device).seconds(shape) > Roofline(model, device, constants=IDEAL).seconds(shape)


@given(roofs, mixed(), st.integers(1, 500))
def test_more_work_never_takes_less(roof: Roofline, shape: StepShape, more: int) -> None:
    (chunk, cached), *others = shape.prefill
    grown = [
        dataclasses.replace(shape, prefill=((chunk + more, cached), *others)),
        dataclasses.replace(shape, samples=shape.samples + more),
    ]
    if roof.model.sliding_window is None:
        grown += [
            dataclasses.replace(shape, prefill=((chunk, cached + more), *others)),
            dataclasses.replace(shape, decode_context=shape.decode_context + more, decode_max=shape.decode_max + more),
        ]
    for larger in grown:
        assert roof.seconds(larger) >= roof.seconds(shape)
        assert roof.flops(larger) > roof.flops(shape)
        assert roof.bytes_moved(larger) >= roof.bytes_moved(shape)


def test_nothing_takes_no_time() -> None:
    roof = Roofline(LLAMA, gpu("H200"))
    assert roof.seconds(StepShape()) == roof.bytes_moved(StepShape()) == roof.flops(StepShape()) == 0.0


def test_the_operations_of_a_token_by_hand() -> None:
    """Everything but the embedding's rows is multiplied once (norms are not matrices), and the context twice."""
    matrices = 8_030_261_248 - 128_256 * 4096 - (32 * 2 + 1) * 4096
    roof = Roofline(LLAMA, gpu("H200"))
    assert roof.flops(decode(1, 1000)) == 2 * matrices + 4 * 32 * 4096 * 1000
    assert 2 * matrices == 15_009_316_864
    qwen = model_spec("Qwen3-30B-A3B")  # of its experts a token meets eight
    attention = 4 * 48 * 32 * 128 * 1000
    active = qwen.active_parameters - qwen.small_parameters - qwen.embedding_parameters
    assert Roofline(qwen, gpu("H200")).flops(decode(1, 1000)) == 2 * active + attention


def test_the_bound_of_one_sequence_is_its_bytes() -> None:
    """15.01 GB of weights and 131,072 bytes of KV per token through 4.8 TB/s."""
    read = 2 * (LLAMA.linear_parameters + LLAMA.head_parameters)
    assert read == 15_009_316_864
    bound = (read + 1024 * 131_072 + 2 * (3 * 14336 + 4 * 4096) * 32) / 4.8e12
    roof = Roofline(LLAMA, gpu("H200"), constants=IDEAL)
    assert roof.seconds(decode(1, 1024)) == pytest.approx(bound, rel=1e-9)
    assert roof.seconds(decode(1, 1024)) == pytest.approx(3.16e-3, rel=0.01)


def test_the_bound_of_a_long_prefill_is_its_operations() -> None:
    roof = Roofline(LLAMA, gpu("H200"), constants=IDEAL)
    layers = 2 * LLAMA.linear_parameters * 4096 / 989e12
    attention = 4 * 4096 * 32 * (4096 * 4096 / 2 + 4096 / 2 / 32 * 132) / 989e12  # and half a round of blocks more
    activations = 4096 * 2 * (3 * 14336 + 4 * 4096) * 32 / 4.8e12
    head = 2 * LLAMA.head_parameters / 4.8e12
    expected = layers + attention + activations + head
    assert roof.seconds(prefill(4096)) == pytest.approx(expected, rel=1e-3)


def test_uneven_contexts_cost_more_than_even_ones() -> None:
    roof = Roofline(LLAMA, gpu("H200"))
    even, uneven = StepShape((), 8, 8000, 1000, 8), StepShape((), 8, 8000, 7993, 8)
    assert roof.seconds(even) < roof.seconds(uneven) < roof.seconds(StepShape((), 8, 8 * 7993, 7993, 8))


def test_a_chunk_beside_decodes_costs_less_than_two_steps() -> None:
    roof = Roofline(LLAMA, gpu("H200"))
    both = StepShape(((512, 0),), 32, 32 * 1024, 1024, 33)
    assert roof.seconds(both) < roof.seconds(prefill(512)) + roof.seconds(decode(32, 1024))


# --- windows, experts, dtypes -----------------------------------------------------------------------------------


def test_beyond_its_window_a_context_costs_nothing() -> None:
    roof = Roofline(WINDOWED, gpu("H200"))
    assert roof.seconds(decode(4, 1024)) == roof.seconds(decode(4, 9999)) > roof.seconds(decode(4, 1023))
    assert roof.seconds(prefill(64, 5000)) == roof.seconds(prefill(64, 9000)) > roof.seconds(prefill(64, 100))
    assert roof.flops(decode(4, 1024)) == roof.flops(decode(4, 9999)) > roof.flops(decode(4, 1023))


def test_a_batch_reads_the_experts_that_it_touches() -> None:
    qwen = model_spec("Qwen3-30B-A3B")
    roof = Roofline(qwen, gpu("H200"))
    expert = 2 * qwen.expert_parameters * 48
    others = 2 * (qwen.linear_parameters - 48 * 128 * qwen.expert_parameters)

    def weights(rows: int) -> float:
        activations = 2 * rows * 48 * (3 * 8 * 768 + 4 * 2048)
        kv = 2 * rows * qwen.kv_bytes_per_token()  # one token read, one written
        return roof.bytes_moved(StepShape((), rows, rows, 1, 0)) - activations - kv

    assert weights(1) == pytest.approx(others + 8 * expert)
    assert weights(2) == pytest.approx(others + 128 * (1 - (1 - 8 / 128) ** 2) * expert)
    assert weights(1000) == pytest.approx(others + 128 * expert)


def test_fp8_halves_what_the_layers_read() -> None:
    wide, narrow = Roofline(LLAMA, gpu("H200")), Roofline(LLAMA, gpu("H200"), dtype="fp8")
    shape = StepShape((), 1, 1, 1, 0)
    assert wide.bytes_moved(shape) - narrow.bytes_moved(shape) == LLAMA.linear_parameters
    assert narrow.seconds(shape) < wide.seconds(shape)


def test_the_kv_cache_has_a_dtype_of_its_own() -> None:
    shape = decode(64, 4096)
    times = [Roofline(LLAMA, gpu("H200"), kv_dtype=kv).seconds(shape) for kv in ("fp8", "auto", "bfloat16", "float32")]
    assert times[0] < times[1] == times[2] < times[3]


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"tp": 3}, "tp of Llama-3.1-8B: 3"),
        ({"tp": 0}, "tp of Llama-3.1-8B: 0"),
        ({"dtype": "fp8"}, "dtype on A100-80: 'fp8'"),
        ({"dtype": "int3"}, "'int3' is not allowed"),
        ({"kv_dtype": "int3"}, "kv dtype: 'int3' is not allowed"),
    ],
)
def test_what_cannot_be_is_refused(keywords: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Roofline(LLAMA, gpu("A100-80"), **keywords)  # type: ignore[arg-type]


def test_a_gpu_without_constants_needs_some() -> None:
    unknown = dataclasses.replace(gpu("H200"), name="H300")
    with pytest.raises(InputError, match="constants for gpu: 'H300'"):
        Roofline(LLAMA, unknown)
    assert Roofline(LLAMA, unknown, constants=CONSTANTS["H200"]).seconds(decode(1, 1)) > 0


# --- tensor parallelism -----------------------------------------------------------------------------------------


def test_eight_gpus_share_the_bytes_and_pay_for_talking() -> None:
    one, eight = Roofline(LLAMA, gpu("H200")), Roofline(LLAMA, gpu("H200"), tp=8)
    shape = decode(64, 1024)
    assert one.bytes_moved(shape) / 8 < eight.bytes_moved(shape) < one.bytes_moved(shape) / 5
    assert eight.flops(shape) == pytest.approx(one.flops(shape) / 8)
    assert one.seconds(shape) / 8 < eight.seconds(shape) < one.seconds(shape)


def test_the_all_reduce_is_a_ring() -> None:
    """65 all-reduces of 2,048 x 4,096 x 2 bytes over four, then one row of logits gathered."""
    talking = dataclasses.replace(IDEAL, reduce=AllReduce(5e-6, 1e-6, 0.5))
    silent = dataclasses.replace(IDEAL, reduce=AllReduce(0.0, 0.0, math.inf))
    shape = prefill(2048)
    h200 = gpu("H200")
    extra = Roofline(LLAMA, h200, 4, constants=talking).seconds(shape) - Roofline(
        LLAMA, h200, 4, constants=silent
    ).seconds(shape)
    latency = 5e-6 + 2 * 3 * 1e-6
    reduce = latency + 2 * 3 / 4 * (2048 * 4096 * 2) / (450e9 / 2)
    gather = latency + 3 / 4 * (128256 * 2) / (450e9 / 2)
    assert extra == pytest.approx(65 * reduce + gather, rel=1e-9)


@pytest.mark.parametrize("device", GPUS, ids=lambda spec: spec.name)
def test_one_gpu_talks_to_nobody(device: GpuSpec) -> None:
    mute = dataclasses.replace(CONSTANTS[device.name], reduce=AllReduce(math.inf, math.inf, 1.0))
    assert Roofline(LLAMA, device).seconds(decode(1, 1)) == Roofline(LLAMA, device, constants=mute).seconds(
        decode(1, 1)
    )


# --- the table --------------------------------------------------------------------------------------------------


def test_the_h200_is_where_measured_kernels_put_it() -> None:
    roof = Roofline(LLAMA, gpu("H200"))
    assert 3.5e-3 < roof.seconds(decode(1, 1)) < 5.3e-3  # the kernels of vLLM 0.24 add up to 4.97 ms
    assert 38e-3 < roof.seconds(prefill(2048)) < 55e-3


def test_every_gpu_has_a_row_and_every_row_a_source() -> None:
    assert list(CONSTANTS) == [spec.name for spec in GPUS]
    assert all(row.source for row in CONSTANTS.values())
    assert all(spec.source for spec in GPUS)


@pytest.mark.parametrize("device", GPUS, ids=lambda spec: spec.name)
def test_a_row_has_fp8_where_the_gpu_has(device: GpuSpec) -> None:
    assert (CONSTANTS[device.name].gemm_fp8 is None) == (device.fp8_flops is None)


def test_the_host_takes_its_time() -> None:
    assert 0 < HOST_OVERHEAD_S < 2e-3


def test_an_impossible_model_shows() -> None:
    h200 = gpu("H200")
    too_fast = Roofline(LLAMA, h200, constants=dataclasses.replace(IDEAL, bandwidth=2.0))
    rates = implied(too_fast, h200, decode(1, 1))
    assert rates.impossible
    assert str(rates).endswith("IMPOSSIBLE")
    assert rates.bandwidth_share == pytest.approx(2.0, rel=0.01)
    assert Implied(1e12, 0.2, 1e12, 1.01).impossible
    assert str(Implied(960e9, 0.2, 98.9e12, 0.1)) == "960 GB/s (20% of the datasheet), 98.9 TFLOP/s (MFU 10%)"


def test_whole_experts_wait_for_the_busiest_gpu() -> None:
    qwen, h200 = model_spec("Qwen3-30B-A3B"), gpu("H200")
    split, whole = (Roofline(qwen, h200, tp=4, expert_parallel=ep) for ep in (False, True))
    assert whole.seconds(decode(1, 100)) > split.seconds(decode(1, 100))
    many = prefill(8192)  # 65,536 routed tokens on four GPUs: all have nearly the same
    assert whole.seconds(many) == pytest.approx(split.seconds(many), rel=0.02)
    alone = Roofline(qwen, h200, expert_parallel=True)
    assert alone.seconds(many) == Roofline(qwen, h200).seconds(many)
