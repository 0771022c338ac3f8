"""Whether the hot modules run as C extensions (`setup.py`); how they are made may not be here."""

from __future__ import annotations

from importlib.util import find_spec


def is_compiled() -> bool:
    """Of the package as it is imported here; one hot module stands for all, since they are built together."""
    core = find_spec("rakka_sim.core.kv")
    return core is not None and not str(core.origin).endswith(".py")
