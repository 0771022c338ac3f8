"""From what a request's content says to token ids, for engines that compute with them. No times, no lengths here.

A content names tokens without saying what they are. Here each gets an id, by a hash of its source and its place in it,
so that contents that share a prefix share its ids. A conversation is the exception: what the engine said in it is part
of its later prompts, word for word.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from rakka_sim.values import ExecuteBatch, TokenChunk

Ids = np.ndarray[Any, np.dtype[np.int64]]


class Scribe:
    """Writes prompts of ids below `vocab`, and remembers what conversations have come to."""

    def __init__(self, vocab: int) -> None:
        self._vocab = vocab
        self._said: dict[int, Ids] = {}  # by session: all its ids so far, shared prefixes left out
        self._hearing: dict[int, tuple[int, list[int]]] = {}  # by request under way: its session, what it has said

    def write(self, batch: ExecuteBatch) -> ExecuteBatch:
        """The request with its prompt."""
        *shared, (source, length) = batch.content
        said = self._said.get(batch.session, np.empty(0, np.int64))[:length]
        last = np.concatenate([said, tokens_of(source, len(said), length, self._vocab)])
        if batch.session:
            self._said[batch.session] = last
            self._hearing[batch.request_id] = batch.session, []
        before = [tokens_of(number, 0, tokens, self._vocab) for number, tokens in shared]
        return replace(batch, token_ids=tuple(np.concatenate([*before, last]).tolist()))

    def hear(self, chunk: TokenChunk) -> None:
        """An engine has said something."""
        if chunk.request_id in self._hearing:
            self._hearing[chunk.request_id][1].extend(chunk.tokens)

    def ended(self, request_id: int) -> None:
        """All has been said."""
        if request_id in self._hearing:
            session, heard = self._hearing.pop(request_id)
            self._said[session] = np.concatenate([self._said[session], np.array(heard, np.int64)])


def tokens_of(source: int, start: int, stop: int, vocab: int) -> Ids:
    """Ids of tokens `start` to `stop` of a source: SplitMix64 (Steele, Lea, Flood 2014) of both, modulo `vocab`."""
    places = np.arange(start, stop, dtype=np.uint64)
    mixed = _mixed(_mixed(np.full(1, source & (2**64 - 1), np.uint64)) + places)
    return (mixed % np.uint64(vocab)).astype(np.int64)


def _mixed(words: np.ndarray[Any, np.dtype[np.uint64]]) -> np.ndarray[Any, np.dtype[np.uint64]]:
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
