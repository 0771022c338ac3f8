"""A report on disk: whole or not at all, and the same when read back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from report.schedules import Schedule, build

from rakka_sim.errors import InputError
from rakka_sim.report import files
from rakka_sim.report.report import Report

SCENARIO = {"name": "small", "workload": [{"kind": "gamma", "burstiness": float("inf")}]}
NASTY = ("=1+1", "+x", "-x", "@x", "'quoted", "NA", "a,b\n", "\tx")


def small(**changes: str) -> Report:
    schedule = build(31)
    schedule.requests[0] = replace(schedule.requests[0], **changes)
    return Report(schedule.log(), scenario=SCENARIO, wall_s=0.5, seed=7, facts={"kv": ["500 blocks"]})


def test_what_is_saved_is_what_is_read(tmp_path: Path) -> None:
    report = small()
    folder = report.save(tmp_path / "new" / "report")
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    plots = [f"plots/{name}.png" for name in ("batch", "latency", "replicas", "timeline")]
    assert found == [*plots, "requests.parquet", "scenario.json", "steps.parquet", "summary.json"]
    saved = files.load(folder)
    pd.testing.assert_frame_equal(saved.requests, report.requests)
    pd.testing.assert_frame_equal(saved.steps, report.steps)
    assert saved.summary["digest"] == report.digest
    assert (saved.summary["seed"], saved.summary["facts"]) == (7, {"kv": ["500 blocks"]})
    assert {"python", "rakka_sim", "numpy"} <= saved.summary["versions"].keys()
    assert {name: saved.summary[name] for name in report.summary()} == report.summary()
    assert saved.scenario == {"name": "small", "workload": [{"kind": "gamma", "burstiness": "inf"}]}


def save_as_csv(report: Report, folder: Path) -> Path:
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(sys.modules, "pyarrow.parquet", None)
        return report.save(folder, plots=False)


@pytest.mark.parametrize("name", NASTY)
def test_csv_is_read_back_the_same_and_holds_no_formula(tmp_path: Path, name: str) -> None:
    report = small(deployment=name, outcome=name)
    folder = save_as_csv(report, tmp_path)
    saved = files.load(folder)
    pd.testing.assert_frame_equal(
        saved.requests, report.requests, check_dtype=False, check_categorical=False, rtol=1e-12
    )
    pd.testing.assert_frame_equal(saved.steps, report.steps, check_dtype=False, check_categorical=False, rtol=1e-12)
    text = (folder / "requests.csv").read_text("utf-8")
    cells = text.replace("\n", ",").replace('"', "").split(",")
    texts = [cell for cell in cells if cell and not cell.lstrip("-").replace(".", "").replace("e-", "").isdigit()]
    assert not [cell for cell in texts if cell[0] in "=+-@\t\r"]


def test_a_machine_without_pyarrow_gets_csv(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from report.test_files import small\n"
        f"small().save({str(tmp_path / 'report')!r}, plots=False)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    subprocess.run([sys.executable, "-c", code], env=env, check=True)
    saved = files.load(tmp_path / "report")
    assert (tmp_path / "report" / "steps.csv").is_file()
    assert saved.summary["digest"] == small().digest


def test_a_report_is_written_over_and_other_files_are_left_alone(tmp_path: Path) -> None:
    save_as_csv(small(), tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    other = Report(build(32).log(), scenario={"name": "other"})
    other.save(tmp_path, plots=False)
    assert files.load(tmp_path).summary["digest"] == other.digest
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert not list(tmp_path.glob("*.csv"))  # of the former report


def test_a_folder_that_holds_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match="one that holds a report"):
        small().save(tmp_path, plots=False)
    with pytest.raises(InputError, match="not a file"):
        small().save(tmp_path / "thesis.tex")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_save_that_breaks_leaves_no_summary_and_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small().save(tmp_path, plots=False)
    with monkeypatch.context() as patched:
        patched.setattr(pd.DataFrame, "to_parquet", _full_disk)
        with pytest.raises(InputError, match="disk full"):
            small().save(tmp_path, plots=False)
    with pytest.raises(InputError, match="holds a report"):
        files.load(tmp_path)
    small().save(tmp_path, plots=False)
    assert files.load(tmp_path).summary["digest"] == small().digest


def _full_disk(self: pd.DataFrame, file: Path, **_: object) -> None:
    file.write_bytes(b"half")
    raise OSError("disk full")


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "numbers.json"
    files.write_json(file, {"a": 1})

    def broken(partial: Path) -> None:
        partial.write_text('{"a":')
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.write(file, broken)
    assert json.loads(file.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [file]


def test_json_has_no_nan() -> None:
    given = {"a": [float("nan"), float("-inf"), 1.5], 2: (True, None), "p": Path("x"), "s": Schedule([], [], [])}
    found = files.plain(given)
    assert (found["a"], found["2"], found["p"]) == ([None, "-inf", 1.5], [True, None], "x")
    json.dumps(found, allow_nan=False)
