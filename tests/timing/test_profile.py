"""The profile model against steps added up by hand from a small profile, and on the recorded ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rakka_sim.config.deployment import EngineConfig
from rakka_sim.config.gpus import gpu
from rakka_sim.config.models import model_spec
from rakka_sim.config.scenario import TimeModel
from rakka_sim.errors import InputError
from rakka_sim.timing.api import StepShape
from rakka_sim.timing.factory import make_time_model
from rakka_sim.timing.graphs import Padding
from rakka_sim.timing.implied import implied
from rakka_sim.timing.profile import profile_model
from rakka_sim.timing.skew import Skew
from rakka_sim.timing.tabulated import Tabulated

LLAMA, DEVICE = model_spec("Llama-3.1-8B"), gpu("RTX 4090")
LAYER = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj", "act_fn", "rotary_emb", "layernorm")
SKEW = """pc,n_label,skew_rate_label,kv_big_label,kp_label,alpha,n_samples
0,n<=2,sr<=40%,kvB<=1k,kp=0,0.5,2
0,n<=2,sr>70%,kvB<=1k,kp=0,0.25,2
0,n<=4,sr<=40%,kvB<=1k,kp=0,0.1,2
0,n<=4,sr>70%,kvB<=1k,kp=0,0.1,2
16,n<=2,sr<=40%,kvB<=1k,kp=0,0.2,1
16,n<=4,sr<=40%,kvB<=1k,kp=0,0.4,3
"""


def write_profile(folder: Path, skew: str | None = SKEW, enabled: bool = True) -> Path:
    """A made-up GPU: a layer's kernels take 1 us + 0.1 us a token each; attention as in `attention_us`."""
    folder.mkdir(exist_ok=True)
    dense = [f"{name},{t},{1 + 0.1 * t}" for name in (*LAYER, "embedding", "final_layernorm") for t in (1, 8, 64)]
    (folder / "dense.csv").write_text("layer,tokens,time_us\n" + "\n".join(dense) + "\n")
    head = [f"{name},{n},{10 + n}" for name in ("lm_head", "sampler") for n in (1, 4)]
    (folder / "per_sequence.csv").write_text("layer,sequences,time_us\n" + "\n".join(head) + "\n")
    rows = []
    for chunk in (0, 16, 32):
        for cached in (0, 16) if chunk else (0,):
            for n in (0, 1, 2, 4):
                for kv in (16, 32, 64) if n else (0,):
                    if chunk or n:
                        rows.append(f"{chunk},{cached},{n},{kv},{attention_us(chunk, cached, n, kv)}")
    header = "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us\n"
    (folder / "attention.csv").write_text(header + "\n".join(rows) + "\n")
    if skew is not None:
        (folder / "skew_fit.csv").write_text(skew)
    (folder / "meta.yaml").write_text(f"model: meta-llama/Llama-3.1-8B\nskew_fit:\n  enabled: {str(enabled).lower()}\n")
    return folder


def attention_us(chunk: int, cached: float, n: float, kv: float) -> float:
    return 5 + chunk * (1 + 0.01 * cached) + (n * kv * (0.02 if chunk else 0.01) if n else 0.0)


def layers_s(tokens: int) -> float:
    return ((8 * 32 + 2) * (1 + 0.1 * tokens)) * 1e-6  # seven kernels, the norm twice, in 32 layers; two once a step


def head_s(samples: int) -> float:
    return 2 * (10 + samples) * 1e-6


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Tabulated:
    return profile_model(write_profile(tmp_path_factory.mktemp("profile")), LLAMA, DEVICE, Padding((1, 2, 4, 8)))


def test_a_decode_step_is_its_padded_rows_its_head_and_its_attention(model: Tabulated) -> None:
    even = StepShape((), 3, 3 * 24, 24, 3)
    assert model.seconds(even) == pytest.approx(layers_s(4) + head_s(3) + 32e-6 * attention_us(0, 0, 3, 24))


def test_unequal_contexts_lie_between_the_mean_and_the_longest(model: Tabulated) -> None:
    mean, longest = 24, 48  # of a mean half the longest, a third of the rows is long: the bucket of up to 40 %
    skewed = StepShape((), 2, 2 * mean, longest, 2)
    at, end = (attention_us(0, 0, 2, kv) for kv in (mean, longest))
    assert model.seconds(skewed) == pytest.approx(layers_s(2) + head_s(2) + 32e-6 * (at + 0.5 * (end - at)))


