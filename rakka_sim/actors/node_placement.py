"""The placement actor of one node: its book, by messages. What is best is `core.placing`; no other node's GPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rakka_sim.core.placing import NodeBook
from rakka_sim.errors import RakkaError
from rakka_sim.messages import Abort, Commit, Committed, GetQuote, ReservationOver, Reserve, Reserved, Vacate
from rakka_sim.runtime.api import Actor, Context, Ref, Timer

if TYPE_CHECKING:
    from rakka_sim.core.placing import NodeFacts, Tables

# A reservation that nobody commits is given back after this. Longer than whoever reserved waits for all his answers.
RESERVATION_S = 30.0


class PlacementActor(Actor):
    """Quotes, reserves, commits, vacates. `life` counts how often the node has come back."""

    def __init__(self, facts: NodeFacts, tables: Tables, life: int = 0) -> None:
        self._book = NodeBook(facts, tables, life)
        self._timers: dict[str, Timer] = {}

    def receive(self, ctx: Context, msg: Any) -> None:
        match msg:
            case GetQuote(demand, count, pick, limit, reply_to):
                try:
                    _answer(ctx, reply_to, self._book.quote(demand, count, pick, limit))
                except RakkaError as error:
                    _answer(ctx, reply_to, error)
            case Reserve(ticket, epoch, claim, reply_to):
                try:
                    self._book.reserve(ticket, epoch, claim)
                except RakkaError as error:
                    _answer(ctx, reply_to, error)
                else:
                    self._timers[ticket] = ctx.after(RESERVATION_S, ReservationOver(ticket))
                    _answer(ctx, reply_to, Reserved(ticket))
            case Commit(ticket, reply_to):
                self._in_time(ticket)
                try:
                    self._book.commit(ticket)
                    _answer(ctx, reply_to, Committed(ticket))
                except RakkaError as error:
                    _answer(ctx, reply_to, error)
            case Abort(ticket) | ReservationOver(ticket):
                self._in_time(ticket)
                self._book.abort(ticket)
            case Vacate(deployment, replicas):
                self._book.release(deployment, replicas)
            case _:
                ctx.unhandled(msg)

    def _in_time(self, ticket: str) -> None:
        timer = self._timers.pop(ticket, None)
        if timer is not None:
            timer.cancel()


def _answer(ctx: Context, reply_to: Ref[Any] | None, answer: object) -> None:
    if reply_to is not None:
        ctx.tell(reply_to, answer)
