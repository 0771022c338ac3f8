"""Service level objectives: limits in ms and the presets people compare by; no measuring (that is `report/`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, PositiveFloat, model_validator

from rakka_sim.config.base import Table, parse
from rakka_sim.errors import UnknownName


class Slo(Table):
    """Limits in ms that a request must keep, every one given, to count as good; a value equal to its limit keeps it."""

    ttft_ms: PositiveFloat | None = Field(default=None, description="time to the first token")
    tpot_ms: PositiveFloat | None = Field(default=None, description="mean time per token after the first")
    itl_ms: PositiveFloat | None = Field(default=None, description="the longest gap between two tokens")
    e2e_ms: PositiveFloat | None = Field(default=None, description="time to the last token")

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if not self.limits:
            raise ValueError(f"at least one of: {', '.join(Slo.model_fields)}")
        return self

    @property
    def limits(self) -> dict[str, float]:
        """The limits given, by name."""
        return {name: limit for name, limit in self if limit is not None}


# MLPerf Inference, rules of 2026-07-23: p99 limits. GuideLLM: the examples of its SLO guide; what it calls ITL, the
# mean of a request's gaps, is TPOT here.
PRESETS: Mapping[str, Slo] = {
    "mlperf-llama3.1-8b-conversational": Slo(ttft_ms=2000, tpot_ms=100),
    "mlperf-llama3.1-8b-interactive": Slo(ttft_ms=500, tpot_ms=30),
    "mlperf-llama2-70b-conversational": Slo(ttft_ms=2000, tpot_ms=200),
    "mlperf-llama2-70b-interactive": Slo(ttft_ms=450, tpot_ms=40),
    "mlperf-llama3.1-405b-conversational": Slo(ttft_ms=6000, tpot_ms=175),
    "mlperf-llama3.1-405b-interactive": Slo(ttft_ms=4500, tpot_ms=80),
    "mlperf-mixtral-8x7b-conversational": Slo(ttft_ms=2000, tpot_ms=200),
    "mlperf-deepseek-r1-conversational": Slo(ttft_ms=2000, tpot_ms=80),
    "mlperf-deepseek-r1-interactive": Slo(ttft_ms=1500, tpot_ms=15),
    "mlperf-gpt-oss-120b-conversational": Slo(ttft_ms=3000, tpot_ms=80),
    "mlperf-gpt-oss-120b-interactive": Slo(ttft_ms=2000, tpot_ms=20),
    "guidellm-chat": Slo(ttft_ms=200, tpot_ms=50),
    "guidellm-rag": Slo(ttft_ms=300, tpot_ms=100, e2e_ms=3000),
}


def resolve_slo(given: str | Mapping[str, Any] | Slo) -> Slo:
    """A preset by its name, or a table as it is; raises UnknownName, or ScenarioError for a faulty table."""
    if isinstance(given, Slo):
        return given
    if isinstance(given, str):
        if given not in PRESETS:
            raise UnknownName("slo", given, f"a table of limits, or one of: {', '.join(PRESETS)}")
        return PRESETS[given]
    return parse(Slo, given, "slo")
