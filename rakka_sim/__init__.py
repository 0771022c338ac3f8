"""A testbed for LLM-inference serving: one actor topology, on a virtual clock or the wall clock.

The public names, loaded when first used; nothing else may be here.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rakka_sim.config.loading import load_scenario
    from rakka_sim.config.scenario import Scenario
    from rakka_sim.experiment import assert_deterministic, check, place, run
    from rakka_sim.report.ensemble import Ensemble
    from rakka_sim.report.report import Report, compare
    from rakka_sim.runtime.live import LiveRuntime
    from rakka_sim.runtime.sim import SimRuntime

_HOMES = {
    "Ensemble": "rakka_sim.report.ensemble",
    "LiveRuntime": "rakka_sim.runtime.live",
    "Report": "rakka_sim.report.report",
    "Scenario": "rakka_sim.config.scenario",
    "SimRuntime": "rakka_sim.runtime.sim",
    "assert_deterministic": "rakka_sim.experiment",
    "check": "rakka_sim.experiment",
    "compare": "rakka_sim.report.report",
    "load_scenario": "rakka_sim.config.loading",
    "place": "rakka_sim.experiment",
    "run": "rakka_sim.experiment",
}

__all__ = [
    "Ensemble",
    "LiveRuntime",
    "Report",
    "Scenario",
    "SimRuntime",
    "assert_deterministic",
    "check",
    "compare",
    "load_scenario",
    "place",
    "run",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'rakka_sim' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
