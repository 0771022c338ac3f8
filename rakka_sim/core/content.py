"""Keys of KV blocks, from which tokens a sequence holds; what is done with keys (caching) may not be here."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from itertools import chain

from rakka_sim.values import Content

# Where every chain starts. Any odd constant will do; it only keeps keys away from small integers.
_ROOT = 0x9E3779B97F4A7C15


class BlockKeys:
    """The keys of a sequence's full blocks: two sequences share key j iff they share every token up to block j's end.

    A span's base hashes the spans before it, with their lengths, and its own source. Block j's key is the base of the
    span that its last token lies in, plus j: together they say what every token before it is. The hash of a tuple of
    integers is the same in every process. The last span has no end, since generated tokens continue it.

    Two different prefixes meet with probability (sequences ^ 2 * blocks) / 2 ^ 64: 1e-6 for a million of 20 blocks.
    """

    __slots__ = ("_bases", "_firsts")

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

    def key(self, block: int) -> int:
        """The key of one block."""
        return self._bases[bisect_right(self._firsts, block) - 1] + block

    def span(self, start: int, stop: int) -> Iterable[int]:
        """The keys of blocks `start` to `stop`, the latter not included."""
        firsts, bases = self._firsts, self._bases
        at = bisect_right(firsts, start) - 1
        if at == len(firsts) - 1:
            return range(bases[at] + start, bases[at] + stop)
        return chain.from_iterable(self._ranges(at, start, stop))

    def _ranges(self, at: int, start: int, stop: int) -> Iterable[range]:
        ends = self._firsts[at + 1 :]
        for base, end in zip(self._bases[at:], [*ends, stop], strict=True):
            yield range(base + start, base + min(end, stop))
            if end >= stop:
                return
            start = end
