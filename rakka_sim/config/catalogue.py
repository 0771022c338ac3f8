"""Looking a name up in a catalogue, and what to say to one that it lacks; what the catalogues list is not here."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Generic, Protocol, TypeVar

from rakka_sim.errors import UnknownName


class Named(Protocol):
    """A row of a catalogue."""

    @property
    def name(self) -> str: ...


R = TypeVar("R", bound=Named)


class Catalogue(Generic[R]):
    """Rows by name, spelt in any way that comes to the same `key`; `aliases` are keys of other names that they have."""

    def __init__(self, what: str, rows: Iterable[R], key: Callable[[str], str], aliases: Mapping[str, str]) -> None:
        self._what, self._key = what, key
        self._rows = {key(row.name): row for row in rows}
        self._rows.update({alias: self._rows[key(name)] for alias, name in aliases.items()})

    def find(self, name: str) -> R:
        """The row of that name; raises UnknownName."""
        key = self._key(name)
        row = self._rows.get(key)
        if row is None:
            raise UnknownName(self._what, name, suggest(key, {key: row.name for key, row in self._rows.items()}))
        return row


def suggest(key: str, names: Mapping[str, str]) -> str:
    """What a catalogue says to a key that it lacks: the names nearest to it, then all there are."""
    near = list(dict.fromkeys(names[match] for match in difflib.get_close_matches(key, names, n=3)))
    every = ", ".join(dict.fromkeys(names.values()))
    return f"{every} (did you mean {' or '.join(near)}?)" if near else every
