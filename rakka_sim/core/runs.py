"""Runs: decode steps that are sure to be alike, planned at once. Nothing may be decided here that one step would not.

A run takes its blocks when it is committed, for the steps that really ran, in the order in which single steps would
have taken them: step by step, row by row. Nothing else takes blocks in between, so both ways end in the same state.
"""

from __future__ import annotations

from rakka_sim.core.decoding import Decoding
from rakka_sim.core.kv import KvCache
from rakka_sim.core.sequence import BatchingLimits, Sequence
from rakka_sim.core.waiting import WaitingQueue
from rakka_sim.values import StepPlan

ANY = 1 << 62  # steps: no limit


def plan_run(
    running: list[Sequence],
    decoding: Decoding,
    waiting: WaitingQueue,
    limits: BatchingLimits,
    kv: KvCache,
    most: int = ANY,
) -> StepPlan | None:
    """The run that these sequences can do next, of up to `most` steps; None if it is not certain to be two at least."""
    count = len(running)
    if decoding.count != count:  # somebody is still in its prompt
        return None
    steps = min(most, decoding.left())
    head = waiting.head()
    if head is not None and count < limits.seats:
        steps = _steps_until_head_may_move(running, head, steps, limits, kv)
    crossings = kv.crossings()
    if steps >= 2:
        steps = steps_that_fit(steps, crossings, count, kv.free_blocks)
    if steps < 2:
        return None
    return StepPlan(
        rows=decoding.rows(running),
        steps=steps,
        prefill_tokens=0,
        decode_seqs=count,
        context_tokens=decoding.context_tokens(),
        max_context=decoding.longest(),
        running=count,
        waiting=waiting.count,
        kv_blocks=kv.blocks_in_use + crossings[0],
        crossings=tuple(crossings),
    )


def steps_that_fit(wanted: int, crossings: list[int], rows: int, free: int) -> int:
    """For how many steps, `wanted` at most, `free` blocks last `rows` rows; `crossings` as in a `StepPlan`."""
    # Every row takes one block in each `block_size` steps.
    cycles, free = divmod(free, rows)
    steps = cycles * len(crossings)
    if steps >= wanted:
        return wanted
    for takers in crossings:
        free -= takers
        if free < 0:
            break
        steps += 1
    return min(wanted, steps)


def _steps_until_head_may_move(
    running: list[Sequence], head: Sequence, steps: int, limits: BatchingLimits, kv: KvCache
) -> int:
    """For how many steps the head of the queue is sure to find no place although a seat is free; 0 if it may have one.

    A whole sequence that must fit (`scheduler_reserve_full_isl`) needs its blocks less those hits that others hold. In
    a run the free blocks get fewer, and each such hit gained costs a free block at least, unless the prefix found grows
    longer: by a row that fills a block with the very key that the head misses. Where only a chunk must fit, losing a
    hit can make the chunk start sooner and need less, so nothing is sure.
    """
    if not limits.scheduler_reserve_full_isl:
        return 0
    hits = kv.lookup(head.keys, head.total)
    if kv.shortage(head.total, hits) <= 0:
        return 0
    missing = len(hits)
    filled_at = (missing + 1) * kv.block_size
    key = head.keys.key(missing)
    for seq in running:
        if seq.computed < filled_at <= seq.computed + steps and seq.keys.key(missing) == key:
            steps = filled_at - seq.computed - 1
    return steps


def taking_order(plan: StepPlan, block_size: int) -> list[int]:
    """The requests that take a block in a run, one entry a block, in the order of taking; none for a step, which has
    taken its own when it was planned."""
    if not plan.crossings:
        return []
    takers: list[list[int]] = [[] for _ in range(block_size)]
    for row in plan.rows:
        takers[-row.context % block_size].append(row.request_id)
    return [request_id for step in range(plan.steps) for request_id in takers[step % block_size]]


def promised_blocks(plan: StepPlan, kv: KvCache) -> dict[int, list[int]]:
    """The blocks that each row gets on top of its table while this plan runs, in order."""
    promised: dict[int, list[int]] = {}
    order = taking_order(plan, kv.block_size)
    for request_id, block in zip(order, kv.next_free(len(order)), strict=True):
        promised.setdefault(request_id, []).append(block)
    return promised
