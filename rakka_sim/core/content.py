"""Keys of KV blocks, from which tokens a sequence holds; what is done with keys (caching) may not be here."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import chain

from rakka_sim.values import Content

# Where every chain starts. Any odd constant will do; it only keeps keys away from small integers.
_ROOT = 0x9E3779B97F4A7C15

# Consecutive blocks of one span: the span's base, its first block, and the blocks meant (the last one not included).
Piece = tuple[int, int, int, int]


class BlockKeys:
    """The keys of a sequence's full blocks: two sequences share key j iff they share every token up to block j's end.

    A span's base hashes the spans before it, with their lengths, and its own source. Block j's key is the base of the
    span that its last token lies in, plus j: together they say what every token before it is. The hash of a tuple of
    integers is the same in every process. The last span has no end, since generated tokens continue it.

    Two different prefixes meet with probability (sequences ^ 2 * blocks) / 2 ^ 64: 1e-6 for a million of 20 blocks.
    """

    __slots__ = ("_bases", "_firsts", "final", "last")

    def __init__(self, content: Content, block_size: int) -> None:
        base, length, start = _ROOT, 0, 0
        firsts: list[int] = []
        bases: list[int] = []
        final = len(content) - 1
        for at, (source, tokens) in enumerate(content):
            if tokens == 0 and at != final:
                continue  # it holds nothing, so it must not tell two sequences apart
            base = hash((base, length, source))
            firsts.append(start // block_size)  # of two spans with the same first block, the later one counts
            bases.append(base)
            start += tokens
            length = tokens
        self._firsts = firsts
        self._bases = bases
        self.last = bases[-1]  # the base of the last span
        self.final = firsts[-1]  # and its first block

    def key(self, block: int) -> int:
        """The key of one block."""
        return self._bases[bisect_right(self._firsts, block) - 1] + block

    def span(self, start: int, stop: int) -> Iterable[int]:
        """The keys of blocks `start` to `stop`, the latter not included."""
        return chain.from_iterable(range(base + low, base + high) for base, _, low, high in self.pieces(start, stop))

    def pieces(self, start: int, stop: int) -> Iterator[Piece]:
        """The same, by span: equal (base, block) is an equal key."""
        firsts, bases, last = self._firsts, self._bases, len(self._firsts) - 1
        at = bisect_right(firsts, start) - 1
        while start < stop:
            end = stop if at == last else min(stop, firsts[at + 1])
            if end > start:
                yield bases[at], firsts[at], start, end
                start = end
            at += 1
