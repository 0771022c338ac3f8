"""The real tokens of one engine's requests: what a runner must be told, and what it said. No scheduling, no tensor.

A batcher counts tokens; a runner with tensors needs the ids, and the blocks of each sequence. It remembers both, so a
`StepFeed` holds only what has changed. Whoever loses the runner calls `forget`, and everything is told again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

from rakka_sim.core.kv import KvCache
from rakka_sim.core.stopping import StoppingText
from rakka_sim.errors import BadRequest
from rakka_sim.values import ExecuteBatch, FedSequence, FinishReason, Sampling, StepFeed, StepOutcome, StepPlan


class Detokenizer(Protocol):
    """Text of one sequence, as its tokens come."""

    def add(self, tokens: list[int], final: bool = False) -> str:
        """What these tokens add to the text; a character waits until all of its tokens are there, or none will come."""
        ...


class _Told:
    """One request: its tokens, and how much of it the runner knows."""

    __slots__ = ("blocks", "known", "prompt", "sampling", "seed", "spoken", "stopping", "text", "tokens")

    def __init__(
        self, tokens: tuple[int, ...], prompt: int, sampling: Sampling, seed: int, text: Detokenizer | None
    ) -> None:
        self.tokens = list(tokens)
        self.prompt = prompt
        self.spoken = len(tokens)  # so many of them need not be told to the client
        self.sampling = sampling
        self.seed = seed
        self.text = text
        self.stopping = StoppingText(sampling.stop) if text is not None and sampling.stop else None
        self.known = False
        self.blocks = 0  # entries of its block table that the runner has right


class TokenFeed:
    """The tokens of every request in a batcher, and what its runner knows of them."""

    def __init__(self, kv: KvCache, vocab: int, detokenizer: Callable[[], Detokenizer] | None = None) -> None:
        self._kv = kv
        self._vocab = vocab
        self._detokenizer = detokenizer
        self._told: dict[int, _Told] = {}
        self._gone: list[int] = []

    # --- requests come and go -----------------------------------------------------------------------------------

    def check(self, batch: ExecuteBatch) -> None:
        """Raise BadRequest for one that no real model can serve."""
        ids, sampling = batch.token_ids, batch.sampling
        if len(ids) != batch.prompt_tokens:
            raise BadRequest(f"the prompt has {batch.prompt_tokens} tokens, and {len(ids)} token ids are given")
        if ids and not 0 <= min(ids) <= max(ids) < self._vocab:
            raise BadRequest(f"token ids are 0 to {self._vocab - 1}; the prompt has {min(ids)} to {max(ids)}")
        if sampling.stop and self._detokenizer is None:
            raise BadRequest("stop strings need a tokenizer: give stop_ids")
        if not (abs(sampling.presence_penalty) <= 2.0 and abs(sampling.frequency_penalty) <= 2.0):
            raise BadRequest("presence_penalty and frequency_penalty are -2 to 2")
        if not 0.0 < sampling.repetition_penalty < math.inf:
            raise BadRequest("repetition_penalty is above 0; 1 is none")
        if not (sampling.temperature >= 0.0 and 0.0 < sampling.top_p <= 1.0 and sampling.top_k >= 0):
            raise BadRequest("temperature is 0 or more, top_p above 0 and at most 1, top_k 0 (all) or more")

    def add(self, batch: ExecuteBatch, generated: tuple[int, ...]) -> None:
        """A request has entered the batcher, with what a former engine generated."""
        seed = batch.request_id if batch.sampling.seed is None else batch.sampling.seed
        text = self._detokenizer() if self._detokenizer is not None else None
        told = _Told((*batch.token_ids, *generated), len(batch.token_ids), batch.sampling, seed, text)
        if text is not None and generated:
            said = text.add(list(generated))
            if told.stopping is not None:
                told.stopping.add(said)
                told.stopping.take()
        self._told[batch.request_id] = told

    def drop(self, request_id: int) -> None:
        """A request has left the batcher."""
        if self._told.pop(request_id).known:
            self._gone.append(request_id)

    def unseat(self, request_id: int) -> None:
        """A request has lost its blocks."""
        self._told[request_id].blocks = 0

    def forget(self) -> None:
        """The runner knows nothing any more, or nothing that can be trusted; every block is lost."""
        for told in self._told.values():
            told.known, told.blocks = False, 0

    # --- a plan and its outcome ---------------------------------------------------------------------------------

    def inputs(self, plan: StepPlan, promised: dict[int, list[int]]) -> StepFeed:
        """What the runner must know to compute `plan`; `promised` are the blocks that a run will take. It is told."""
        feed = self.inputs_ahead(plan, promised)
        self.note(feed)
        return feed

    def inputs_ahead(self, plan: StepPlan, promised: dict[int, list[int]]) -> StepFeed:
        """The same for a plan that is to follow the one in flight; `promised` are the blocks that both will take.

        It is told only if that plan comes to pass: then it is to be noted.
        """
        new: list[FedSequence] = []
        blocks: dict[int, tuple[int, tuple[int, ...]]] = {}
        for row in plan.rows:
            request_id = row.request_id
            told, table = self._told[request_id], self._kv.table(request_id)
            if not told.known:
                new.append(FedSequence(request_id, tuple(told.tokens), told.sampling, told.seed, told.prompt))
            more = promised.get(request_id, ())
            if more or told.blocks < len(table):
                blocks[request_id] = told.blocks, (*table[told.blocks :], *more)
        return StepFeed(tuple(new), blocks, tuple(self._gone))

    def note(self, feed: StepFeed) -> None:
        """The runner has been told."""
        for fed in feed.new:
            self._told[fed.request_id].known = True
        for request_id in feed.blocks:
            # What has been promised is not sure to be kept: it will be told again.
            self._told[request_id].blocks = len(self._kv.table(request_id))
        del self._gone[: len(feed.gone)]

    def took(self, outcome: StepOutcome) -> dict[int, FinishReason]:
        """Note the tokens of a plan; the requests that have come to an end of their own with it."""
        ended: dict[int, FinishReason] = dict.fromkeys(outcome.broken, FinishReason.ERROR)
        for request_id, tokens in outcome.tokens.items():
            told = self._told[request_id]
            told.tokens += tokens
            if not tokens or request_id in ended:
                continue
            stops = tokens[-1] in told.sampling.stop_ids
            if told.stopping is not None and told.text is not None:
                stops |= told.stopping.add(told.text.add(tokens))
            if stops:
                ended[request_id] = FinishReason.STOP
        return ended

    def say(self, request_id: int, count: int, final: bool = False) -> tuple[str, tuple[int, ...]]:
        """The text and the ids of the request's next `count` tokens; `final`: its last ones."""
        told = self._told[request_id]
        tokens = told.tokens[told.spoken : told.spoken + count]
        told.spoken += count
        if told.text is None:
            return "", tuple(tokens)
        if told.stopping is None:
            return told.text.add(tokens, final), tuple(tokens)
        if final:
            told.stopping.add(told.text.add([], final))
        return told.stopping.take(final), tuple(tokens)
