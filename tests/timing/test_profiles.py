"""The roofline's constants against the measured kernels that they were fitted to."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import roofline_check
from rakka_sim.config.deployment import EngineConfig
from rakka_sim.config.gpus import gpu
from rakka_sim.config.models import model_spec
from rakka_sim.engines.sizing import kv_block_count
from rakka_sim.timing.roofline import Roofline


@pytest.mark.parametrize("name", roofline_check.PROFILES)
def test_half_of_all_steps_are_within_a_tenth_of_their_kernels(shared_data: Path, name: str) -> None:
    llama, device = model_spec("Llama-3.1-8B"), gpu(name)
    folder = shared_data / "kernel_profiles" / roofline_check.PROFILES[name]
    fits = kv_block_count(llama, device, EngineConfig()).tokens
    found = roofline_check.errors(Roofline(llama, device), roofline_check.steps(folder, llama, device, fits))
    assert set(found) == {"decode", "prefill", "mixed"}
    assert found["decode"]["median_abs"] < 0.03
    assert found["prefill"]["median_abs"] < 0.07
    assert found["mixed"]["median_abs"] < 0.07
    assert all(abs(row["bias"]) < 0.05 and row["p90_abs"] < 0.15 for row in found.values()), found
