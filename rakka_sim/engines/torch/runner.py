"""Computes plans with a decoder: rows in, token ids out. It is told which blocks and tokens; it decides nothing.

A run of decode steps loops here, without a word to the engine core: the tokens of a step are the inputs of the next.
It ends early, at a boundary, when `after` says so, when a sequence draws one of its stop ids, or when logits are no
numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rakka_sim.engines.torch import ops
from rakka_sim.engines.torch.graphs import DecodeGraphs, DecodeInputs
from rakka_sim.engines.torch.kv_pool import KvPool
from rakka_sim.engines.torch.model import Batch, Decoder
from rakka_sim.engines.torch.packing import Draws, Sequences, decode_first
from rakka_sim.engines.torch.penalties import Penalties
from rakka_sim.errors import InvariantBroken
from rakka_sim.values import StepFeed, StepPlan, StepRow

BROKEN = -1  # stands for the token of a row whose logits are no numbers


@dataclass(slots=True)
class Computed:
    """What became of a plan: so many steps, one token of each for every row that samples, but none of the last step
    for rows in `broken`. `stopped`: one of them may have come to its end with it. `way`: how they were computed."""

    steps: int = 0
    tokens: dict[int, list[int]] = field(default_factory=dict)
    broken: tuple[int, ...] = ()
    stopped: bool = False
    way: str = ""


def on(steps: int) -> bool:
    """For runs that nothing cuts."""
    return True


class ModelRunner:
    """A decoder, the memory of its blocks, and the sequences it knows.

    Batches of up to `graph_rows` sequences that all decode run as CUDA graphs (0: none do), with the same results.
    """

    def __init__(self, decoder: Decoder, blocks: int, block_size: int, graph_rows: int = 0) -> None:
        shard, weight = decoder.shard, decoder.embedding
        layers = decoder.architecture.spec.layers
        self._decoder = decoder
        self._pool = KvPool(layers, blocks, block_size, shard.kv_heads, shard.head_dim, weight.dtype, weight.device)
        self._sequences = Sequences(block_size, weight.device)
        self._block_size = block_size
        self._graph_rows = graph_rows
        self._graphs: DecodeGraphs | None = None
        if graph_rows:
            self._graphs = DecodeGraphs(
                self._decode,
                max_rows=graph_rows,
                max_pages=-(-decoder.max_positions // block_size),
                block_size=block_size,
                device=weight.device,
            )

    def stops(self, plan: StepPlan, feed: StepFeed) -> bool:
        """Whether a sequence of the plan may stop by itself, so that the length of a run is not known before."""
        new = {fed.request_id: fed for fed in feed.new}
        rows = [new.get(row.request_id) or self._sequences[row.request_id].fed for row in plan.rows]
        return any(fed.sampling.stop_ids or fed.sampling.stop for fed in rows)

    def run(self, plan: StepPlan, feed: StepFeed, steps: int, after: Callable[[int], bool] = on) -> Computed:
        """Compute the first `steps` steps of a plan; `after(n)`, called after the n-th one, says whether to go on.

        An error leaves what is known of the sequences as it was, so that the plan can be tried again.
        """
        self._sequences.learn(feed)
        rows = decode_first(plan.rows)
        sampling = [row for row in rows if row.samples]
        size, way = self._graph_for(plan)
        done = Computed(tokens={row.request_id: [] for row in sampling}, way=way)
        with torch.inference_mode():
            for drawn in self._replayed(rows, steps) if size else self._packed(rows, sampling, steps):
                self._note(done, sampling, drawn.tolist())
                if not after(done.steps) or done.stopped or done.steps == steps:
                    break
        for request_id, tokens in done.tokens.items():
            self._sequences[request_id].append(tokens)
        return done

    def _graph_for(self, plan: StepPlan) -> tuple[int, str]:
        """The size of the graph that computes a plan, and its name; 0 for none, and why."""
        rows = len(plan.rows)
        if self._graphs is None:
            return 0, "eager"
        if rows != plan.decode_seqs:
            return 0, "eager, with prompts"
        if rows > self._graph_rows:
            return 0, f"eager, of more than {self._graph_rows} rows"
        if any(self._sequences[row.request_id].fed.sampling.penalises for row in plan.rows):
            return 0, "eager, with penalties"
        size = self._graphs.padded(rows)
        return size, f"graph of {size} rows"

    def _note(self, done: Computed, rows: list[StepRow], drawn: list[int]) -> None:
        """Add a step's tokens to the outcome."""
        done.steps += 1
        for row, token in zip(rows, drawn, strict=True):
            if token == BROKEN:
                done.broken += (row.request_id,)
                done.stopped = True
                continue
            done.tokens[row.request_id].append(token)
            sampling = self._sequences[row.request_id].fed.sampling
            # Whether a string stops it is for those to see who have the text: they must see each token.
            done.stopped |= token in sampling.stop_ids or bool(sampling.stop)

    # --- steps, one after the other, as long as they are asked for -----------------------------------------------

    def _packed(self, rows: list[StepRow], sampling: list[StepRow], steps: int) -> Iterator[Tensor]:
        """Any rows. Of a run, each step's tokens are the next one's inputs."""
        batch, draws = self._sequences.pack(rows, steps), self._sequences.draws(sampling)
        known = [self._sequences[row.request_id] for row in sampling]
        penalties = Penalties(known, self._decoder.architecture.spec.vocab, batch.tokens.device)
        while True:
            if sampling:
                drawn = self._draw(penalties.apply(self._decoder(batch, self._pool)), draws)
                penalties.drew(drawn)
            else:
                drawn = self._only_store(batch)
            yield drawn
            batch.tokens = drawn
            batch.positions = batch.positions + 1
            batch.context_lens = batch.context_lens + 1
            draws.positions = draws.positions + 1
            page = batch.block_tables.gather(1, (batch.positions // self._block_size)[:, None]).squeeze(1)
            batch.slots = page.long() * self._block_size + batch.positions % self._block_size

    def _replayed(self, rows: list[StepRow], steps: int) -> Iterator[Tensor]:
        """Rows that decode, as graphs."""
        if self._graphs is None:
            raise InvariantBroken("runner", "no graphs were asked for")
        self._graphs.load(self._sequences.decode_rows(rows, steps))
        while True:
            yield self._graphs.replay()

    def _only_store(self, batch: Batch) -> Tensor:
        """Parts of prompts that do not reach their end: nothing is drawn."""
        self._decoder(batch, self._pool)
        return batch.tokens.new_empty(0)

    def _draw(self, logits: Tensor, draws: Draws) -> Tensor:
        tokens = ops.sample(logits, draws.temperature, draws.top_k, draws.top_p, draws.seeds, draws.positions)
        return tokens.masked_fill(~logits.isfinite().all(dim=-1), BROKEN)

    def _decode(self, rows: DecodeInputs) -> Tensor:
        """One token of each row: what a graph captures."""
        batch = Batch(
            tokens=rows.tokens,
            positions=rows.positions,
            slots=rows.slots,
            block_tables=rows.block_tables,
            query_start=rows.query_start,
            context_lens=rows.context_lens,
            sampled=None,
            max_query=1,
        )
        draws = Draws(rows.temperature, rows.top_k, rows.top_p, rows.seeds, rows.drawn_at)
        return self._draw(self._decoder(batch, self._pool), draws)
