"""Metrics: what each deployment has done so far, as counters; latencies are the event log's business."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from rakka_sim.messages import GetMetrics, RequestEnded
from rakka_sim.runtime.api import Actor, Context
from rakka_sim.values import FinishReason

SUCCEEDED = (FinishReason.STOP, FinishReason.LENGTH, FinishReason.TOOL_CALLS)


@dataclass(slots=True)
class Counters:
    """One deployment's counters; `failed` is by outcome."""

    succeeded: int = 0
    cancelled: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0


class Metrics(Actor):
    """Adds up the terminal word of every request."""

    def __init__(self) -> None:
        self._counters: dict[str, Counters] = {}

    def receive(self, ctx: Context, msg: Any) -> None:
        match msg:
            case RequestEnded():
                self._count(msg)
            case GetMetrics(reply_to):
                if reply_to is not None:
                    ctx.tell(reply_to, deepcopy(self._counters))  # what was answered does not go on counting
            case _:
                ctx.unhandled(msg)

    def _count(self, msg: RequestEnded) -> None:
        counters = self._counters.get(msg.deployment)
        if counters is None:
            counters = self._counters[msg.deployment] = Counters()
        if msg.outcome in SUCCEEDED:
            counters.succeeded += 1
        elif msg.outcome == FinishReason.CANCELLED:
            counters.cancelled += 1
        else:
            counters.failed[msg.outcome] = counters.failed.get(msg.outcome, 0) + 1
        counters.input_tokens += msg.usage.input
        counters.output_tokens += msg.usage.output
        counters.cached_tokens += msg.usage.cached
