"""The house rules as checks of source text: each yields what breaks it. No test is here, and nothing checked is run.

A rule takes one `Module` (a few take them all) and yields findings, "place: what is wrong". `test_architecture.py`
applies them to the package; `test_house_rules.py` feeds them what they forbid, so that one that no longer bites shows.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import networkx as nx

Rule = Callable[..., Iterator[str]]

PACKAGE = "rakka_sim"
MAX_FILE = 330
MAX_FUNCTION = 50

# The rooms from the ground up; a room imports its own floor and those below it. The package itself stands on top.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors", "compiled"),
    ("values",),
    ("messages", "config"),
    ("hardware",),
    ("core", "records"),
    ("runtime.api",),
    ("actors",),
    ("runtime", "timing", "engines", "providers", "serving", "workload"),
    ("wiring", "report", "progress"),
    ("experiment",),
    ("notebook", "sweep", "cli"),
    ("__main__",),
    ("",),
)
# Less than their floor would allow: a report can be drawn of records alone, by whoever has them, a machine likewise.
NARROW = {
    "report": {"errors", "values", "config", "hardware", "records", "report"},
    "records": {"errors", "values", "records"},
}
HEIGHT = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}

# A module of the outside world, and the only rooms that may know it.
CLOCKS = ("runtime", "cli")
THREADS = ("runtime", "engines", "serving", "experiment", "notebook", "sweep", "cli")
RESERVED: dict[str, tuple[str, ...]] = {
    "random": (),
    "uuid": (),
    "secrets": ("serving", "notebook"),
    "time": CLOCKS,
    "simpy": ("runtime.sim", "hardware.links"),
    "torch": ("engines.torch", "hardware.live"),
    "asyncio": ("serving", "providers", "notebook"),
    "threading": THREADS,
    "multiprocessing": THREADS,
    "concurrent": THREADS,
}
# Rooms whose files are for their own order: whoever needs one of their names asks the room for it.
ONE_DOOR = ("errors", "messages")
SEED_ROOMS = ("runtime", "experiment")
RANDOM_TYPES = {"Generator", "SeedSequence", "BitGenerator"}
RANDOM_MAKERS = {"default_rng", "PCG64", "PCG64DXSM", "Philox", "SFC64"}
# Slow to import, or not there at all: only a function that needs them may import them.
HEAVY = {"torch", "ipywidgets", "IPython", "matplotlib.pyplot", "pyarrow"}
HEAVY_ROOMS = ("engines.torch", "notebook")


@dataclass(frozen=True)
class Module:
    """One source file: its dotted name (a package by its own name) and text."""

    name: str
    text: str
    is_package: bool = False

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def inner(self) -> str:
        """The name below the package: ``core.kv``; empty for the package itself."""
        return self.name.removeprefix(PACKAGE).removeprefix(".")

    @property
    def room(self) -> str:
        return room_of(self.inner)

    def within(self, rooms: tuple[str, ...]) -> bool:
        return any(self.inner == room or self.inner.startswith(room + ".") for room in rooms)

    def at(self, node: ast.AST) -> str:
        return f"{self.name}:{getattr(node, 'lineno', 1)}"


def read_package(folder: Path) -> list[Module]:
    """Every module under `folder`, which is the package."""
    modules = []
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder.parent).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        modules.append(Module(".".join(parts[:-1] if is_package else parts), path.read_text("utf-8"), is_package))
    return modules


def room_of(inner: str) -> str:
    """The room that a module belongs to: the longest listed one that holds it, else its first name."""
    rooms = [room for room in HEIGHT if room and (inner == room or inner.startswith(room + "."))]
    return max(rooms, key=len, default=inner.split(".")[0])


# --- what a module imports --------------------------------------------------------------------------------------


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def _running(node: ast.AST, late: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    """Every node that runs, not only type-checks, and whether it runs late: inside a function."""
    for child in ast.iter_child_nodes(node):
        if _is_type_checking(node) and child not in node.orelse:  # type: ignore[attr-defined]
            continue
        inside = late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield child, inside
        yield from _running(child, inside)


def imports(module: Module) -> Iterator[tuple[ast.AST, str, bool]]:
    """Each import that runs: its node, the dotted name it asks for, and whether it runs late.

    ``from a.b import c`` asks for ``a.b.c``, whether that is a module or a name in one.
    """
    for node, late in _running(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node, alias.name, late
        elif isinstance(node, ast.ImportFrom):
            parts = module.name.split(".") + ["__init__"] * module.is_package
            base = [*parts[: -node.level], node.module] if node.level else [node.module]
            for alias in node.names:
                yield node, ".".join([*filter(None, base), alias.name]), late


def _internal(module: Module, known: set[str]) -> Iterator[tuple[ast.AST, str]]:
    """The modules of this package that `module` imports."""
    for node, name, _ in imports(module):
        if name.split(".")[0] == PACKAGE:
            yield node, name if isinstance(node, ast.Import) or name in known else name.rpartition(".")[0]


# --- rules over all modules -------------------------------------------------------------------------------------


def no_upward_imports(modules: list[Module]) -> Iterator[str]:
    known = {module.name for module in modules}
    for module in modules:
        if module.room not in HEIGHT:
            yield f"{module.name}: room {module.room!r} is not in FLOORS"
            continue
        for node, target in _internal(module, known):
            room = room_of(target.removeprefix(PACKAGE).removeprefix("."))
            if not room:
                yield f"{module.at(node)}: imports the package itself, not a submodule"
            elif HEIGHT.get(room, 0) > HEIGHT[module.room]:
                yield f"{module.at(node)}: {module.room or 'the package'} may not import {target}, which is above it"
            elif room not in NARROW.get(module.room, {room}):
                yield f"{module.at(node)}: {module.room} may not import {target}; it stands on less"


def no_cycles(modules: list[Module]) -> Iterator[str]:
    known = {module.name for module in modules}
    by_module, by_room = nx.DiGraph(), nx.DiGraph()
    for module in modules:
        for _, target in _internal(module, known):
            by_module.add_edge(module.name, target)
            room = room_of(target.removeprefix(PACKAGE).removeprefix("."))
            if room != module.room:
                by_room.add_edge(module.room, room)
    for graph in (by_module, by_room):
        for circle in nx.strongly_connected_components(graph):
            if len(circle) > 1:
                yield f"{', '.join(sorted(circle))}: import each other in a circle"


# --- rules over one module --------------------------------------------------------------------------------------


def known_world(module: Module) -> Iterator[str]:
    """Clocks, chance, threads, SimPy and torch: each only in its own room."""
    for node, name, _ in imports(module):
        root = name.split(".")[0]
        if root in RESERVED and not module.within(RESERVED[root]):
            yield f"{module.at(node)}: imports {root}, which only {', '.join(RESERVED[root]) or 'nobody'} may"


def no_hidden_clock_or_chance(module: Module) -> Iterator[str]:
    """What hides behind a harmless import: ``datetime.now``, ``os.urandom``, numpy's global generator."""
    allowed = RANDOM_TYPES | (RANDOM_MAKERS if module.within(SEED_ROOMS) else set())
    for node, name, _ in imports(module):
        if name.startswith("numpy.random.") and name.split(".")[2] not in allowed:
            yield f"{module.at(node)}: {name}: generators are handed out where the root seed is"
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Attribute):
            continue
        dotted = ast.unparse(node)
        if dotted.startswith(("np.random.", "numpy.random.")) and dotted.split(".")[2] not in allowed:
            yield f"{module.at(node)}: {dotted}: generators are handed out where the root seed is"
        elif node.attr in {"now", "utcnow", "today"} and ast.unparse(node.value).endswith(("datetime", "date")):
            yield f"{module.at(node)}: {dotted} reads a clock"
        elif dotted == "os.urandom":
            yield f"{module.at(node)}: {dotted} cannot be repeated"


