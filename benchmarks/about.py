"""What every benchmark says about itself beside its figures: machine, versions, commit; nothing is measured here."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rakka_sim.compiled import is_compiled

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("rakka_sim", "simpy", "numpy", "pandas", "pydantic")


def recorded_data() -> Path:
    """The folder of recorded traces and runs: beside the checkout, or where RAKKA_SIM_DATA says."""
    return Path(os.environ.get("RAKKA_SIM_DATA") or ROOT.parent / "shared" / "data")


def machine() -> dict[str, Any]:
    """The processor by its own name, cores, memory and system."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
    }


def versions() -> dict[str, str]:
    """Python's and those of the packages that count; a checkout that is only on the path has none."""
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def commit() -> str | None:
    """The checkout's commit, with a mark if it has changed since; None without one."""
    try:
        git = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    except OSError:
        return None
    return git.stdout.strip() or None


def write(file: Path, benchmark: str, cases: dict[str, Any] | None, seed: int, **more: Any) -> None:
    """The figures as JSON, with all that is needed to ask for them again; `more` stands beside the cases."""
    about = {
        "benchmark": benchmark,
        "machine": machine(),
        "versions": versions(),
        "compiled": is_compiled(),
        "commit": commit(),
        "seed": seed,
    }
    figures = more if cases is None else {"cases": cases, **more}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({**about, **figures}, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    print(json.dumps({"machine": machine(), "versions": versions(), "commit": commit()}, indent=2))
