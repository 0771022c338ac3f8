"""Runs: decode steps that are sure to be alike, planned at once. Nothing may be decided here that one step would not.

A run takes its blocks when it is committed, for the steps that really ran, in the order in which single steps would
have taken them: step by step, row by row. Nothing else takes blocks in between, so both ways end in the same state.
"""

from __future__ import annotations

from rakka_sim.core.kv import KvCache
from rakka_sim.core.sequence import BatchingLimits, Sequence
from rakka_sim.core.waiting import WaitingQueue
from rakka_sim.errors import InvariantBroken
from rakka_sim.values import DecodeRows, StepPlan

ANY = 1 << 62  # steps: no limit


def plan_run(
    running: list[Sequence], waiting: WaitingQueue, limits: BatchingLimits, kv: KvCache, most: int = ANY
) -> StepPlan | None:
    """The run that these sequences can do next, of up to `most` steps; None if it is not certain to be two at least."""
    newest = running[-1]
    if newest.total - newest.computed != 1:  # the likeliest one to be still in its prompt
        return None
    contexts = [seq.computed for seq in running]
    context, count = sum(contexts), len(running)
    if sum([seq.total for seq in running]) - context != count:  # each lacks a token at least: somebody lacks more
        return None
    steps = min(most, min([seq.end - seq.total for seq in running]))
    head = waiting.head()
    if head is not None and count < limits.seats:
        steps = _steps_until_head_may_move(running, head, steps, limits, kv)
    block_size = kv.block_size
    crossings = [0] * block_size
    for computed in contexts:
        crossings[-computed % block_size] += 1
    if steps >= 2:
        steps = min(steps, steps_that_fit(crossings, count, kv.free_blocks))
    if steps < 2:
        return None
    return StepPlan(
        rows=DecodeRows([seq.request_id for seq in running], contexts),
        steps=steps,
        prefill_tokens=0,
        decode_seqs=count,
        context_tokens=context,
        max_context=max(contexts),
        running=count,
        waiting=len(waiting),
        kv_blocks=kv.blocks_in_use + crossings[0],
        crossings=tuple(crossings),
    )


def steps_that_fit(crossings: list[int], rows: int, free: int) -> int:
    """For how many steps `free` blocks last `rows` rows; `crossings` as in a `StepPlan`."""
    # Every row takes one block in each `block_size` steps.
    cycles, free = divmod(free, rows)
    steps = cycles * len(crossings)
    for takers in crossings:
        free -= takers
        if free < 0:
            break
        steps += 1
    return steps


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


def commit_blocks(sequences: list[Sequence], steps: int, kv: KvCache) -> None:
    """Take and register the blocks of a run's first `steps` steps."""
    if len(sequences) == 1:
        if not kv.grow(sequences[0].request_id, sequences[0].computed + steps):
            raise InvariantBroken("batcher", f"a run of {steps} steps has no blocks for its request")
        return
    block_size = kv.block_size
    takers: list[tuple[int, int]] = []  # those that take a block: at which step of a cycle, and which row
    fillers: list[Sequence] = []
    count = 0
    for row, seq in enumerate(sequences):
        step = -seq.computed % block_size
        if step < steps:
            takers.append((step, row))
            count += (steps - 1 - step) // block_size + 1
        if (seq.computed + steps) // block_size > seq.computed // block_size:
            fillers.append(seq)
    if _keys_may_meet(fillers, kv):
        _commit_step_by_step(sequences, steps, kv)
        return
    # No two rows register the same key, so only the order of taking counts: it goes round the rows, cycle by cycle.
    takers.sort()
    if count and not kv.deal([sequences[row].request_id for _, row in takers], count):
        raise InvariantBroken("batcher", f"a run of {steps} steps has no blocks for its {len(sequences)} requests")
    for seq in fillers:
        kv.fill(seq.request_id, seq.computed + steps)


def _keys_may_meet(fillers: list[Sequence], kv: KvCache) -> bool:
    """Whether two rows may fill a block with the same tokens; a row that is alone in its last span meets nobody."""
    if not kv.prefix_caching:
        return False
    block_size = kv.block_size
    bases = set()
    for seq in fillers:
        if seq.keys.final > seq.computed // block_size:
            return True
        bases.add(seq.keys.last)
    return len(bases) < len(fillers)


def _commit_step_by_step(sequences: list[Sequence], steps: int, kv: KvCache) -> None:
    block_size, grow = kv.block_size, kv.grow
    takers: list[list[Sequence]] = [[] for _ in range(block_size)]  # by the step of a cycle at which they take a block
    for seq in sequences:
        takers[-seq.computed % block_size].append(seq)
    for step in range(steps):
        # Rows that take a block at this step, then those that fill one: within a step the two do not meet.
        for seq in takers[step % block_size]:
            if not grow(seq.request_id, seq.computed + step + 1):
                raise InvariantBroken("batcher", f"a run has no block for request {seq.request_id} at step {step}")
        for seq in takers[(step + 1) % block_size]:
            grow(seq.request_id, seq.computed + step + 1)


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
    """The blocks that each row of a run gets on top of its table, in order; none for a plan of one step."""
    promised: dict[int, list[int]] = {}
    order = taking_order(plan, kv.block_size)
    for request_id, block in zip(order, kv.next_free(len(order)), strict=True):
        promised.setdefault(request_id, []).append(block)
    return promised
