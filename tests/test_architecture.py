"""The package keeps the house rules, imports lightly, and its documents say what is so."""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import typer
from house_rules import HEAVY, RULES, Module, Rule, apply, read_package

import rakka_sim
from rakka_sim import cli, errors, messages

ROOT = Path(__file__).resolve().parent.parent
MODULES = read_package(ROOT / "rakka_sim")


# --- the house rules --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_package_keeps(rule: Rule) -> None:
    findings = apply(rule, MODULES)
    assert not findings, "\n".join(["", *findings])


def test_the_rules_saw_the_package() -> None:
    assert {"rakka_sim", "rakka_sim.core", "rakka_sim.core.kv", "rakka_sim.runtime.sim"} <= {m.name for m in MODULES}


# --- what an import costs ---------------------------------------------------------------------------------------

ALL_NAMES = "import rakka_sim; [getattr(rakka_sim, name) for name in rakka_sim.__all__]"


def _in_a_fresh_process(statement: str) -> tuple[set[str], float]:
    """The modules loaded by `statement`, and the seconds that it took."""
    program = (
        "import json, sys, time; start = time.perf_counter(); "
        f"{statement}; print(json.dumps([list(sys.modules), time.perf_counter() - start]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    modules, seconds = json.loads(done.stdout)
    return set(modules), seconds


@pytest.mark.parametrize("statement", ["import rakka_sim", ALL_NAMES, "import rakka_sim.cli"])
def test_nothing_heavy_is_imported_before_it_is_used(statement: str) -> None:
    assert _in_a_fresh_process(statement)[0] & HEAVY == set()


def test_something_heavy_would_be_noticed() -> None:
    assert "ipywidgets" in _in_a_fresh_process("import ipywidgets")[0]


def test_the_import_is_quick() -> None:
    assert any(_in_a_fresh_process("import rakka_sim")[1] < 0.5 for _ in range(5))


def test_a_slow_import_would_be_noticed() -> None:
    assert _in_a_fresh_process("time.sleep(0.5)")[1] >= 0.5


# --- the drawn trees --------------------------------------------------------------------------------------------


def _drawn_tree(text: str) -> dict[str, str]:
    """Each name in a tree drawn with ``|--``, and the name it hangs from."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if re.match(r" *\|-- ", line)) - 1
    margin = len(lines[start]) - len(lines[start].lstrip())
    path, depth, parents = [lines[start].strip()], 0, {}
    for line in lines[start + 1 :]:
        drawing, rest = re.fullmatch(r"([ |`-]*)(.*)", line[margin:]).groups()  # type: ignore[union-attr]
        if not rest:
            break
        if "--" in drawing:  # else the line goes on with the names of the one before
            depth = drawing.index("--") // 4
        names = re.findall(r"\w+", rest.split("  ")[0])
        parents.update(dict.fromkeys(names, path[depth]))
        path = [*path[: depth + 1], names[-1]]
    return parents


def _real_tree(module: ModuleType, root: type) -> dict[str, str]:
    own = [
        kind for kind in vars(module).values() if inspect.isclass(kind) and kind.__module__.startswith(module.__name__)
    ]
    return {kind.__name__: kind.__mro__[1].__name__ for kind in own if kind is not root}


def test_the_error_tree_is_drawn_as_it_is() -> None:
    assert _drawn_tree(errors.__doc__ or "") == _real_tree(errors, errors.RakkaError)


def test_a_tree_is_read_as_it_is_drawn() -> None:
    drawn = """
        Root
        |-- A                the first
        |   |-- B, C,
        |   |   D
        |   `-- E            the last of them
        `-- F

        Prose |-- that is none of it.
    """
    assert _drawn_tree(drawn) == {"A": "Root", "B": "A", "C": "A", "D": "A", "E": "A", "F": "Root"}


def _inside(package: ModuleType) -> list[Module]:
    return [module for module in MODULES if module.name.startswith(package.__name__)]


@pytest.mark.parametrize("package", [errors, messages], ids=lambda package: package.__name__)
def test_a_package_of_names_has_all_that_its_files_define(package: ModuleType) -> None:
    classes = [n.name for module in _inside(package) for n in module.tree.body if isinstance(n, ast.ClassDef)]
    assert sorted(classes) == sorted(package.__all__)


def _behaviour(source: str) -> list[str]:
    tree = ast.parse(source)
    functions = [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    return functions + [c.name for c in classes if [ast.unparse(mark) for mark in c.decorator_list] != ["value"]]


def test_messages_are_values_without_behaviour() -> None:
    assert [name for module in _inside(messages) for name in _behaviour(module.text)] == []
    assert _behaviour("class Plain:\n    def act(self): ...") == ["act", "Plain"]


# --- the public names -------------------------------------------------------------------------------------------


def _undocumented(readme: str, names: list[str]) -> Iterator[str]:
    shown = set(re.findall(r"\brakka_sim\.([A-Za-z]\w*)", readme))
    imported = ",".join(re.findall(r"from rakka_sim import ([\w, ]+)", readme))
    shown |= {name.strip() for name in imported.split(",") if name.strip()}
    yield from (f"{name} is public, and README.md does not show it" for name in names if name not in shown)
    inner = {module.name.split(".")[1] for module in MODULES if "." in module.name}
    yield from (f"README.md shows rakka_sim.{name}, which is not public" for name in shown - inner - set(names))


def test_every_public_name_is_there_and_in_the_readme() -> None:
    assert all(getattr(rakka_sim, name) is not None for name in rakka_sim.__all__)
    assert sorted(rakka_sim.__all__) == rakka_sim.__all__
    assert list(_undocumented((ROOT / "README.md").read_text("utf-8"), rakka_sim.__all__)) == []


def test_an_undocumented_name_would_be_noticed() -> None:
    assert list(_undocumented("from rakka_sim import run\n rakka_sim.Report", ["Report", "run"])) == []
    assert len(list(_undocumented("`rakka_sim.fly`", ["run"]))) == 2


# --- the repository's texts -------------------------------------------------------------------------------------

STRAYS = {
    "an absolute path": re.compile(r"(?<![\w.:/])/(?:work|farm|root|home|tmp|opt)(?:/|\b)"),
    "a note to oneself": re.compile(r"\b(?:TODO|FIXME|XXX)\b"),
    "how the work was organised": re.compile(r"\b(?:issue|stage) #?\d|\bthis session\b", re.IGNORECASE),
}
TEXTS = {".py", ".md", ".toml", ".yml", ".yaml", ".ipynb", ".cfg", ".txt", ""}


def _texts(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        top = Path(folder) == root
        folders[:] = [f for f in folders if f == ".ci" or not (f.startswith(".") or f.endswith(".egg-info"))]
        folders[:] = [
            f for f in folders if f != "__pycache__" and not (top and f in {"tests", "out", "report", "build"})
        ]
        # In a linked working tree `.git` is a file, and git's own.
        yield from (Path(folder, file) for file in files if Path(file).suffix in TEXTS and file != ".git")


def _strays(text: str) -> Iterator[str]:
    for number, line in enumerate(text.splitlines(), 1):
        for what, pattern in STRAYS.items():
            if pattern.search(line):
                yield f"{number}: {what}: {line.strip()[:100]}"


def test_no_text_holds_what_only_its_author_needs() -> None:
    texts = [path for path in _texts(ROOT) if path.name != "LICENSE"]
    assert {"README.md", "Makefile", "run", "values.py"} <= {path.name for path in texts}
    found = [f"{path.relative_to(ROOT)}:{stray}" for path in texts for stray in _strays(path.read_text("utf-8"))]
    assert not found, "\n".join(["", *found])


@pytest.mark.parametrize(
    "text", ["see /tmp/x", "a\n(/" + "work/main)", "# TODO", "as in issue 12", "Stage 3 brings it"]
)
def test_a_stray_would_be_noticed(text: str) -> None:
    assert list(_strays(text))


@pytest.mark.parametrize(
    "text", ["../shared/data", "https://a.example/home/x", "the actor /manager/0", "prefill stage"]
)
def test_what_is_no_stray_is_spared(text: str) -> None:
    assert not list(_strays(text))


def _commands(text: str) -> tuple[set[str], set[str]]:
    """The ``make`` targets and the ``rakka-sim`` commands that a text names in code."""
    code = "\n".join(re.findall(r"```.*?```|`[^`\n]+`", text, re.DOTALL))
    return set(re.findall(r"\bmake ([a-z]+)", code)), set(re.findall(r"\brakka-sim ([a-z]+)", code))


DOCUMENTS = [*sorted(path for path in _texts(ROOT) if path.suffix == ".md"), ROOT / "tests" / "README.md"]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_in_the_documents_exists(path: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    subcommands = set(typer.main.get_command(cli.app).commands)  # type: ignore[attr-defined]
    made, called = _commands(path.read_text("utf-8"))
    assert made <= targets
    assert called <= subcommands


def test_commands_are_read_from_code_only() -> None:
    text = "Do make haste. `make demo`\n```sh\nmake test\nrakka-sim run x.toml\n```"
    assert _commands(text) == ({"demo", "test"}, {"run"})
