"""Computes plans with a decoder: rows in, token ids out. It is told which blocks and tokens; it decides nothing.

A run of decode steps loops here, without a word to the engine core: the tokens of a step are the inputs of the next.
It ends early, at a boundary, when `after` says so, when a sequence draws one of its stop ids, or when logits are no
numbers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from rakka_sim.engines.torch import ops
from rakka_sim.engines.torch.graphs import AHEAD, DecodeGraphs, DecodeInputs
from rakka_sim.engines.torch.kv_pool import FIRST_PAGE, KvPool
from rakka_sim.engines.torch.model import Batch, Decoder
from rakka_sim.engines.torch.packing import Draws, Ints, Sequences, decode_first
from rakka_sim.engines.torch.penalties import Penalties
from rakka_sim.engines.torch.reference import BROKEN
from rakka_sim.errors import InvariantBroken
from rakka_sim.values import GREEDY_TO_THE_END, FedSequence, Sampling, StepFeed, StepPlan, StepRow

NOBODY = -1  # a request that there is not, to build kernels with
WARM_TOKENS = (2, 128)  # of a prompt: few and many have tilings of their own
WARM_ROWS = tuple(1 << n for n in range(9))  # that decode: how finely contexts are split goes by powers of two


@dataclass(slots=True)
class Computed:
    """What became of a plan: so many steps, one token of each for every row that samples, but none of the last step
    for rows in `broken`. `stopped`: one of them may have come to its end with it. `way`: how they were computed."""

    steps: int = 0
    tokens: dict[int, list[int]] = field(default_factory=dict)
    broken: tuple[int, ...] = ()
    stopped: bool = False
    way: str = ""


class Ends:
    """What a run must end at. It looks at all rows of a step at once: the device waits meanwhile."""

    def __init__(self, sampling: list[Sampling]) -> None:
        self._stops = [(place, one.stop_ids) for place, one in enumerate(sampling) if one.stop_ids]
        # Whether a string stops it is for those to see who have the text: they must see each token.
        self._each_token = any(one.stop for one in sampling)

    @property
    def expected(self) -> bool:
        """Whether any row may come to an end by itself."""
        return self._each_token or bool(self._stops)

    def may_be_among(self, ids: Ints) -> bool:
        """Whether a row has drawn a stop id, or no number, or may have completed a string that stops it."""
        if self._each_token or bool((ids == BROKEN).any()):
            return True
        return any(int(ids[place]) in stops for place, stops in self._stops)


def on(steps: int) -> bool:
    """For runs that nothing cuts."""
    return True


@dataclass(slots=True)
class Run:
    """How many steps of a plan are wanted, and how many have begun."""

    wanted: int
    begun: int = 0


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

    def warm_up(self) -> None:
        """Have ready what steps need: kernels built, libraries started, the largest graph recorded. No page is written.

        Else the first step would do all that, for longer than a watchdog may wait.
        """
        most = min(max(WARM_TOKENS), self._decoder.max_positions)
        fed = FedSequence(NOBODY, (0,) * most, GREEDY_TO_THE_END, 0, most)
        pages = (-FIRST_PAGE,) * -(-most // self._block_size)
        self._sequences.learn(StepFeed((fed,), {NOBODY: (0, pages)}, ()))
        decoding = [[StepRow(NOBODY, 1, 0, True)] * rows for rows in WARM_ROWS]
        prompts = [[StepRow(NOBODY, min(tokens, most), 0, True)] for tokens in WARM_TOKENS]
        with torch.inference_mode():
            for rows in (*decoding, *prompts):
                batch = self._sequences.pack(rows, 1)
                batch.slots.fill_(-1)
                self._draw(self._decoder(batch, self._pool), self._sequences.draws(rows)).cpu()
            if self._graphs is not None:
                self._graphs.prepare()
        self._sequences.learn(StepFeed((), {}, (NOBODY,)))

    def stops(self, plan: StepPlan, feed: StepFeed) -> bool:
        """Whether a sequence of the plan may stop by itself, so that the length of a run is not known before."""
        new = {fed.request_id: fed for fed in feed.new}
        rows = [new.get(row.request_id) or self._sequences[row.request_id].fed for row in plan.rows]
        return any(fed.sampling.stop_ids or fed.sampling.stop for fed in rows)

    def run(self, plan: StepPlan, feed: StepFeed, steps: int, after: Callable[[int], bool] = on) -> Computed:
        """Compute the first `steps` steps of a plan; `after(n)`, called after the n-th one, says whether to go on.

        A graph's next step may be under way by then, and is done with as well. An error leaves what is known of the
        sequences as it was, so that the plan can be tried again.
        """
        self._sequences.learn(feed)
        rows = decode_first(plan.rows)
        sampling = [row for row in rows if row.samples]
        size, way = self._graph_for(plan)
        ends = Ends([self._sequences[row.request_id].fed.sampling for row in sampling])
        drawn: list[Ints] = []  # of each step, the ids of the rows that sample
        run, ahead = Run(steps), 1 if ends.expected else AHEAD
        with torch.inference_mode():
            for ids in self._replayed(rows, run, ahead) if size else self._packed(rows, sampling, run):
                drawn.append(ids)
                stopped = ends.may_be_among(ids)
                if not after(len(drawn)):
                    run.wanted = run.begun
                if stopped or len(drawn) == run.wanted:
                    break
        tokens = np.stack(drawn, axis=1).tolist()
        done = Computed(len(drawn), {}, (), stopped, way)
        for row, of_row in zip(sampling, tokens, strict=True):
            if of_row[-1] == BROKEN:
                done.broken += (row.request_id,)
                of_row.pop()
            done.tokens[row.request_id] = of_row
            self._sequences[row.request_id].append(of_row)
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

    # --- steps, one after the other, as long as they are asked for -----------------------------------------------

    def _packed(self, rows: list[StepRow], sampling: list[StepRow], run: Run) -> Iterator[Ints]:
        """Any rows. Of a run, each step's tokens are the next one's inputs."""
        batch, draws = self._sequences.pack(rows, run.wanted), self._sequences.draws(sampling)
        known = [self._sequences[row.request_id] for row in sampling]
        penalties = Penalties(known, self._decoder.architecture.spec.vocab, batch.tokens.device)
        while True:
            run.begun += 1
            if sampling:
                drawn = self._draw(penalties.apply(self._decoder(batch, self._pool)), draws)
                penalties.drew(drawn)
            else:
                drawn = self._only_store(batch)
            yield drawn.cpu().numpy()  # waits for the device
            batch.tokens = drawn
            batch.positions = batch.positions + 1
            batch.context_lens = batch.context_lens + 1
            draws.positions = draws.positions + 1
            page = batch.block_tables.gather(1, (batch.positions // self._block_size)[:, None]).squeeze(1)
            batch.slots = page.long() * self._block_size + batch.positions % self._block_size

    def _replayed(self, rows: list[StepRow], run: Run, ahead: int) -> Iterator[Ints]:
        """Rows that decode, as graphs, up to `ahead` of them under way at once.

        A step that is given up (a row before it has drawn no number) has written only where its rows will write again.
        """
        if self._graphs is None:
            raise InvariantBroken("runner", "no graphs were asked for")
        self._graphs.load(self._sequences.decode_rows(rows, run.wanted))
        under_way: deque[Callable[[], Ints]] = deque()
        while True:
            while run.begun < run.wanted and len(under_way) < ahead:
                under_way.append(self._graphs.launch())
                run.begun += 1
            yield under_way.popleft()()

    def _only_store(self, batch: Batch) -> Tensor:
        """Parts of prompts that do not reach their end: nothing is drawn."""
        self._decoder(batch, self._pool)
        return batch.tokens.new_empty(0)

    def _draw(self, logits: Tensor, draws: Draws) -> Tensor:
        return ops.sample(logits, draws.temperature, draws.top_k, draws.top_p, draws.seeds, draws.positions)

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
