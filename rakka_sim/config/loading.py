"""From a path, a dict or a scenario, and overrides, to a scenario; no table may be defined here."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rakka_sim.config.base import parse
from rakka_sim.config.scenario import Scenario
from rakka_sim.errors import InputError, ScenarioError

MAX_FILE_BYTES = 4 << 20


def load_scenario(
    given: str | Path | Mapping[str, Any] | Scenario, overrides: Mapping[str, Any] | None = None
) -> tuple[Scenario, Path]:
    """The scenario and the folder that its relative paths start from; raises ScenarioError.

    `overrides` are dotted keys: ``{"deployment.0.replicas": 4}``, or by name, ``"deployment.llama-8b.replicas"``.
    """
    if isinstance(given, Scenario):
        if not overrides:
            return given, Path.cwd()
        file, base, data = "scenario", Path.cwd(), given.model_dump(mode="json", exclude_unset=True)
    elif isinstance(given, Mapping):
        file, base, data = "scenario", Path.cwd(), _copy(given)
    elif not isinstance(given, str | Path):
        raise _fault("scenario", given, "the path of a TOML file, a mapping, or a Scenario")
    else:
        path = Path(given)
        data = read_toml(path)
        file, base = str(path), path.resolve().parent
    if not isinstance(overrides or {}, Mapping):
        raise _fault("overrides", overrides, "a mapping of dotted keys to values")
    for key, value in (overrides or {}).items():
        _override(data, key, value, file)
    return parse(Scenario, data, file), base


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as plain data; raises ScenarioError with the place of the fault."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise _fault(str(path), "(nothing)", "an existing file") from None
    except (OSError, ValueError) as error:  # the latter for a name with a zero byte
        raise _fault(str(path), getattr(error, "strerror", None) or str(error), "a readable TOML file") from None
    if len(raw) > MAX_FILE_BYTES:
        raise _fault(str(path), f"{len(raw)} bytes", f"at most {MAX_FILE_BYTES} bytes")
    try:
        return tomllib.loads(raw.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise _fault(str(path), str(error), "a TOML document in UTF-8") from None


def parse_assignment(text: str) -> tuple[str, Any]:
    """``key=value`` of a command line: the value as TOML where it is TOML, else as text."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise _fault("--set", text, "key=value, such as deployment.0.replicas=4")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value


def _fault(where: str, value: object, allowed: str) -> ScenarioError:
    problem = InputError(where, value, allowed)
    return ScenarioError(where, value, allowed, [problem])


def _copy(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {key: _copy(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_copy(value) for value in data]
    return data


def _override(data: dict[str, Any], key: str, value: Any, file: str) -> None:
    where = f"{file}: override {key}"
    if not isinstance(key, str):
        raise _fault(where, key, "a dotted key, as text")
    here: Any = data
    *path, last = key.split(".")
    for part in path:
        here = _step(here, part, where)
    if isinstance(here, list):
        if last.isdecimal() and int(last) < len(here):
            here[int(last)] = value
            return
        raise _fault(where, last, f"an index below {len(here)}")
    if not isinstance(here, dict):
        raise _fault(where, last, "a key of a table")
    here[last] = value


def _step(here: Any, part: str, where: str) -> Any:
    """One key down, making tables that a file may leave out; a list is entered by index or by an entry's name."""
    if isinstance(here, list):
        named = {item.get("name"): item for item in here if isinstance(item, dict)}
        if part in named:
            return named[part]
        if part.isdecimal() and int(part) < len(here):
            return here[int(part)]
        raise _fault(where, part, f"an index below {len(here)} or one of: {', '.join(str(name) for name in named)}")
    if not isinstance(here, dict):
        raise _fault(where, part, "a key of a table")
    return here.setdefault(part, {})
