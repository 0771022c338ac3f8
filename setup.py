"""Builds the package; with RAKKA_SIM_COMPILE=1 the modules where a simulation spends its time become C extensions.

    RAKKA_SIM_COMPILE=1 pip install .

mypyc makes them of the very same source, so nothing is written twice; without the variable nothing is compiled. It
needs a C compiler and Python's headers. Everything else about the package stands in pyproject.toml.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from setuptools import setup

# What the compiler does not take is left out: values (dataclasses under a decorator of our own), enumerations,
# protocols and their heirs; and what users make classes of their own of, which may not inherit from compiled ones. A
# compiled class with arguments is pickled only by a `__reduce__` of its own.
HOT = {
    "core": """ahead batching cached_span content decoding foresight free_queue kv lanes lifecycle pipelined places
        ranking runs sequence step waiting""",
    "runtime": "agenda asks base cell dues flows lifecycle live refs sim watches",
    "actors": "ahead client coordinator engine gateway passes request step_log worker",
    "engines": "modelled",
    "records": "log names requests rows steps tokens",
    "timing": "attention linear roofline",
    "workload": "feedback loop open_loop requests",
}
# Itself, and the packages whose types it has to know.
NEEDED = ["mypy[mypyc]>=2.0", "numpy>=2.0", "simpy>=4.1.1"]
# Other packages' types make no difference to what is compiled, and reading them would take most of the time.
LOOKING = """\
[mypy]
follow_imports = silent
ignore_missing_imports = true
[mypy-pydantic.*,scipy.*,pandas.*,torch.*,networkx.*,matplotlib.*,tqdm.*,typer.*]
follow_imports = skip
"""


def extensions(command: list[str]) -> dict[str, Any]:
    """The part of `setup` that compiles; pip calls it several times, first to hear what to fetch, last to build."""
    if "egg_info" in command:
        return {"setup_requires": NEEDED}
    if "editable_wheel" in command:
        raise SystemExit("RAKKA_SIM_COMPILE=1: not for --editable; extensions beside the sources hide what you change")
    if not {"bdist_wheel", "build", "build_ext"} & set(command):
        return {}
    try:
        from mypyc.build import mypycify
    except ImportError as error:
        raise SystemExit(f"RAKKA_SIM_COMPILE=1 needs {', '.join(NEEDED)}, and there is no {error.name}") from error
    config = Path("build", "mypyc.ini")
    config.parent.mkdir(exist_ok=True)
    config.write_text(LOOKING, encoding="utf-8")
    files = [str(Path("rakka_sim", room, f"{name}.py")) for room, names in HOT.items() for name in names.split()]
    options = [f"--config-file={config}", *files]
    return {"ext_modules": mypycify(options, only_compile_paths=files, group_name="rakka_sim", opt_level="2")}


if __name__ == "__main__":
    setup(**({} if os.environ.get("RAKKA_SIM_COMPILE", "0") in ("", "0") else extensions(sys.argv[1:])))
