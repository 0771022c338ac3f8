"""Three requests on one engine, worked out with pencil and paper: every step and the time of every token.

A step takes 1 s and 1/8 s for each of its tokens, so every time below is exact in binary. Blocks hold 4 tokens.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from scenarios.stacks import Linear, Script, one_engine, play

from rakka_sim.report.report import Report
from rakka_sim.values import Content, ExecuteBatch

TIMES = Linear(step_s=1.0, token_s=0.125)
STEP = ["start_s", "seconds", "prefill_tokens", "decode_seqs", "context_tokens", "max_context"]
STEP += ["kv_blocks", "running", "waiting", "preempted"]
REQUEST = ["arrival_s", "scheduled_s", "first_token_s", "last_token_s", "output_tokens", "cached_tokens", "preemptions"]

with_and_without_runs = pytest.mark.parametrize("runs", [True, False], ids=["runs", "single steps"])


def request(request_id: int, content: Content, output: int) -> ExecuteBatch:
    return ExecuteBatch(request_id, "m", sum(tokens for _, tokens in content), output, content)


def steps(report: Report) -> list[tuple[Any, ...]]:
    return list(report.steps[STEP].itertuples(index=False, name=None))


def requests(report: Report) -> list[tuple[Any, ...]]:
    return list(report.requests[REQUEST].itertuples(index=False, name=None))


def tokens(report: Report) -> list[list[float]]:
    times, begins = report.log.token_times()
    return [times[start:end].tolist() for start, end in pairwise(begins)]


@with_and_without_runs
def test_chunked_prefill_and_a_shared_prefix(runs: bool) -> None:
    """A budget of 8 cuts A's prompt in two; C comes while A decodes and finds A's first two blocks."""
    script = Script(
        [
            (0.5, request(1, ((100, 8), (1, 2)), output=3)),  # A: 10 tokens
            (1.0, request(2, ((2, 6),), output=5)),  # B: 6 tokens
            (4.0, request(3, ((100, 8), (3, 1)), output=2)),  # C: 9 tokens, the first 8 are A's
        ]
    )
    engine = one_engine(
        max_num_batched_tokens=8,
        max_num_seqs=3,
        block_size=4,
        num_gpu_blocks=20,
        enable_prefix_caching=True,
        runs_of_steps=runs,
    )
    report = play(engine, times=TIMES, source=script)
    # fmt: off
    assert steps(report) == [
        # start, seconds, prefill, decodes, their contexts, longest, blocks, running, waiting, preempted
        (0.5,   2.0,   8, 0,  0,  0, 2, 1, 0, 0),  # A 8 of 10: the budget
        (2.5,   2.0,   8, 0,  0,  0, 5, 2, 0, 0),  # A 2 of 10 (3 blocks), B 6 of 6 (2)
        (4.5,   1.375, 0, 3, 24, 10, 6, 3, 0, 0),  # A on 10, B on 6, and C's last token on 8 cached ones (1 block more)
        (5.875, 1.375, 0, 3, 27, 11, 6, 3, 0, 0),  # A on 11, B on 7, C on 9: the last ones of A and C
        (7.25,  1.125, 0, 1,  8,  8, 3, 1, 0, 0),  # B on 8: a third block
        (8.375, 1.125, 0, 1,  9,  9, 3, 1, 0, 0),  # B on 9
    ]
    assert tokens(report) == [
        [4.5, 5.875, 7.25],
        [4.5, 5.875, 7.25, 8.375, 9.5],
        [5.875, 7.25],
    ]
    assert requests(report) == [
        # arrival, scheduled, first, last, tokens, cached, preemptions
        (0.5, 0.5, 4.5,   7.25, 3, 0, 0),
        (1.0, 2.5, 4.5,   9.5,  5, 0, 0),
        (4.0, 4.5, 5.875, 7.25, 2, 8, 0),
    ]
    # fmt: on
    assert report.summary()["ttft_ms"]["mean"] == pytest.approx(1000 * (4.0 + 3.5 + 1.875) / 3)
    assert report.summary()["tpot_ms"]["mean"] == pytest.approx(1000 * (2.75 / 2 + 5.0 / 4 + 1.375) / 3)
    assert report.littles_law()[0] == pytest.approx((6.75 + 8.5 + 3.25) / 9.0)


@with_and_without_runs
def test_preemption_by_recompute(runs: bool) -> None:
    """Five blocks for three: C loses its block to A, then B its two; B finds them again, C does not."""
    script = Script(
        [
            (1.0, request(1, ((1, 7),), output=6)),
            (1.0, request(2, ((2, 6),), output=4)),
            (2.0, request(3, ((3, 4),), output=2)),
        ]
    )
    engine = one_engine(
        max_num_batched_tokens=16,
        max_num_seqs=3,
        block_size=4,
        num_gpu_blocks=5,
        enable_prefix_caching=True,
        runs_of_steps=runs,
    )
    report = play(engine, times=TIMES, source=script)
    # fmt: off
    assert steps(report) == [
        # start, seconds, prefill, decodes, their contexts, longest, blocks, running, waiting, preempted
        (1.0,   2.625, 13, 0,  0,  0, 4, 2, 0, 0),  # A 7 and B 6: two blocks each
        (3.625, 1.75,   4, 2, 13,  7, 5, 3, 0, 0),  # A on 7, B on 6, C 4: the last block
        (5.375, 1.25,   0, 2, 15,  8, 5, 2, 1, 1),  # A on 8 takes C's block, B on 7
        (6.625, 1.125,  0, 1,  9,  9, 3, 1, 2, 1),  # A on 9; B on 8 needs a third block and is itself the last
        (7.75,  1.125,  0, 1, 10, 10, 3, 1, 2, 0),  # A on 10; B would need 3 blocks, 2 are free
        (8.875, 1.125,  0, 1, 11, 11, 3, 1, 2, 0),  # A on 11: its last
        (10.0,  1.75,   5, 1,  8,  8, 5, 2, 0, 0),  # B's ninth token on its 8 cached ones; C 4 and its first token
    ]
    assert tokens(report) == [
        [3.625, 5.375, 6.625, 7.75, 8.875, 10.0],
        [3.625, 5.375, 6.625, 11.75],
        [5.375, 11.75],
    ]
    assert requests(report) == [
        # arrival, scheduled, first, last, tokens, cached, preemptions
        (1.0, 1.0,   3.625, 10.0,  6, 0, 0),
        (1.0, 1.0,   3.625, 11.75, 4, 0, 1),
        (2.0, 3.625, 5.375, 11.75, 2, 0, 1),
    ]
    # fmt: on
