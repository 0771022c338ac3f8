"""The rows of a plan as whoever computes it sees them, written out only when looked at; nothing is planned here."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Rows
from typing import Any

from rakka_sim.core.sequence import Sequence
from rakka_sim.values import StepRow, value


class LazyRows(Rows[StepRow]):
    """Rows of sequences that decode, written out when somebody looks; right until their plan has been committed."""

    __slots__ = ("_beat", "_sequences")

    def __init__(self, sequences: list[Sequence], beat: int) -> None:
        self._sequences = sequences
        self._beat = beat

    def written(self) -> DecodeRows:
        """The same, to be kept."""
        return DecodeRows(
            [seq.request_id for seq in self._sequences], [seq.lead + self._beat for seq in self._sequences]
        )

    def __len__(self) -> int:
        return len(self._sequences)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return self.written()[at]
        seq = self._sequences[at]
        return StepRow(seq.request_id, 1, seq.lead + self._beat, True)

    def __reduce__(self) -> tuple[Any, ...]:
        rows = self.written()
        return DecodeRows, (rows.request_ids, rows.contexts)


@value
class DecodeRows(Rows[StepRow]):
    """The rows of a run: each computes one token and samples one. Written out when somebody looks at them."""

    request_ids: list[int]
    contexts: list[int]

    def __len__(self) -> int:
        return len(self.request_ids)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return [self[place] for place in range(*at.indices(len(self)))]
        return StepRow(self.request_ids[at], 1, self.contexts[at], True)


@value
class MixedRows(Rows[StepRow]):
    """The rows of a step: first those that decode and are written out when somebody looks, then the others."""

    decoding: Rows[StepRow]
    others: list[StepRow]

    def __len__(self) -> int:
        return len(self.decoding) + len(self.others)

    def __getitem__(self, at: Any) -> Any:
        return [*self.decoding, *self.others][at]

    def __iter__(self) -> Iterator[StepRow]:
        yield from self.decoding
        yield from self.others
