"""CUDA graphs as a step function: the batch sizes an engine has captured, to which a smaller batch is padded."""

from __future__ import annotations

from bisect import bisect_left

LARGEST = 512


def capture_sizes(max_num_seqs: int, max_num_batched_tokens: int) -> tuple[int, ...]:
    """The sizes that vLLM 0.19 captures: 1, 2, 4, then every 8 to 256, every 16 to 512 or twice the seats."""
    cap = min(2 * max_num_seqs, LARGEST, max_num_batched_tokens)
    sizes = [1, 2, 4, *range(8, 256, 8), *range(256, LARGEST + 1, 16)]
    return tuple(size for size in sizes if size <= cap)


class Padding:
    """How many tokens a step really computes; `sizes` empty: as many as it was given."""

    __slots__ = ("_sizes",)

    def __init__(self, sizes: tuple[int, ...] = ()) -> None:
        self._sizes = sizes

    def padded(self, tokens: int) -> int:
        """The smallest captured size that holds `tokens`, or `tokens` beyond them all."""
        at = bisect_left(self._sizes, tokens)
        return self._sizes[at] if at < len(self._sizes) else tokens