def heavy_imports_are_late(module: Module) -> Iterator[str]:
    for node, name, late in imports(module):
        heavy = [h for h in HEAVY if name == h or name.startswith(h + ".")]
        if heavy and not late and not module.within(HEAVY_ROOMS):
            yield f"{module.at(node)}: imports {heavy[0]} at its top; import it where it is used"


def no_assert(module: Module) -> Iterator[str]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Assert):
            yield f"{module.at(node)}: assert vanishes under -O; raise a typed error"


def docstrings(module: Module) -> Iterator[str]:
    """A docstring on every module and on every public function and class outside a function."""
    if not ast.get_docstring(module.tree):
        yield f"{module.name}: no docstring"
    for node in module.tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            overload = any(ast.unparse(mark).endswith("overload") for mark in node.decorator_list)
            if not node.name.startswith("_") and not overload and not ast.get_docstring(node):
                yield f"{module.at(node)}: {node.name} has no docstring"


def sizes(module: Module) -> Iterator[str]:
    """Files and functions that one can hold in the head; a function's docstring does not count."""
    lines = len(module.text.splitlines())
    if lines > MAX_FILE:
        yield f"{module.name}: {lines} lines, more than {MAX_FILE}"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = _span(node) - (_span(node.body[0]) if ast.get_docstring(node) else 0)
            if length > MAX_FUNCTION:
                yield f"{module.at(node)}: {node.name} has {length} lines, more than {MAX_FUNCTION}"


