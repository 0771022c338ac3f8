"""What the placement of one node receives and answers: quote, reserve, commit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rakka_sim.values import value

if TYPE_CHECKING:
    from rakka_sim.core.placing.sets import Pick
    from rakka_sim.core.placing.terms import Claim, Demand
    from rakka_sim.runtime.api import Ref


@value
class GetQuote:
    """What would you give for up to `count` replicas? Answered by a `Quote`."""

    demand: Demand
    count: int
    pick: Pick
    limit: int | None = None
    reply_to: Ref[Any] | None = None


@value
class Reserve:
    """Take this, if you are still in the state `epoch`; answered by `Reserved` or an error.

    What is not committed in time is given back.
    """

    ticket: str
    epoch: int
    claim: Claim
    reply_to: Ref[Any] | None = None


@value
class Reserved:
    """The node keeps it until `Commit` or `Abort`."""

    ticket: str


@value
class Commit:
    """What was reserved has come to stay; answered by `Committed` or `NodeChanged`."""

    ticket: str
    reply_to: Ref[Any] | None = None


@value
class Committed:
    """The answer to `Commit`."""

    ticket: str


@value
class Abort:
    """Give back what was reserved, if it was."""

    ticket: str


@value
class Vacate:
    """Free a deployment's replicas on this node: those named, or all."""

    deployment: str
    replicas: tuple[int, ...] | None = None


@value
class ReservationOver:
    """The node's own timer: nobody has committed."""

    ticket: str
