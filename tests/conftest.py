"""What every test may use: Hypothesis profiles, the recorded data, a report of what was skipped. No test is here."""

from __future__ import annotations

import os
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import Phase, settings

ROOT = Path(__file__).resolve().parent.parent

# Under CI, Hypothesis would load a profile of its own; these are named, so that each run says what it explored.
settings.register_profile("dev", max_examples=50, deadline=None, print_blob=True)
settings.register_profile("ci", settings.get_profile("dev"), derandomize=True)
# For faults that are to be noticed, not explained (`tests/mutants`): to shrink an example takes longer than to find it.
settings.register_profile("mutants", settings.get_profile("ci"), phases=[Phase.explicit, Phase.generate])
settings.register_profile("nightly", settings.get_profile("dev"), max_examples=5_000, stateful_step_count=100)
PROFILE = os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev")
settings.load_profile(PROFILE)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of recorded traces, profiles and topologies, which stands beside the checkout; skips without it."""
    folder = Path(os.environ.get("RAKKA_SIM_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no recorded data: ../shared/data is absent and RAKKA_SIM_DATA names no folder")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "shared_data" in getattr(item, "fixturenames", ()):
            item.add_marker("shared_data")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        torch = pytest.importorskip("torch", reason="torch is not installed")
        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")


def pytest_report_header() -> str:
    git = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return f"commit: {git.stdout.strip() or 'none'}, hypothesis profile: {PROFILE}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many tests did not run, which, and why: a green line alone would hide them."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        by_reason[reason.removeprefix("Skipped: ")].append(report.nodeid)
    if not by_reason:
        return
    terminalreporter.section(f"not run: {sum(map(len, by_reason.values()))} tests")
    for reason, names in by_reason.items():
        terminalreporter.line(f"{len(names)} because of: {reason}")
        for name in names:
            terminalreporter.line(f"    {name}")
