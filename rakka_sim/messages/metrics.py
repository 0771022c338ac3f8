"""What the metrics actor receives beside `RequestEnded`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rakka_sim.values import value

if TYPE_CHECKING:
    from rakka_sim.runtime.api import Ref


@value
class GetMetrics:
    """Answered by a dict: deployment -> `Counters`."""

    reply_to: Ref[Any] | None = None
