"""Requests out of text: what a client of a live deployment hands to the gateway. No HTTP and no tensor is here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rakka_sim.core.naming import ContentNames
from rakka_sim.engines.torch.tokenizer import Messages, Tokenizer
from rakka_sim.values import GREEDY_TO_THE_END, UNKNOWN_LENGTH, ExecuteBatch, Sampling


class Prompts:
    """Makes the requests to one deployment, and names their contents so that what they share is found in its caches."""

    def __init__(self, deployment: str, tokenizer: Tokenizer, names: ContentNames) -> None:
        self._deployment = deployment
        self._tokenizer = tokenizer
        self._names = names

    def text(self, request_id: int, text: str, sampling: Sampling = GREEDY_TO_THE_END) -> ExecuteBatch:
        """To go on from a text."""
        return self.tokens(request_id, self._tokenizer.encode(text), sampling)

    def chat(self, request_id: int, messages: Messages, sampling: Sampling = GREEDY_TO_THE_END) -> ExecuteBatch:
        """To answer a conversation; raises BadRequest for one that the model's template refuses."""
        batch = self.tokens(request_id, self._tokenizer.chat(messages), sampling)
        return replace(batch, messages=tuple(messages))

    def tokens(self, request_id: int, ids: Sequence[int], sampling: Sampling = GREEDY_TO_THE_END) -> ExecuteBatch:
        """To go on from token ids. The model's own ends of sequence stop it, besides `sampling.stop_ids`."""
        stops = tuple(dict.fromkeys((*sampling.stop_ids, *self._tokenizer.eos_ids)))
        return ExecuteBatch(
            request_id,
            self._deployment,
            len(ids),
            UNKNOWN_LENGTH,
            self._names.name(ids),
            replace(sampling, stop_ids=stops),
            token_ids=tuple(ids),
        )

    def heard(self, batch: ExecuteBatch, tokens: Sequence[int]) -> None:
        """What a request came to: later prompts that begin so share it."""
        self._names.remember(batch.content, (*batch.token_ids, *tokens))
