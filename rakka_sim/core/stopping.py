"""Text on its way to a client who named strings that end it: what may be said, and when it is over. No tokens here."""

from __future__ import annotations

from collections.abc import Sequence


class StoppingText:
    """Gives out text up to the first of `stops`, which is not part of it.

    What may be the beginning of a stop waits until it is known to be one or not.
    """

    __slots__ = ("_pending", "_stops", "over")

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._pending = ""
        self.over = False

    def add(self, text: str) -> bool:
        """More text has come; whether a stop has."""
        if not self.over:
            self._pending += text
            found = [at for stop in self._stops if (at := self._pending.find(stop)) >= 0]
            if found:
                self._pending = self._pending[: min(found)]
                self.over = True
        return self.over

    def take(self, final: bool = False) -> str:
        """What may be said by now; `final`: nothing more will come."""
        held = 0 if final or self.over else self._held()
        cut = len(self._pending) - held
        said, self._pending = self._pending[:cut], self._pending[cut:]
        return said

    def _held(self) -> int:
        """The longest end of the text that begins a stop."""
        longest = max(map(len, self._stops), default=1) - 1
        for length in range(min(longest, len(self._pending)), 0, -1):
            if any(stop.startswith(self._pending[-length:]) for stop in self._stops):
                return length
        return 0
