"""What the user or the machine brings cannot be used: files, names, datasets, devices. No outcome of a request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rakka_sim.errors.base import RakkaError

MOST_SHOWN = 200


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."


@dataclass(eq=False)
class InputError(RakkaError):
    """Input that cannot be used: where it stands, what stands there, and what may stand there."""

    where: str
    value: object
    allowed: str

    def __str__(self) -> str:
        return f"{self.where}: {_shown(self.value)} is not allowed; allowed: {self.allowed}"


@dataclass(eq=False)
class ScenarioError(InputError):
    """A scenario that cannot be run; `problems` lists every fault found in it, the first one also in the fields."""

    problems: Sequence[InputError] = ()

    def __str__(self) -> str:
        rest = "".join(f"\n  {problem}" for problem in list(self.problems)[1:])
        return InputError.__str__(self) + rest


@dataclass(eq=False)
class TraceError(InputError):
    """A row of a trace that cannot be read."""

    file: str
    line: int
    field: str

    def __init__(self, file: str, line: int, field: str, value: object, allowed: str) -> None:
        self.file, self.line, self.field = file, line, field
        self.where, self.value, self.allowed = f"{file}, line {line}, field {field}", value, allowed


@dataclass(eq=False)
class UnknownName(InputError):
    """A name that no catalogue lists; `allowed` holds the names there are."""


@dataclass(eq=False)
class DatasetMissing(InputError):
    """A dataset that is not on this machine; the message says how to get it."""

    dataset: str
    searched: Sequence[str]

    def __init__(self, dataset: str, searched: Sequence[str]) -> None:
        self.dataset, self.searched = dataset, searched
        self.where, self.value, self.allowed = "dataset", dataset, "a dataset on this machine"

    def __str__(self) -> str:
        places = ", ".join(self.searched)
        return f"dataset {self.dataset!r} is not in {places}; get it with: rakka-sim fetch {self.dataset}"


@dataclass(eq=False)
class FetchFailed(RakkaError):
    """A dataset that could not be downloaded whole and unchanged; nothing of it was kept.

    `reason`: bad_url, unreachable (no connection, or it broke), status, too_large, truncated, checksum, cache (disk).
    """

    dataset: str
    url: str
    reason: str
    detail: str

    def __str__(self) -> str:
        return f"dataset {self.dataset!r} could not be fetched from {self.url}: {self.reason} ({self.detail})"


@dataclass(eq=False)
class NoDevice(RakkaError):
    """No GPU on this machine that anything here can see: `asked` says what was asked, and what each answered."""

    asked: Sequence[tuple[str, str]]

    def __str__(self) -> str:
        answers = "; ".join(f"{library}: {answer}" for library, answer in self.asked)
        return f"no GPU found on this machine ({answers})"
