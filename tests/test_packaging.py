"""What is declared is what is used, the same everywhere it is written down, and what a wheel really holds."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from house_rules import Module, imports, read_package
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PROJECT = PYPROJECT["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")

# Where conda-forge's name differs from PyPI's by more than case, dots and dashes.
CONDA_NAMES = {"torch": "pytorch", "ortools": "ortools-python"}
NOT_ON_CONDA = {"silicon"}
# What is imported by another name than it is installed by.
IMPORT_NAMES = {
    "pyyaml": "yaml",
    "nvidia-ml-py": "pynvml",
    "prometheus-client": "prometheus_client",
    "jupyter-client": "jupyter_client",
    "aiconfigurator-core": "aiconfigurator_core",
}
# What comes with another package, which pins it and documents it as its own.
COMES_WITH = {"pydantic_core": "pydantic", "triton": "torch"}


def _floors(requirements: list[str]) -> dict[str, str]:
    """Canonical name -> version specifier."""
    return {canonicalize_name(r.name): str(r.specifier) for r in map(Requirement, requirements)}


# --- environment.yml and pyproject.toml -------------------------------------------------------------------------


def _out_of_step(project: dict[str, Any], environment: dict[str, Any]) -> Iterator[str]:
    wanted, by_pip = _floors(project["dependencies"]), []
    for extra, requirements in project["optional-dependencies"].items():
        if extra not in NOT_ON_CONDA | {"all"}:
            # What only some platforms have goes through pip: conda knows no markers.
            by_pip += [requirement for requirement in requirements if ";" in requirement]
            wanted |= _floors([requirement for requirement in requirements if ";" not in requirement])
    wanted = {CONDA_NAMES.get(name, name): floor for name, floor in wanted.items()}
    wanted |= {"python": project["requires-python"], "pip": ""}
    *listed, last = environment["dependencies"]
    there = _floors(listed)
    for name in sorted(wanted.keys() | there.keys()):
        if wanted.get(name) != there.get(name):
            yield f"{name}: {wanted.get(name)} in pyproject.toml, {there.get(name)} in environment.yml"
    if last != {"pip": [*by_pip, "-e ."]}:
        yield f"environment.yml ends with {last}, not with {[*by_pip, 'the package itself']}"


def test_conda_and_pip_install_the_same() -> None:
    assert list(_out_of_step(PROJECT, ENVIRONMENT)) == []


@pytest.mark.parametrize(
    ("listed", "finding"),
    [
        (["python>=3.11", "pip", "numpy>=2.0", {"pip": ["-e ."]}], "torch"),
        (["python>=3.11", "pip", "numpy>=1.0", "pytorch>=2", {"pip": ["-e ."]}], "numpy: >=2.0"),
        (["python>=3.11", "pip", "numpy>=2.0", "pytorch>=2", "six", {"pip": ["-e ."]}], "six"),
        (["python>=3.10", "pip", "numpy>=2.0", "pytorch>=2", {"pip": ["-e ."]}], "python"),
        (["python>=3.11", "pip", "numpy>=2.0", "pytorch>=2", {"pip": ["rakka_sim"]}], "itself"),
    ],
)
def test_a_difference_would_be_noticed(listed: list[object], finding: str) -> None:
    project = {
        "requires-python": ">=3.11",
        "dependencies": ["numpy>=2.0"],
        "optional-dependencies": {"live": ["torch>=2"], "silicon": ["x>=1"], "all": ["p[live]"]},
    }
    found = list(_out_of_step(project, {"dependencies": listed}))
    assert len(found) == 1
    assert finding in found[0]
    fitting = ["python>=3.11", "pip", "numpy>=2.0", "pytorch>=2"]
    assert not list(_out_of_step(project, {"dependencies": [*fitting, {"pip": ["-e ."]}]}))
    project["optional-dependencies"]["dev"] = ["y>=1; sys_platform == 'linux'"]
    (finding,) = _out_of_step(project, {"dependencies": [*fitting, {"pip": ["-e ."]}]})
    assert "y>=1" in finding
    assert not list(
        _out_of_step(project, {"dependencies": [*fitting, {"pip": ["y>=1; sys_platform == 'linux'", "-e ."]}]})
    )


# --- the declarations themselves --------------------------------------------------------------------------------


def test_every_requirement_has_a_floor_and_no_cap() -> None:
    for requirement in [*PROJECT["dependencies"], *(r for name in EXTRAS if name != "all" for r in EXTRAS[name])]:
        assert re.fullmatch(r"[\w-]+>=[\d.]+(; \w.*)?", requirement), requirement


def test_the_same_package_has_the_same_floor_in_every_extra() -> None:
    merged: dict[str, str] = {}
    for requirements in EXTRAS.values():
        for name, floor in _floors(requirements).items():
            assert merged.setdefault(name, floor) == floor, name


def test_every_core_dependency_says_what_it_is_for() -> None:
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    for requirement in PROJECT["dependencies"]:
        assert re.search(rf'"{re.escape(requirement)}", +# \w.{{10,}}', text), requirement


def test_all_is_every_extra_but_the_developers() -> None:
    (everything,) = map(Requirement, EXTRAS["all"])
    assert everything.name == PROJECT["name"]
    assert everything.extras == EXTRAS.keys() - {"all", "dev"}


def test_tests_use_a_torch_that_the_live_extra_admits() -> None:
    (version,) = re.findall(r"^TORCH_VERSION \?= (\S+)$", MAKEFILE, re.MULTILINE)
    (torch,) = (r for r in map(Requirement, EXTRAS["live"]) if r.name == "torch")
    assert version in torch.specifier


def test_the_licence_is_the_one_declared() -> None:
    assert PROJECT["license"] == "Apache-2.0"
    text = (ROOT / "LICENSE").read_text("utf-8")
    assert text.lstrip().startswith("Apache License\n")
    assert "END OF TERMS AND CONDITIONS" in text


def test_the_changelog_starts_with_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    (first, *_) = re.findall(r"^## \[?([\w.]+)", changelog, re.MULTILINE)
    assert first == PROJECT["version"]


def test_every_target_explains_itself() -> None:
    (phony,) = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert set(phony.split()) == set(re.findall(r"^([a-z-]+):.* ## \w", MAKEFILE, re.MULTILINE))


# --- imports against declarations -------------------------------------------------------------------------------


def _undeclared(modules: list[Module], core: set[str], extras: set[str]) -> Iterator[str]:
    """Imports at the top of a module must be of the core; those inside a function may be of any extra."""
    for module in modules:
        for node, name, late in imports(module):
            root = COMES_WITH.get(name.split(".")[0], name.split(".")[0])
            optional = late or module.within(("engines.torch", "serving", "providers"))
            if root not in core | sys.stdlib_module_names | {"rakka_sim"} | (extras if optional else set()):
                yield f"{module.at(node)}: {root}"


def _import_names(requirements: list[str]) -> set[str]:
    return {IMPORT_NAMES.get(name, name) for name in _floors(requirements)}


def test_every_import_is_declared() -> None:
    core, users = _import_names(PROJECT["dependencies"]), [name for name in EXTRAS if name not in {"all", "dev"}]
    optional = {name for extra in users for name in _import_names(EXTRAS[extra])}
    assert list(_undeclared(read_package(ROOT / "rakka_sim"), core, optional)) == []


def test_every_import_of_the_tests_is_declared() -> None:
    declared = _import_names(PROJECT["dependencies"]) | _import_names(EXTRAS["dev"]) | _import_names(EXTRAS["live"])
    own = {path.stem for path in (ROOT / "tests").rglob("*") if path.suffix == ".py" or path.is_dir()}
    own |= {"tests", "benchmarks"}
    assert list(_undeclared(read_package(ROOT / "tests"), declared | own, set())) == []


def test_an_undeclared_import_would_be_noticed() -> None:
    top, late = Module("rakka_sim.a", "import torch"), Module("rakka_sim.b", "def f():\n    import torch.nn, requests")
    assert list(_undeclared([top, late], {"numpy"}, {"torch"})) == ["rakka_sim.a:1: torch", "rakka_sim.b:2: requests"]


# --- the wheel --------------------------------------------------------------------------------------------------


def test_a_wheel_holds_the_package_and_nothing_else(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "rakka_sim", source / "rakka_sim", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("tests", "scenarios", "benchmarks"):
        (source / name).mkdir()
        (source / name / "__init__.py").touch()
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    built = subprocess.run([*pip, str(tmp_path), str(source)], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    files = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = {path.relative_to(source).as_posix() for path in (source / "rakka_sim").rglob("*") if path.is_file()}
    assert files == expected
    assert "rakka_sim/py.typed" in files