def _span(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def errors_in_one_room(module: Module) -> Iterator[str]:
    """Public errors stand in ``errors``, where their tree is drawn; what never leaves its file may be private."""
    kinds = {
        name for name, kind in vars(builtins).items() if isinstance(kind, type) and issubclass(kind, BaseException)
    }
    kinds |= {name.rpartition(".")[2] for _, name, _ in imports(module) if name.startswith(f"{PACKAGE}.errors.")}
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.ClassDef) or node.name.startswith("_") or module.room == "errors":
            continue
        if any(ast.unparse(base).rpartition(".")[2] in kinds for base in node.bases):
            yield f"{module.at(node)}: {node.name} is an error; it belongs into {PACKAGE}.errors"


def one_door(module: Module) -> Iterator[str]:
    """Errors and messages come from their package, not from the file they stand in: the files may change."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ImportFrom) and not node.level:
            parts = (node.module or "").split(".")
            if parts[0] == PACKAGE and parts[1:2] != [module.room] and len(parts) > 2 and parts[1] in ONE_DOOR:
                yield f"{module.at(node)}: import it from {PACKAGE}.{parts[1]}"


def no_changing_globals(module: Module) -> Iterator[str]:
    """No ``global``, no counter or empty container at module or class level: state lives in objects."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Global):
            yield f"{module.at(node)}: global {', '.join(node.names)}"
        elif isinstance(node, ast.Module | ast.ClassDef):
            for statement in node.body:
                value = getattr(statement, "value", None)
                if isinstance(statement, ast.Assign | ast.AnnAssign) and value and _is_state(value):
                    yield f"{module.at(statement)}: {ast.unparse(statement)}: shared state, meant to change"


def _is_state(value: ast.expr) -> bool:
    if isinstance(value, ast.Call):
        name = ast.unparse(value.func).rpartition(".")[2]
        return name in {"count", "defaultdict", "Counter"} or (
            name in {"list", "dict", "set", "deque", "OrderedDict"} and not value.args and not value.keywords
        )
    return isinstance(value, ast.List | ast.Dict) and not (getattr(value, "elts", None) or getattr(value, "keys", None))


# --- iteration over sets ----------------------------------------------------------------------------------------

