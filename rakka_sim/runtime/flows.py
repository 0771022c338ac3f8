"""Flows: coroutines that await asks, driven by their answers. No clock, no asyncio and no SimPy may be in it."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from rakka_sim.errors import InputError
from rakka_sim.runtime.asks import Question

if TYPE_CHECKING:
    from rakka_sim.runtime.cell import Cell


class Flow:
    """One coroutine of one incarnation; its error answers the question that was in hand when it started."""

    __slots__ = ("_cell", "_in_hand", "_steps")

    def __init__(self, cell: Cell, steps: Coroutine[Any, Any, None]) -> None:
        self._cell = cell
        self._in_hand = cell.in_hand
        self._steps = steps

    def start(self) -> None:
        """Run to the first await, inside the handler that started it: an error is that handler's."""
        self._cell.flows[self] = None
        self._advance()

    def resume(self) -> None:
        """The answer has come; an error fails the actor."""
        cell = self._cell
        cell.in_hand = self._in_hand
        try:
            self._advance()
        except Exception as error:
            cell.failed(error)
        finally:
            cell.in_hand = None

    def close(self) -> None:
        """End it where it stands."""
        self._cell.flows.pop(self, None)
        self._steps.close()

    def _advance(self) -> None:
        try:
            awaited = self._steps.send(None)
            while not isinstance(awaited, Question) or awaited.waiter is not None:
                wrong = InputError(f"flow of {self._cell.ref.path}", awaited, "to await ctx.ask(...), and that once")
                awaited = self._steps.throw(wrong)
        except StopIteration:
            self._cell.flows.pop(self, None)
        except BaseException:
            self._cell.flows.pop(self, None)
            raise
        else:
            awaited.waiter = self.resume
