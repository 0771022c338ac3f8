"""What every trace reader yields; no format may be known here."""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """One request: its tokens, the hashes of its prompt's blocks where known, and seconds since the first row."""

    prompt: int
    output: int
    blocks: tuple[int, ...] = ()
    at: float = 0.0


class Tally:
    """Counts rows that are no requests."""

    __slots__ = ("skipped",)

    def __init__(self) -> None:
        self.skipped = 0
