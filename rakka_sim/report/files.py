"""Writing a report to disk, whole files or none, and reading one back; no number may be made here."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from rakka_sim.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from rakka_sim.report.report import Report

SUMMARY, SCENARIO = "summary.json", "scenario.json"
TABLES = ("requests", "steps")
TEXTS = ("deployment", "outcome")
# What a spreadsheet takes for a formula at the start of a cell; the quote too, so that escaping can be undone.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")


@dataclass(slots=True)
class Saved:
    """A report read back from its folder."""

    requests: pd.DataFrame
    steps: pd.DataFrame
    summary: dict[str, Any]
    scenario: dict[str, Any]


def save(report: Report, folder: Path, plots: bool = True) -> Path:
    """Each file appears whole or not at all, summary.json last: its digest speaks for the others."""
    check_folder(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / SUMMARY).unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable("report folder", folder, error) from error
    write_json(folder / SCENARIO, plain(report.scenario), indent=2)
    for name in TABLES:
        _write_table(folder, name, getattr(report, name))
    if plots:
        report.plot.all(folder / "plots")
    write_json(folder / SUMMARY, plain(report.to_dict()), indent=2)
    return folder


def load(folder: str | Path) -> Saved:
    """The tables and numbers of a saved report; raises InputError where there is none."""
    folder = Path(folder)
    if not (folder / SUMMARY).is_file():
        raise InputError("report folder", str(folder), f"a folder that holds a report ({SUMMARY} and its tables)")
    summary, scenario = (json.loads((folder / name).read_text("utf-8")) for name in (SUMMARY, SCENARIO))
    requests, steps = (_read_table(folder, name) for name in TABLES)
    return Saved(requests, steps, summary, scenario)


def write(file: Path, content: Callable[[Path], object]) -> Path:
    """Let `content` write a file beside `file`, then move it there: a reader sees the old one or the new one."""
    partial = file.with_name(f".{os.getpid()}.{file.name}")  # keeps the suffix, from which formats are inferred
    try:
        _no_zero_byte(file)
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            content(partial)
            os.replace(partial, file)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable("file", file, error) from error
    return file


def write_json(file: Path, data: Any, indent: int | None = None) -> Path:
    """As JSON without NaN, which no standard reader takes."""
    encoded = json.dumps(data, indent=indent, allow_nan=False)
    return write(file, lambda partial: partial.write_text(encoded + "\n", "utf-8"))


def save_figure(made: Figure, file: str | Path) -> Path:
    """As a picture, of the kind that the name ends in; raises InputError for an unknown one or a place to write to."""
    file = Path(file)
    kinds = made.canvas.get_supported_filetypes()
    if file.suffix.lstrip(".").lower() not in kinds:
        raise InputError("picture", str(file), "a name that ends in ." + ", .".join(sorted(kinds)))
    try:
        return write(file, lambda partial: made.savefig(partial, dpi=130))
    except OSError as error:
        raise InputError(f"picture {file}", error.strerror or str(error), "a place that can be written to") from None


def plain(data: Any) -> Any:
    """The same data in JSON's own types: NaN becomes null, infinities their names."""
    if isinstance(data, Mapping):
        return {str(key): plain(value) for key, value in data.items()}
    if isinstance(data, np.ndarray | np.generic):
        return plain(data.tolist())
    if isinstance(data, list | tuple):
        return [plain(value) for value in data]
    if isinstance(data, float):
        return data if np.isfinite(data) else None if np.isnan(data) else str(data)
    return data if data is None or isinstance(data, bool | int | str) else str(data)


def check_folder(folder: Path) -> None:
    """Raises InputError unless a report could be saved there; changes nothing.

    A folder may hold a report, or an unfinished one; anything else was not written here.
    """
    try:
        _no_zero_byte(folder)
        _refuse_foreign(folder)
    except OSError as error:
        raise _unwritable("report folder", folder, error) from error


def _no_zero_byte(path: Path) -> None:
    if "\0" in str(path):
        raise OSError(errno.EINVAL, "a name with a zero byte")


def _unwritable(where: str, path: Path, error: OSError) -> InputError:
    return InputError(where, str(path), f"a place that can be written to ({error.strerror or error})")


def _refuse_foreign(folder: Path) -> None:
    place = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not os.access(place, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    if folder.exists() and not folder.is_dir():
        raise InputError("report folder", str(folder), "a folder, not a file")
    if folder.is_dir() and any(folder.iterdir()) and not any((folder / name).is_file() for name in (SUMMARY, SCENARIO)):
        raise InputError("report folder", str(folder), "a new or empty folder, or one that holds a report")


def _write_table(folder: Path, name: str, table: pd.DataFrame) -> None:
    parquet, csv = folder / f"{name}.parquet", folder / f"{name}.csv"
    if _has_parquet():
        write(parquet, lambda file: table.to_parquet(file, index=False, engine="pyarrow"))
        csv.unlink(missing_ok=True)
    else:
        write(csv, lambda file: _for_spreadsheets(table).to_csv(file, index=False))
        parquet.unlink(missing_ok=True)


def _read_table(folder: Path, name: str) -> pd.DataFrame:
    if (folder / f"{name}.parquet").is_file():
        return pd.read_parquet(folder / f"{name}.parquet", engine="pyarrow")
    file = folder / f"{name}.csv"
    unquote = dict.fromkeys(TEXTS, lambda cell: cell[1:] if cell.startswith("'") else cell)
    missing = {str(column): [""] for column in pd.read_csv(file, nrows=0) if column not in TEXTS}  # "NA" is a name too
    table = pd.read_csv(file, converters=unquote, na_values=missing, keep_default_na=False)
    return table.astype({column: "category" for column in TEXTS if column in table})


def _for_spreadsheets(table: pd.DataFrame) -> pd.DataFrame:
    """Texts that a spreadsheet would run as a formula begin with a quote instead."""
    safe = table.copy()
    for name in [column for column in TEXTS if column in table]:
        safe[name] = table[name].cat.rename_categories(lambda text: f"'{text}" if text.startswith(FORMULA) else text)
    return safe


def _has_parquet() -> bool:
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        return False
    return True
