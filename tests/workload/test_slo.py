"""SLO presets and tables."""

from __future__ import annotations

import pytest

from rakka_sim.config.slo import PRESETS, Slo, resolve_slo
from rakka_sim.errors import ScenarioError, UnknownName


def test_presets_are_those_of_the_rules() -> None:
    limits = {name: resolve_slo(name).limits for name in PRESETS}
    assert limits["mlperf-llama3.1-8b-conversational"] == {"ttft_ms": 2000, "tpot_ms": 100}
    assert limits["mlperf-llama3.1-8b-interactive"] == {"ttft_ms": 500, "tpot_ms": 30}
    assert limits["mlperf-llama2-70b-interactive"] == {"ttft_ms": 450, "tpot_ms": 40}
    assert limits["guidellm-chat"] == {"ttft_ms": 200, "tpot_ms": 50}
    assert all("interactive" in name or "mlperf" not in name or name.endswith("conversational") for name in PRESETS)


def test_tables_and_slos_pass_through() -> None:
    assert resolve_slo({"e2e_ms": 5}) == Slo(e2e_ms=5)
    assert resolve_slo(Slo(itl_ms=5)) == Slo(itl_ms=5)


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(UnknownName) as caught:
        resolve_slo("mlperf")
    assert caught.value.value == "mlperf"
    assert all(name in caught.value.allowed for name in PRESETS)


@pytest.mark.parametrize(
    ("table", "where"),
    [
        ({}, "slo"),
        ({"ttft_ms": 0}, "slo: ttft_ms"),
        ({"ttft_ms": float("inf")}, "slo: ttft_ms"),
        ({"ttft": 1}, "slo: ttft"),
    ],
)
def test_faulty_tables_are_named(table: dict[str, float], where: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        resolve_slo(table)
    assert caught.value.where == where
