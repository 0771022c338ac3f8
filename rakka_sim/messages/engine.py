"""What an engine core receives: requests, and the answers of its worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rakka_sim.values import ExecuteBatch, StepOutcome, value

if TYPE_CHECKING:
    from rakka_sim.runtime.api import Ref


@value
class AddRequest:
    """Serve this; `Scheduled`, `TokenChunk`s, then `Finished` or `Rejected` go to `reply_to`.

    `generated` tokens were delivered by a former engine: they are prompt now and are not delivered again. `tokens` are
    their ids, where they are real.
    """

    batch: ExecuteBatch
    reply_to: Ref[Any]
    generated: int = 0
    tokens: tuple[int, ...] = ()


@value
class Withdrawn:
    """A request that was routed here has ended before it could be sent: it counts as received."""

    request_id: int


@value
class Cancel:
    """Give this request up; its slot and blocks are free at the next step boundary."""

    request_id: int


@value
class Stepped:
    """The worker's answer to `Execute`."""

    outcome: StepOutcome


@value
class StepFailed:
    """The worker's other answer to `Execute`: of its plan, only the steps that had ended before count.

    `rebuilding`: the context is being built anew, its KV cache is gone, and `WorkerReady` will follow.
    """

    error: Exception
    rebuilding: bool


@value
class GetLoad:
    """Answered by a `Load`; without `reply_to` the coordinator is told, by a `ReportLoad`."""

    reply_to: Ref[Any] | None = None


@value
class Stay:
    """The drain is off: take what comes. Answered by `Stays`; an engine that has stopped by then does not answer."""

    reply_to: Ref[Any]


@value
class Drain:
    """Finish what you have, take nothing new, then tell `reply_to` `Drained` and stop.

    `routed` requests have been sent this way in all: those of them that have not arrived yet are not new.
    """

    reply_to: Ref[Any]
    routed: int = 0
