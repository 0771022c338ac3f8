"""Each house rule bites: fed what it forbids it finds it, fed what is right it keeps quiet."""

from __future__ import annotations

import house_rules
import pytest
from house_rules import RULES, Module, apply

LONG_FUNCTION = "def long():\n    '''Doc.'''\n" + "    x = 1\n" * 50
LONG_DOCSTRING = "def short():\n    '''Doc.\n" + "\n" * 30 + "    '''\n" + "    x = 1\n" * 30
SET_MEMBER = """
class C:
    def __init__(self):
        self.s: set[int] = set()

    def f(self):
        return self.s.pop()
"""

# rule, module, what stands in it, what the finding must say
BAD = [
    ("no_upward_imports", "core.kv", "from rakka_sim.actors.engine import EngineCore", "actors.engine"),
    ("no_upward_imports", "core.kv", "def f():\n    import rakka_sim.runtime.sim", "runtime.sim"),
    ("no_upward_imports", "core.kv", "from ..runtime import sim", "above it"),
    ("no_upward_imports", "runtime.api", "from rakka_sim.runtime.base import Base", "above it"),
    ("no_upward_imports", "cli", "import rakka_sim", "the package itself"),
    ("no_upward_imports", "cli", "from rakka_sim import run", "the package itself"),
    ("no_upward_imports", "report.plots", "from rakka_sim.timing import api", "stands on less"),
    ("no_upward_imports", "attic", "", "FLOORS"),
    ("known_world", "core.kv", "import random", "random"),
    ("known_world", "runtime.sim", "from random import choice", "nobody"),
    ("known_world", "actors.engine", "import time", "time"),
    ("known_world", "workload.arrivals", "def f():\n    from uuid import uuid4", "uuid"),
    ("known_world", "actors.engine", "import asyncio.events", "asyncio"),
    ("known_world", "runtime.base", "import simpy", "runtime.sim"),
    ("known_world", "engines.modelled", "import torch", "engines.torch"),
    ("known_world", "config.loading", "from concurrent.futures import ThreadPoolExecutor", "concurrent"),
    ("no_hidden_clock_or_chance", "core.kv", "import numpy as np\nx = np.random.rand()", "np.random.rand"),
    ("no_hidden_clock_or_chance", "runtime.sim", "import numpy as np\nnp.random.seed(1)", "np.random.seed"),
    ("no_hidden_clock_or_chance", "core.kv", "import numpy as np\nr = np.random.default_rng(1)", "default_rng"),
    ("no_hidden_clock_or_chance", "core.kv", "from numpy.random import default_rng", "default_rng"),
    ("no_hidden_clock_or_chance", "report.exports", "import datetime\nt = datetime.datetime.now()", "clock"),
    ("no_hidden_clock_or_chance", "core.kv", "import os\nx = os.urandom(8)", "urandom"),
    ("heavy_imports_are_late", "report.plots", "import matplotlib.pyplot as plt", "matplotlib.pyplot"),
    ("heavy_imports_are_late", "report.plots", "from matplotlib import pyplot", "matplotlib.pyplot"),
    ("heavy_imports_are_late", "cli", "if True:\n    import ipywidgets", "ipywidgets"),
    ("no_assert", "core.kv", "def f(x):\n    assert x", "assert"),
    ("docstrings", "core.kv", "x = 1", "no docstring"),
    ("docstrings", "core.kv", "'''Doc.'''\ndef f(): ...", "f has no docstring"),
    ("docstrings", "core.kv", "'''Doc.'''\nclass C: ...", "C has no docstring"),
    ("sizes", "core.kv", "x = 1\n" * 331, "331 lines"),
    ("sizes", "core.kv", LONG_FUNCTION, "51 lines"),
    ("errors_in_one_room", "core.kv", "class Full(Exception): ...", "Full is an error"),
    ("errors_in_one_room", "core.kv", "from rakka_sim.errors import Timeout\nclass Late(Timeout): ...", "Late"),
    ("one_door", "core.kv", "from rakka_sim.errors.requests import Timeout", "import it from rakka_sim.errors"),
    ("one_door", "actors.engine", "if TYPE_CHECKING:\n    from rakka_sim.messages.engine import Drain", "messages"),
    ("no_changing_globals", "core.kv", "def f():\n    global n\n    n = 1", "global n"),
    ("no_changing_globals", "core.kv", "seen = {}", "seen"),
    ("no_changing_globals", "core.kv", "seen: list[int] = list()", "seen"),
    ("no_changing_globals", "core.kv", "import itertools\nclass C:\n    ids = itertools.count()", "ids"),
    ("no_iteration_over_sets", "core.kv", "for x in {1, 2}:\n    f(x)", "{1, 2}"),
    ("no_iteration_over_sets", "core.kv", "def f(s: set[int]):\n    return [x for x in s]", "order of s"),
    ("no_iteration_over_sets", "core.kv", "def f(a):\n    s = set(a) | {1}\n    return list(s)", "order of s"),
    ("no_iteration_over_sets", "core.kv", "def f(a):\n    return sum(x for x in frozenset(a))", "frozenset(a)"),
    ("no_iteration_over_sets", "core.kv", SET_MEMBER, "order of self.s"),
]

