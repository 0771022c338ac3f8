"""Computes plans with a decoder: rows in, token ids out. It is told which blocks and tokens; it decides nothing.

A run of decode steps loops here, without a word to the engine core: the tokens of a step are the inputs of the next.
It ends early, at a boundary, when `after` says so, when a sequence draws one of its stop ids, or when logits are no
numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rakka_sim.engines.torch import ops
from rakka_sim.engines.torch.kv_pool import KvPool
from rakka_sim.engines.torch.model import Batch, Decoder
from rakka_sim.engines.torch.packing import Draws, Sequences, decode_first
from rakka_sim.values import StepFeed, StepPlan, StepRow

BROKEN = -1  # stands for the token of a row whose logits are no numbers


@dataclass(slots=True)
class Computed:
    """What became of a plan: so many steps, one token of each for every row that samples, but none of the last step
    for rows in `broken`."""

    steps: int = 0
    tokens: dict[int, list[int]] = field(default_factory=dict)
    broken: tuple[int, ...] = ()


def on(steps: int) -> bool:
    """For runs that nothing cuts."""
    return True


class ModelRunner:
    """A decoder, the memory of its blocks, and the sequences it knows."""

    def __init__(self, decoder: Decoder, blocks: int, block_size: int) -> None:
        shard = decoder.shard
        weight = decoder.embedding
        self._decoder = decoder
        self._pool = KvPool(
            decoder.architecture.spec.layers,
            blocks,
            block_size,
            shard.kv_heads,
            shard.head_dim,
            weight.dtype,
            weight.device,
        )
        self._sequences = Sequences(block_size, weight.device)
        self._block_size = block_size

    def stops(self, plan: StepPlan, feed: StepFeed) -> bool:
        """Whether a sequence of the plan has stop ids, so that the length of a run is not known before."""
        new = {fed.request_id: fed for fed in feed.new}
        rows = [new.get(row.request_id) or self._sequences[row.request_id].fed for row in plan.rows]
        return any(fed.sampling.stop_ids for fed in rows)

    def run(self, plan: StepPlan, feed: StepFeed, steps: int, after: Callable[[int], bool] = on) -> Computed:
        """Compute the first `steps` steps of a plan; `after(n)`, called after the n-th one, says whether to go on.

        An error leaves what is known of the sequences as it was, so that the plan can be tried again.
        """
        self._sequences.learn(feed)
        rows = decode_first(plan.rows)
        sampling = [row for row in rows if row.samples]
        batch = self._sequences.pack(rows, steps)
        draws = self._sequences.draws(sampling)
        done = Computed(tokens={row.request_id: [] for row in sampling})
        with torch.inference_mode():
            while True:
                drawn = self._step(batch, draws)
                ended = self._note(done, sampling, drawn.tolist())
                if not after(done.steps) or ended or done.steps == steps:
                    break
                self._advance(batch, draws, drawn)
        for request_id, tokens in done.tokens.items():
            self._sequences[request_id].append(tokens)
        return done

    def _step(self, batch: Batch, draws: Draws) -> Tensor:
        logits: Tensor = self._decoder(batch, self._pool)
        if not len(logits):
            return logits.new_empty(0, dtype=torch.int64)
        tokens = ops.sample(logits, draws.temperature, draws.top_k, draws.top_p, draws.seeds, draws.positions)
        return tokens.masked_fill(~logits.isfinite().all(dim=-1), BROKEN)

    def _note(self, done: Computed, rows: list[StepRow], drawn: list[int]) -> bool:
        """Add a step's tokens to the outcome; whether the run has to end with it."""
        done.steps += 1
        stopped = False
        for row, token in zip(rows, drawn, strict=True):
            if token == BROKEN:
                done.broken += (row.request_id,)
                continue
            done.tokens[row.request_id].append(token)
            stopped |= token in self._sequences[row.request_id].fed.sampling.stop_ids
        return stopped or bool(done.broken)

    def _advance(self, batch: Batch, draws: Draws, drawn: Tensor) -> None:
        """One token further, for a batch whose every row decodes."""
        batch.tokens = drawn
        batch.positions = batch.positions + 1
        batch.context_lens = batch.context_lens + 1
        draws.positions = draws.positions + 1
        page = batch.block_tables.gather(1, (batch.positions // self._block_size)[:, None]).squeeze(1)
        batch.slots = page.long() * self._block_size + batch.positions % self._block_size
