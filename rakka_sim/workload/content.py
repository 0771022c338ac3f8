"""Which numbers stand for which tokens in a request's content; no lengths are chosen here.

A source number is ``thing * 4 + kind``, so the four kinds never meet. Things of one workload are numbered
``first + n * stride``, so workloads merged on different lanes never meet either.

=======  ====  =======================================================================
kind     name  the n-th thing
=======  ====  =======================================================================
private  0     the tokens of one request that nobody shares; n is the request's number
session  1     all that is said in one conversation
prefix   2     one system prompt
block    3     one block of a trace's prompts, by the hash that the trace gives it
=======  ====  =======================================================================
"""

from __future__ import annotations

from collections.abc import Sequence

from rakka_sim.values import Content

PRIVATE, SESSION, PREFIX, BLOCK = range(4)

# Mooncake's traces hash prompts in blocks of that many tokens; others of its format, of a KV cache's blocks.
HASHED_TOKENS = 512


def source_number(kind: int, thing: int) -> int:
    """The number of all tokens of one thing."""
    return thing * 4 + kind


def hashed_content(blocks: Sequence[int], prompt_tokens: int, private: int, hashed: int = HASHED_TOKENS) -> Content:
    """One span per block of `hashed` tokens (given as source numbers), of which the last may be shorter.

    An empty private span follows, which the output continues.
    """
    last = prompt_tokens - hashed * (len(blocks) - 1)
    spans = [(block, hashed) for block in blocks]
    spans[-1] = (blocks[-1], last)
    spans.append((private, 0))
    return tuple(spans)
