"""Builds the package; with RAKKA_SIM_COMPILE=1 the modules where a simulation spends its time become C extensions.

    RAKKA_SIM_COMPILE=1 pip install .

mypyc makes them of the very same source, so nothing is written twice, and without the variable nothing is compiled. It
needs a C compiler and Python's headers. All else about the package stands in pyproject.toml.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from setuptools import setup

# Left out is what the compiler does not take: enumerations, values (decorated dataclasses), protocols and their heirs,
# and the threads of the wall clock, which wait anyway.
HOT = {
    "core": """ahead batching cached_span content decoding free_queue kv lifecycle pipelined places ranking runs sequence step
        waiting""",
    "runtime": "agenda asks base cell dues flows lifecycle live refs sim watches",
    "actors": "ahead client coordinator engine gateway passes request step_log worker",
    "records": "log requests rows steps tokens",
    "timing": "attention linear roofline",
}
# What the compiler must have beside it: itself, and the packages whose types it has to know.
NEEDED = ["mypy[mypyc]>=2.0", "numpy>=2.0", "simpy>=4.1.1"]


def compiled() -> dict[str, Any]:
    """The part of `setup` that compiles; pip calls twice, first to hear what it has to fetch."""
    try:
        from mypyc.build import mypycify
    except ImportError:
        return {"setup_requires": NEEDED}
    files = [str(Path("rakka_sim", room, f"{name}.py")) for room, names in HOT.items() for name in names.split()]
    options = ["--config-file=mypyc.ini", *files]
    return {"ext_modules": mypycify(options, only_compile_paths=files, group_name="rakka_sim", opt_level="2")}


setup(**(compiled() if os.environ.get("RAKKA_SIM_COMPILE", "0") != "0" else {}))
