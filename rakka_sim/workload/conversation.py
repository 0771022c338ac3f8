"""How many turns a conversation has, and one conversation's state; no arrival times may be here."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rakka_sim.config.workload import FixedTurns, GeometricTurns, UniformTurns
from rakka_sim.values import Content
from rakka_sim.workload.arrivals import CHUNK


def turn_counts(turns: FixedTurns | UniformTurns | GeometricTurns, rng: np.random.Generator) -> Iterator[int]:
    """Turns of one conversation after the other, without end."""
    while True:
        if isinstance(turns, FixedTurns):
            drawn = np.full(CHUNK, turns.turns)
        elif isinstance(turns, UniformTurns):
            drawn = rng.integers(turns.min, turns.max, size=CHUNK, endpoint=True)
        else:
            drawn = np.minimum(rng.geometric(1.0 / turns.mean, CHUNK), turns.max)
        yield from drawn.tolist()


class Conversation:
    """What was said so far and what is still to be said.

    All that its user will say is drawn when it begins, so that it is the same whatever the system makes of it.
    `turns` holds (new prompt tokens, output tokens, seconds of thought before the turn: the first one's is not used).
    """

    __slots__ = ("_prefix", "_said", "_source", "_turn", "_turns", "number")

    def __init__(self, number: int, source: int, prefix: Content, turns: list[tuple[int, int, float]]) -> None:
        self.number = number
        self._source = source
        self._prefix = prefix
        self._turns = turns
        self._turn = 0
        self._said = 0

    @property
    def pause(self) -> float | None:
        """Seconds of thought before the next turn; None if there is no next turn."""
        return self._turns[self._turn][2] if self._turn < len(self._turns) else None

    @property
    def needs(self) -> int:
        """Tokens of context that the next turn would come to, its output included."""
        new, output, _ = self._turns[self._turn]
        return self._held() + new + output

    def ask(self) -> tuple[int, int, Content]:
        """The next turn: prompt tokens, output tokens, content."""
        new, output, _ = self._turns[self._turn]
        self._turn += 1
        self._said += new
        return self._held(), output, (*self._prefix, (self._source, self._said))

    def hear(self, output_tokens: int) -> None:
        """The turn has ended with that many tokens: they are part of all prompts to come."""
        self._said += output_tokens

    def _held(self) -> int:
        return self._said + (self._prefix[0][1] if self._prefix else 0)
