"""Every notebook, executed by a real kernel as its reader would; and a run that its reader interrupts.

They are executed in a copy, beside a copy of the scenarios: what they write stays there. Nothing is to be written for
a new notebook but the notebook.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient

import rakka_sim

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SCRIPTS = sorted((ROOT / "notebooks").glob("*.py"))
WIDGET = "application/vnd.jupyter.widget-view+json"
BAR = re.compile(r"\d+(\.\d+)?\s?(req/s|s/req|it/s|%)")
SECONDS = 110  # less than the test's own time, so that the cell is named that took it


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A reader's folder, with the notebooks in it; a kernel started by this test has the package under test."""
    for name in ("notebooks", "scenarios"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns(".*", "__pycache__"))
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
    monkeypatch.setenv("RAKKA_SIM_DATA", os.environ.get("RAKKA_SIM_DATA", str(ROOT.parent / "shared" / "data")))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    return tmp_path


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    """No test of this file leaves anything in the repository, not even what git ignores."""
    before = in_the_repository()
    yield
    assert in_the_repository() - before == set()


def in_the_repository() -> set[str]:
    shown = subprocess.run(
        ["git", "status", "--porcelain", "--ignored", "--untracked-files=all"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    caches = ("__pycache__/", ".hypothesis/", ".pytest_cache/", ".mypy_cache/", ".ruff_cache/")
    return {line for line in shown.stdout.splitlines() if not any(cache in line for cache in caches)}


def cells(notebook: Any) -> list[tuple[str, str]]:
    return [(cell.cell_type, cell.source.rstrip()) for cell in notebook.cells]


def test_there_are_notebooks_and_each_has_its_script() -> None:
    assert NOTEBOOKS
    assert [path.stem for path in NOTEBOOKS] == [path.stem for path in SCRIPTS]


@pytest.mark.notebook
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_in_step_with_its_script(path: Path) -> None:
    """`make notebooks` brings them so."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert cells(notebook) == cells(jupytext.read(path.with_suffix(".py")))
    assert notebook.metadata.kernelspec.name == "python3"


@pytest.mark.slow
@pytest.mark.notebook
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_what_it_does(path: Path, reader: Path) -> None:
    """Without an error or a warning; and where a cell simulates, whoever waits for it sees it progress."""
    notebook = nbformat.read(reader / "notebooks" / path.name, as_version=4)
    asked = nbformat.v4.new_code_cell("import rakka_sim; print(rakka_sim.__file__)")
    notebook.cells.append(asked)
    folder = {"metadata": {"path": str(reader / "notebooks")}}
    done = NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", resources=folder).execute()
    assert Path(done.cells[-1].outputs[0].text.strip()).is_relative_to(ROOT), "it ran the package under test"
    for cell in done.cells:
        if cell.cell_type != "code":
            continue
        written = "".join(output.text for output in cell.outputs if output.output_type == "stream")
        assert "Warning" not in written, written
        if simulates(cell.source):
            assert BAR.search(written) or any(WIDGET in output.get("data", {}) for output in cell.outputs), cell.source


def simulates(source: str) -> bool:
    """Whether a cell runs a simulation; one that is to fail before it begins does not."""
    return re.search(r"\brakka_sim\.(run|sweep)\(", source) is not None and "except " not in source


class Kernel:
    """A kernel as a notebook has one: cells go in, what they show comes out."""

    def __init__(self, folder: Path) -> None:
        self.manager = KernelManager(kernel_name="python3")
        self.manager.start_kernel(cwd=str(folder))
        self.client: BlockingKernelClient = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)

    def stop(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()

    def outputs(self, cell: str) -> Iterator[dict[str, Any]]:
        """Execute a cell; what it shows, message by message, until it is done."""
        asked = self.client.execute(cell)
        while True:
            msg = self.client.get_iopub_msg(timeout=60)
            if msg["parent_header"].get("msg_id") != asked:
                continue
            if msg["msg_type"] == "status" and msg["content"]["execution_state"] == "idle":
                return
            yield {"kind": msg["msg_type"], **msg["content"]}

    def run(self, cell: str) -> str:
        """What a cell prints; an error in it is one here."""
        shown = list(self.outputs(cell))
        assert not [output for output in shown if output["kind"] == "error"], shown
        return "".join(output["text"] for output in shown if output["kind"] == "stream" and output["name"] == "stdout")


@pytest.fixture
def kernel(reader: Path) -> Iterator[Kernel]:
    started = Kernel(reader / "notebooks")
    yield started
    started.stop()


SMALL = {"workload.requests": 50}
LONG = """
report = "none"
report = rakka_sim.run("../scenarios/quickstart.toml", overrides={"workload.requests": 100_000_000}, mode="MODE")
"""


@pytest.mark.slow
@pytest.mark.notebook
@pytest.mark.parametrize("mode", ["simulate", "emulate"])
def test_an_interrupted_run_leaves_nothing_behind(kernel: Kernel, mode: str) -> None:
    """The square button: KeyboardInterrupt, no half a report, no thread; and the next run is what it always is."""
    kernel.run("import rakka_sim, threading; before = set(threading.enumerate())")
    error = None
    for output in kernel.outputs(LONG.replace("MODE", mode)):
        if output["kind"] == "display_data" and WIDGET in output["data"]:  # the bar is there: the run is under way
            kernel.manager.interrupt_kernel()
        elif output["kind"] == "error":
            error = output["ename"]
    assert error == "KeyboardInterrupt"
    assert kernel.run("print(report)").strip() == "none"
    assert kernel.run("print([t for t in set(threading.enumerate()) - before if 'rakka' in t.name.lower()])") == "[]\n"
    again = f'print(rakka_sim.run("../scenarios/quickstart.toml", overrides={SMALL!r}).digest)'
    expected = rakka_sim.run(ROOT / "scenarios" / "quickstart.toml", overrides=SMALL, progress=False).digest
    assert kernel.run(again).strip() == expected
    assert kernel.run(again).strip() == expected
