"""Makes the requests of one source, one after the other: ids, lengths, content, sampling. No times may be here."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

from rakka_sim.config.workload import SamplingConfig, WorkloadConfig
from rakka_sim.errors import InvariantBroken
from rakka_sim.values import Content, ExecuteBatch, Sampling
from rakka_sim.workload.content import BLOCK, HASHED_TOKENS, PREFIX, PRIVATE, SESSION, hashed_content, source_number
from rakka_sim.workload.conversation import Conversation
from rakka_sim.workload.lengths import Body


class Requests:
    """The n-th request made takes the n-th body, whatever the arrivals are."""

    __slots__ = (
        "_bodies",
        "_body",
        "_conversations",
        "_first",
        "_groups",
        "_hashed",
        "_model",
        "_most",
        "_prefix_tokens",
        "_sampling",
        "_stride",
        "_timeout_s",
        "made",
    )

    def __init__(
        self, config: WorkloadConfig, *, model: str, bodies: Iterator[Body], groups: Iterator[int] | None
    ) -> None:
        self.made = 0
        self._model = model
        self._most = config.requests
        self._timeout_s = config.timeout_s
        self._sampling = _sampling_for(config.sampling)
        self._prefix_tokens = config.prefix.tokens if config.prefix else 0
        self._groups = groups
        self._hashed = (config.trace and config.trace.hashed_tokens) or HASHED_TOKENS
        self._bodies = bodies
        # One body ahead: whether there is a next request must be known before anybody asks for it.
        self._body = next(bodies, None)
        self._conversations = 0
        self._first, self._stride = 1, 1

    def number(self, first_id: int, stride: int) -> None:
        """Number requests, conversations and contents ``first_id + n * stride`` from here on."""
        self._first, self._stride = first_id, stride

    @property
    def more(self) -> bool:
        """Whether another request can be made."""
        return self._body is not None and self.made != self._most

    def single(self) -> ExecuteBatch:
        """The next request, one that stands alone."""
        prompt, output, blocks = self._take()
        private = source_number(PRIVATE, self._nth(self.made))
        content: Content
        if blocks:
            shared = [source_number(BLOCK, self._nth(block)) for block in blocks]
            content = hashed_content(shared, prompt, private, self._hashed)
        elif self._groups is not None:
            content = (*self._prefix(), (private, prompt))
            prompt += self._prefix_tokens
        else:
            content = ((private, prompt),)
        return self._request(prompt, output, content, 0)

    def conversation(self, turns: int, pauses: Iterator[float]) -> Conversation:
        """The next conversation, with all that its user will say."""
        said = []
        for _ in range(turns):
            prompt, output, _ = self._take()
            said.append((prompt, output, next(pauses)))
        number = self._nth(self._conversations)
        self._conversations += 1
        return Conversation(number, source_number(SESSION, number), self._prefix(), said)

    def turn(self, conversation: Conversation) -> ExecuteBatch:
        """The conversation's next turn as the next request."""
        prompt, output, content = conversation.ask()
        return self._request(prompt, output, content, conversation.number)

    def _nth(self, n: int) -> int:
        return self._first + n * self._stride

    def _take(self) -> Body:
        body = self._body
        if body is None:
            raise InvariantBroken("workload", "a request was asked for after the last one")
        self._body = next(self._bodies, None)
        return body

    def _prefix(self) -> Content:
        if self._groups is None:
            return ()
        return ((source_number(PREFIX, self._nth(next(self._groups))), self._prefix_tokens),)

    def _request(self, prompt: int, output: int, content: Content, session: int) -> ExecuteBatch:
        made = ExecuteBatch(
            self._nth(self.made),
            self._model,
            prompt,
            output,
            content,
            self._sampling(output),
            stream=False,  # nobody reads the tokens one by one: their times are in the log
            session=session,
            timeout_s=self._timeout_s,
        )
        self.made += 1
        return made


def _sampling_for(config: SamplingConfig) -> Callable[[int], Sampling]:
    """From a request's output length to its sampling; one shared value per `max_tokens`."""

    @functools.cache
    def limited(max_tokens: int | None) -> Sampling:
        return Sampling(
            max_tokens,
            config.temperature,
            config.top_p,
            config.top_k,
            presence_penalty=config.presence_penalty,
            frequency_penalty=config.frequency_penalty,
            repetition_penalty=config.repetition_penalty,
        )

    if config.max_tokens == "output":
        return limited
    shared = limited(None if config.max_tokens == "none" else config.max_tokens)
    return lambda _: shared
