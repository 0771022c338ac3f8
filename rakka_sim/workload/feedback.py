"""Arrivals that wait for earlier requests to end: closed loops, and the turns of conversations."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush
from itertools import count

from rakka_sim.config.workload import WorkloadConfig
from rakka_sim.errors import InvariantBroken
from rakka_sim.values import ExecuteBatch
from rakka_sim.workload.conversation import Conversation
from rakka_sim.workload.loop import Loop
from rakka_sim.workload.readers.trace import TraceFile
from rakka_sim.workload.requests import Requests


class Feedback(Loop):
    """Something starts at each of `starts`: a single request or, with `turns`, a conversation.

    With `again` (a closed loop) the user whose request or conversation has ended thinks and starts another one.
    Thoughts are drawn when a request is made, in order of ids: the order of ends must not shift them.
    """

    __slots__ = ("_again", "_max_context", "_order", "_pauses", "_start", "_starts", "_turns", "_under_way", "_wanted")

    def __init__(
        self,
        config: WorkloadConfig,
        requests: Requests,
        trace: TraceFile | None,
        total: int | None,
        *,
        starts: Iterator[float],
        again: Iterator[float] | None,
        turns: Iterator[int] | None,
        pauses: Iterator[float],
    ) -> None:
        super().__init__(config, requests, trace, total)
        self._again = again
        self._turns = turns
        self._pauses = pauses
        self._max_context = config.sessions.max_context_tokens if config.sessions else None
        # What is scheduled: (time, order, the conversation to go on with or None to start afresh).
        self._wanted: list[tuple[float, int, Conversation | None]] = []
        self._order = count()
        # What follows the end of a request under way: its conversation, and the thought of a user who starts again.
        self._under_way: dict[int, tuple[Conversation | None, float | None]] = {}
        self._starts = starts
        self._start = self._next_start()

    @property
    def exhausted(self) -> bool:
        """Whether no request is scheduled and no end can schedule one."""
        return not self._requests.more or (self._start is None and not self._wanted and not self._under_way)

    def peek(self) -> float | None:
        """When the next request arrives, as far as the ends so far tell."""
        if not self._requests.more:
            return None
        if self._wanted and (self._start is None or self._wanted[0][0] < self._start):
            return self._wanted[0][0]
        return self._start

    def pop(self) -> ExecuteBatch:
        """The next request."""
        at = self.peek()
        if at is None:
            raise InvariantBroken("workload", "pop, and no arrival is scheduled")
        conversation = None
        if at == self._start:
            self._start = self._next_start()
        else:
            _, _, conversation = heappop(self._wanted)
        if conversation is None and self._turns is not None:
            conversation = self._requests.conversation(next(self._turns), self._pauses)
        request = self._requests.turn(conversation) if conversation else self._requests.single()
        thought = next(self._again) if self._again is not None else None
        if thought is not None or (conversation is not None and conversation.pause is not None):
            self._under_way[request.request_id] = conversation, thought
        return request

    def ended(self, request_id: int, now: float, output_tokens: int) -> None:
        """The conversation goes on after a pause, or the user starts another one after a thought."""
        if request_id not in self._under_way:
            return
        conversation, thought = self._under_way.pop(request_id)
        if conversation is not None:
            conversation.hear(output_tokens)
            pause = conversation.pause
            if pause is not None and (self._max_context is None or conversation.needs <= self._max_context):
                self._want(now + pause, conversation)
                return
        if thought is not None:
            self._want(now + thought, None)

    def _want(self, at: float, conversation: Conversation | None) -> None:
        if at < self._until:
            heappush(self._wanted, (at, next(self._order), conversation))

    def _next_start(self) -> float | None:
        at = next(self._starts, None)
        return at if at is not None and at < self._until else None
