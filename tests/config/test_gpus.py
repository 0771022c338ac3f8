"""The GPU catalogue: names, rates, and what an unknown name is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rakka_sim.config.gpus import GPUS, GpuSpec, gpu
from rakka_sim.errors import InputError, UnknownName


@pytest.mark.parametrize("spec", GPUS, ids=lambda spec: spec.name)
def test_a_row_is_found_by_its_name_however_it_is_written(spec: GpuSpec) -> None:
    for name in (
        spec.name,
        spec.name.lower(),
        spec.name.replace(" ", ""),
        spec.name.replace(" ", "-"),
        spec.name.upper(),
    ):
        assert gpu(name) is spec
    assert gpu(f"NVIDIA {spec.name}") is spec


@pytest.mark.parametrize(
    ("reported", "name"),
    [
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTX PRO 6000"),
        ("NVIDIA A100-SXM4-80GB", "A100-80"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H200", "H200"),
    ],
)
def test_the_names_that_drivers_report_are_known(reported: str, name: str) -> None:
    assert gpu(reported).name == name


@pytest.mark.parametrize(("typo", "meant"), [("H20O", "H200"), ("RTX4900", "RTX 4090"), ("A100-8O", "A100-80")])
def test_a_near_miss_is_answered_with_the_name_meant(typo: str, meant: str) -> None:
    with pytest.raises(UnknownName) as caught:
        gpu(typo)
    assert caught.value.value == typo
    assert meant in caught.value.allowed.partition("did you mean ")[2]
    assert all(spec.name in caught.value.allowed for spec in GPUS)


def test_a_bare_a100_is_ambiguous_and_says_so() -> None:
    with pytest.raises(UnknownName, match=r"did you mean A100-\d0 or A100-\d0"):
        gpu("A100")


def test_rates_depend_on_the_dtype() -> None:
    h200 = gpu("H200")
    assert h200.peak_flops("bfloat16") == h200.peak_flops("float16") == 989e12
    assert h200.peak_flops("fp8") == 1979e12
    assert h200.peak_flops("float32") == 67e12


@pytest.mark.parametrize("dtype", ["fp8", "int4"])
def test_a_dtype_that_the_tensor_cores_lack_is_refused(dtype: str) -> None:
    with pytest.raises(
        InputError, match=f"dtype on A40: '{dtype}' is not allowed; allowed: bfloat16, float16, float32"
    ):
        gpu("A40").peak_flops(dtype)


def test_the_rtx_4090_has_the_memory_that_vllm_saw(shared_data: Path) -> None:
    meta = json.loads((shared_data / "vllm_runs" / "RTX4090-Llama-3.1-8B" / "meta.json").read_text("utf-8"))
    assert gpu(meta["hardware"]["device_name"]).memory_bytes == meta["hardware"]["device_total_memory_bytes"]