def test_decode_rows_beside_prefill_rows_cost_what_they_do_there(model: Tabulated) -> None:
    shape = StepShape(((16, 0), (32, 16)), 2, 2 * 24, 24, 4)
    start = attention_us(16, 0, 0, 0)  # the shortest measured call: what two rows of one call pay once
    prefill = start + attention_us(32, 16, 0, 0) - start
    assert model.seconds(shape) == pytest.approx(layers_s(50) + head_s(4) + 32e-6 * (prefill + 2 * 24 * 0.02))


def test_where_no_fit_is_enabled_a_batch_counts_as_its_mean(tmp_path: Path) -> None:
    plain = profile_model(write_profile(tmp_path / "p", enabled=False), LLAMA, DEVICE, Padding())
    shape = StepShape((), 2, 48, 40, 2)
    assert plain.seconds(shape) == pytest.approx(layers_s(2) + head_s(2) + 32e-6 * attention_us(0, 0, 2, 24))


shapes = st.builds(
    lambda rows, mean, spread, steps: (StepShape((), rows, rows * mean, mean + spread, rows), steps),
    st.integers(1, 9),
    st.integers(1, 2000),
    st.integers(0, 3000),
    st.integers(1, 40),
)


@given(shapes)
def test_a_run_has_the_very_floats_of_its_steps(model: Tabulated, drawn: tuple[StepShape, int]) -> None:
    shape, steps = drawn
    rows = shape.decode_seqs
    single = [
        model.seconds(StepShape((), rows, shape.decode_context + j * rows, shape.decode_max + j, rows))
        for j in range(steps)
    ]
    assert model.run_seconds(shape, steps).tolist() == single


def test_the_skew_table_knows_its_buckets(tmp_path: Path) -> None:
    (tmp_path / "skew_fit.csv").write_text(SKEW)
    skew = Skew.read(tmp_path / "skew_fit.csv")
    even, most_long = np.array([30.0]), np.array([95.0])
    assert skew.decode(2, even, np.array([100.0])) == [0.5]
    assert skew.decode(2, most_long, np.array([100.0])) == [0.25]
    assert skew.decode(1, even, even) == 0.0
    assert skew.mixed(16, 2) == pytest.approx(0.2)
    assert skew.mixed(500, 4) == pytest.approx(0.4)
    assert skew.mixed(16, 1) == 0.0


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda f: (f / "dense.csv").unlink(), "dense.csv"),
        (lambda f: (f / "dense.csv").write_text("layer,tokens\nqkv_proj,1\n"), "time_us"),
        (lambda f: (f / "dense.csv").write_text("layer,tokens,time_us\nqkv_proj,1,fast\n"), "fast"),
        (lambda f: (f / "dense.csv").write_text("layer,tokens,time_us\nqkv_proj,1,1\n"), "o_proj"),
        (lambda f: (f / "meta.yaml").write_text("model: other\n"), "Llama-3.1-8B"),
        (lambda f: (f / "skew_fit.csv").write_text(SKEW.replace("n<=2", "n<=two", 1)), "n<=two"),
    ],
)
def test_a_damaged_profile_is_named(tmp_path: Path, damage: object, said: str) -> None:
    folder = write_profile(tmp_path / "p")
    damage(folder)  # type: ignore[operator]
    with pytest.raises(InputError, match=said):
        profile_model(folder, LLAMA, DEVICE, Padding())


def test_a_profile_is_of_one_gpu_in_bfloat16() -> None:
    asked = TimeModel(kind="profile", path="nowhere")
    with pytest.raises(InputError, match="2 GPUs"):
        make_time_model(asked, LLAMA, DEVICE, EngineConfig(), tp=2)
    with pytest.raises(InputError, match="nowhere"):
        make_time_model(asked, LLAMA, DEVICE, EngineConfig())


@pytest.mark.parametrize(
    ("name", "folder"),
    [("RTX 4090", "RTX4090-Llama-3.1-8B-bf16-tp1"), ("RTX PRO 6000", "RTXPRO6000-Llama-3.1-8B-bf16-tp1")],
)
def test_recorded_profiles_give_possible_steps(shared_data: Path, name: str, folder: str) -> None:
    device = gpu(name)
    model = profile_model(shared_data / "kernel_profiles" / folder, LLAMA, device, Padding())
    for shape in (
        StepShape((), 1, 1000, 1000, 1),
        StepShape((), 64, 64 * 1500, 4000, 64),
        StepShape(((2048, 0),), 0, 0, 0, 1),
        StepShape(((900, 0), (500, 600)), 40, 40 * 1200, 3000, 42),
    ):
        rates = implied(model, device, shape)
        assert not rates.impossible
        assert max(rates.bandwidth_share, rates.mfu) > 0.25