TYPES_ONLY = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch, rakka_sim.actors.engine"
SORTED_SETS = "def f(s: set[int]):\n    '''Doc.'''\n    return sorted(s), sorted(x for x in s), {x for x in s}, 3 in s"
OTHER_SCOPE = "def f(a):\n    '''Doc.'''\n    s = set(a)\ndef g(s: list[int]):\n    '''Doc.'''\n    return list(s)"

GOOD = [
    ("core.kv", TYPES_ONLY),
    ("core.kv", "import numpy as np\ndef f(rng: np.random.Generator) -> None:\n    '''Doc.'''"),
    ("runtime.wall", "import time, threading"),
    ("runtime.sim", "import numpy as np, simpy\nr = np.random.default_rng(np.random.SeedSequence(1))"),
    ("report.plots", "def draw():\n    '''Doc.'''\n    import matplotlib.pyplot as plt"),
    ("core.kv", SORTED_SETS),
    ("core.kv", OTHER_SCOPE),
    ("core.kv", "TABLE = {1: 2}\nNAMES = dict(a=1)\ncell: list[int]\nEMPTY = ()"),
    ("runtime.base", "class _Full(Exception): ..."),
    ("core.kv", LONG_DOCSTRING),
    ("errors.requests", "from rakka_sim.errors.base import RakkaError\nclass Late(RakkaError):\n    '''Doc.'''"),
    ("actors.engine", "from rakka_sim.messages import Drain"),
]


def _module(where: str, text: str) -> Module:
    return Module(f"rakka_sim.{where}", text)


@pytest.mark.parametrize(("rule", "where", "text", "finding"), BAD, ids=[f"{row[0]}-{i}" for i, row in enumerate(BAD)])
def test_bites(rule: str, where: str, text: str, finding: str) -> None:
    found = apply(getattr(house_rules, rule), [_module(where, text)])
    assert any(finding in f for f in found), found


def test_circles_of_modules_and_of_rooms_are_found() -> None:
    a, b = "from rakka_sim.core.b import x", "from rakka_sim.core.a import y"
    assert apply(house_rules.no_cycles, [_module("core.a", a), _module("core.b", b)])
    a, d = "from rakka_sim.timing.b import x", "from rakka_sim.engines.c import y"
    rooms = [_module("engines.a", a), _module("timing.b", ""), _module("timing.d", d), _module("engines.c", "")]
    assert apply(house_rules.no_cycles, rooms) == ["engines, timing: import each other in a circle"]


def test_every_rule_is_shown_to_bite() -> None:
    assert {row[0] for row in BAD} | {"no_cycles"} == {rule.__name__ for rule in RULES}


@pytest.mark.parametrize(("where", "text"), GOOD)
def test_spares_what_is_right(where: str, text: str) -> None:
    module = _module(where, f"'''A module.'''\n{text}")
    assert [finding for rule in RULES for finding in apply(rule, [module])] == []
