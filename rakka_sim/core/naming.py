"""Contents for prompts whose tokens are known: equal beginnings get equal names. No cache and no routing may be here.

A workload says which tokens requests share; a client with real text does not. Here every prompt is looked up among the
sequences that went before, by chained hashes of whole blocks: as far as it begins like one of them, its content is that
one's, and the rest gets a source of its own. What an engine said is part of a sequence, so the next turn of a chat
begins like the turn before it, answer included. Blocks, because nothing smaller is ever found in a cache.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from rakka_sim.errors import InputError
from rakka_sim.values import Content

_ROOT = 0x9E3779B97F4A7C15


class ContentNames:
    """Names the contents of prompts, and remembers the latest `capacity` blocks of sequences.

    A source is never given twice, so an empty last span keeps what two requests with the same prompt generate apart.
    Two different prefixes meet with probability (blocks ^ 2) / 2 ^ 64.
    """

    def __init__(self, block_size: int = 16, capacity: int = 1_000_000, first_source: int = 1) -> None:
        for name, given in (("block_size", block_size), ("capacity", capacity), ("first_source", first_source)):
            if given < 1:
                raise InputError(name, given, "at least 1")
        self._block_size = block_size
        self._capacity = capacity
        self._next = first_source
        # By the hash of all tokens up to a block's end: how the sequence that brought it names what comes up to there.
        self._known: OrderedDict[int, tuple[Content, int]] = OrderedDict()

    def name(self, tokens: Sequence[int]) -> Content:
        """The content of a prompt. Its last token is always named afresh: something must be left to compute."""
        whole = (len(tokens) - 1) // self._block_size
        content, covered = self._longest(tokens, whole)
        return (*_cut(content, covered), self._fresh(len(tokens) - covered))

    def remember(self, content: Content, tokens: Sequence[int]) -> None:
        """A sequence has come to `tokens`, its prompt named `content`: what is generated continues the last span."""
        for end, key in self._keys(tokens, len(tokens) // self._block_size):
            if key not in self._known:  # the first name stays: others have been told it
                self._known[key] = content, end
            self._known.move_to_end(key)
        while len(self._known) > self._capacity:
            self._known.popitem(last=False)

    def _longest(self, tokens: Sequence[int], blocks: int) -> tuple[Content, int]:
        found: tuple[Content, int] = (), 0
        for _, key in self._keys(tokens, blocks):
            if key not in self._known:
                break
            found = self._known[key]
            self._known.move_to_end(key)
        return found

    def _keys(self, tokens: Sequence[int], blocks: int) -> list[tuple[int, int]]:
        keys, key, size = [], _ROOT, self._block_size
        for end in range(size, blocks * size + 1, size):
            key = hash((key, *tokens[end - size : end]))
            keys.append((end, key))
        return keys

    def _fresh(self, tokens: int) -> tuple[int, int]:
        source, self._next = self._next, self._next + 1
        return source, tokens


def _cut(content: Content, tokens: int) -> Content:
    """Its first `tokens` tokens; the last span has no end."""
    spans: list[tuple[int, int]] = []
    for at, (source, length) in enumerate(content):
        taken = tokens if at == len(content) - 1 else min(length, tokens)
        if taken:
            spans.append((source, taken))
        tokens -= taken
    return tuple(spans)