ORDERLESS = {"sorted", "set", "frozenset", "len", "any", "all"}
ORDERED = {
    "list",
    "tuple",
    "iter",
    "enumerate",
    "sum",
    "min",
    "max",
    "map",
    "filter",
    "zip",
    "next",
    "reversed",
    "dict",
}
ORDERED_METHODS = {"join", "extend", "fromkeys"}


def no_iteration_over_sets(module: Module) -> Iterator[str]:
    """A set's order differs between processes. Finds sets by literal, call, annotation, or a name given one."""
    members = _set_names(module.tree, members=True)
    functions = [n for n in ast.walk(module.tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    for scope in (module.tree, *functions):
        names = members | _set_names(scope, members=False)
        excused = {
            id(argument)
            for node in _in_scope(scope)
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ORDERLESS
            for argument in node.args
        }
        for node in _in_scope(scope):
            if id(node) in excused or isinstance(node, ast.SetComp):
                continue
            for walked in _walked(node):
                if _is_set(walked, names):
                    yield f"{module.at(walked)}: the order of {ast.unparse(walked)} is chance; sort it, or keep a dict"


def _in_scope(scope: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a scope, not those of the functions inside it."""
    for child in ast.iter_child_nodes(scope):
        yield child
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _in_scope(child)


def _walked(node: ast.AST) -> Iterator[ast.expr]:
    """What `node` goes through in order."""
    if isinstance(node, ast.For | ast.AsyncFor):
        yield node.iter
    elif isinstance(node, ast.ListComp | ast.GeneratorExp | ast.DictComp):
        yield from (generator.iter for generator in node.generators)
    elif isinstance(node, ast.Starred):
        yield node.value
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        if node.func.attr in ORDERED_METHODS:
            yield from node.args
        elif node.func.attr == "pop" and not node.args:
            yield node.func.value
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ORDERED:
        yield from node.args


def _set_names(scope: ast.AST, *, members: bool) -> set[str]:
    """Names (or, over a whole module, ``self.`` members) that hold a set."""
    found: set[str] = set()
    arguments = [a for a in ast.walk(scope) if isinstance(a, ast.arg)] if not members else []
    found.update(a.arg for a in arguments if a.annotation and _means_set(a.annotation))
    for node in ast.walk(scope) if members else _in_scope(scope):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if isinstance(node, ast.AnnAssign):
            is_set = _means_set(node.annotation)
        else:
            is_set = isinstance(node, ast.Assign) and _is_set(node.value, found)
        if is_set:
            found.update(ast.unparse(t) for t in targets if isinstance(t, ast.Attribute if members else ast.Name))
    return found


def _means_set(annotation: ast.expr) -> bool:
    name = ast.unparse(annotation).strip("'\"").split("[")[0].rpartition(".")[2]
    return name in {"set", "frozenset", "Set", "AbstractSet", "MutableSet"}


def _is_set(node: ast.expr, names: set[str]) -> bool:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr | ast.BitAnd | ast.Sub | ast.BitXor):
        return _is_set(node.left, names) or _is_set(node.right, names)
    if isinstance(node, ast.Call):
        return ast.unparse(node.func) in {"set", "frozenset"}
    return isinstance(node, ast.Set | ast.SetComp) or ast.unparse(node) in names


# --- the list of them -------------------------------------------------------------------------------------------

PER_MODULE = (
    known_world,
    no_hidden_clock_or_chance,
    heavy_imports_are_late,
    no_assert,
    docstrings,
    sizes,
    errors_in_one_room,
    one_door,
    no_changing_globals,
    no_iteration_over_sets,
)
OVER_ALL = (no_upward_imports, no_cycles)
RULES = (*PER_MODULE, *OVER_ALL)


def apply(rule: Rule, modules: list[Module]) -> list[str]:
    """What breaks `rule` in `modules`."""
    if rule in OVER_ALL:
        return list(rule(modules))
    return [finding for module in modules for finding in rule(module)]
