"""Decode steps as CUDA graphs: a whole step, sampling and the advance to the next one included, in one launch.

A graph is of one batch size, so a batch is padded to the next of a few; it reads persistent buffers, which `load` fills
and each `replay` advances. Between two replays the host has nothing to send: a run of decode steps is a loop over
`replay`. Without CUDA the same steps run eagerly, over the same buffers with the same padding. No model is here, and
nothing that depends on a tensor's contents.

The host need not wait for a step's ids before it asks for the next one (`launch`): they come back on their own.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rakka_sim.errors import InputError

Ints = np.ndarray[Any, np.dtype[np.int32]]
Longs = np.ndarray[Any, np.dtype[np.int64]]
PADDING = -1  # the position of a row that pads the batch; all else about it follows from that
STAGES = 2  # buffers on the way to the device: one may be filled while another is still being read
AHEAD = 2  # steps under way at once: while the host looks at the ids of one, the device is at the next


def graph_sizes(max_rows: int) -> tuple[int, ...]:
    """The batch sizes that graphs are made for: 1, 2, 4, then every eighth; the last holds `max_rows`."""
    return tuple(size for size in (1, 2, 4) if size < max_rows) + tuple(
        range(8, -(-max_rows // 8) * 8 + 1, 8) if max_rows > 4 else (max_rows,)
    )


@dataclass(frozen=True, slots=True)
class DecodeRows:
    """What a run of decode steps starts from, in numpy; [rows] each, `tables` [rows, pages].

    tokens: the last token of each sequence. positions: that token's, so that the new one will stand one further.
    carry: for a token that the host does not know yet, its row in the ids that the step before has drawn; else -1.
    """

    tokens: Ints
    positions: Ints
    tables: Ints
    temperature: np.ndarray[Any, np.dtype[np.float32]]
    top_k: Ints
    top_p: np.ndarray[Any, np.dtype[np.float32]]
    seeds: np.ndarray[Any, np.dtype[np.int64]]
    carry: Ints | None = None


@dataclass(frozen=True, slots=True)
class DecodeInputs:
    """A step's tensors, padded to a graph's size: one query a row. A padded row has slot -1 and context 0.

    The names and meanings are those of `reference.paged_attention`, `rope_store` and `sample`; `drawn_at` are the
    positions of the tokens to be drawn.
    """

    tokens: Tensor
    positions: Tensor
    slots: Tensor
    block_tables: Tensor
    query_start: Tensor
    context_lens: Tensor
    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    seeds: Tensor
    drawn_at: Tensor


class _Arena:
    """All per-row numbers in one int32 array, so that one copy brings them to the device; here or there."""

    WORDS = 8

    def __init__(self, rows: int, device: torch.device, pinned: bool = False) -> None:
        # The 64-bit seeds come first, where they are aligned.
        self.words = torch.zeros(self.WORDS * rows, dtype=torch.int32, device=device, pin_memory=pinned)
        self.seeds = self.words[: 2 * rows].view(torch.int64)
        columns = self.words[2 * rows :].view(-1, rows)
        self.tokens, self.positions, self.carry, self.top_k = columns[:4]
        self.temperature, self.top_p = columns[4:].view(torch.float32)


class _Stage:
    """Host memory that the device reads from, and when it has done so."""

    def __init__(self, rows: int, pages: int, cuda: bool) -> None:
        self.arena = _Arena(rows, torch.device("cpu"), pinned=cuda)
        self.tables = torch.zeros(rows * pages, dtype=torch.int32, pin_memory=cuda)
        self.read = torch.cuda.Event(blocking=True) if cuda else None  # type: ignore[no-untyped-call]

    def fill(self, rows: DecodeRows) -> Tensor:
        """Take in the rows, padding after them; their tables, [rows, pages]."""
        if self.read is not None:
            self.read.synchronize()
        count, arena = len(rows.tokens), self.arena
        for name in ("tokens", "positions", "top_k", "temperature", "top_p", "seeds"):
            getattr(arena, name).numpy()[:count] = getattr(rows, name)
        arena.carry.fill_(-1)
        if rows.carry is not None:
            arena.carry.numpy()[:count] = rows.carry
        arena.positions[count:] = PADDING
        arena.tokens[count:] = 0
        arena.temperature[count:] = 0.0
        tables = self.tables[: rows.tables.size].view(rows.tables.shape)
        tables.numpy()[:] = rows.tables
        return tables


class _Return:
    """Host memory that the ids of one step come back to, and when they are there."""

    def __init__(self, rows: int, cuda: bool) -> None:
        self._ids = torch.zeros(rows, dtype=torch.int64, pin_memory=cuda)
        self._there = torch.cuda.Event() if cuda else None  # type: ignore[no-untyped-call]
        self._rows = 0

    def send_for(self, drawn: Tensor) -> None:
        """Have them brought here."""
        self._rows = len(drawn)
        self._ids[: self._rows].copy_(drawn, non_blocking=True)
        if self._there is not None:
            self._there.record()

    def ids(self) -> Longs:
        """What has been drawn; waits for it."""
        if self._there is not None:
            self._there.synchronize()
        return self._ids[: self._rows].numpy().copy()


class DecodeGraphs:
    """Decode steps of up to `max_rows` sequences of up to `max_pages` pages each, on one device, by one thread.

    `step` computes one: from padded inputs to the drawn ids, int64 [padded], where a negative id stands for none. It
    must launch the same kernels whatever the inputs hold, and write into nothing but the KV pools.
    """

    def __init__(
        self,
        step: Callable[[DecodeInputs], Tensor],
        *,
        max_rows: int,
        max_pages: int,
        block_size: int,
        device: torch.device,
    ) -> None:
        self.sizes = graph_sizes(max_rows)
        self._step, self._block_size, self._device = step, block_size, device
        most = self.sizes[-1]
        self._arena = _Arena(most, device)
        self._tables = torch.zeros((most, max_pages), dtype=torch.int32, device=device)
        self._query_start = torch.arange(most + 1, dtype=torch.int32, device=device)
        self._drawn = torch.zeros(most, dtype=torch.int64, device=device)
        cuda = device.type == "cuda"
        self._stages = [_Stage(most, max_pages, cuda) for _ in range(STAGES if cuda else 1)]
        self._returns = [_Return(most, cuda) for _ in range(AHEAD)]
        # One stream for all captures and what precedes them: cuBLAS keeps a workspace for every stream it has seen.
        self._side = torch.cuda.Stream(device) if cuda else None  # type: ignore[no-untyped-call]
        self._memory = torch.cuda.graph_pool_handle() if cuda else None
        self._replays: dict[int, Callable[[], object]] = {}
        self._rows = 0

    @property
    def captured(self) -> tuple[int, ...]:
        """The sizes that have been used so far; the first use of each costs a capture."""
        return tuple(self._replays)

    def padded(self, rows: int) -> int:
        """The size of the graph for so many rows; raises InputError where there is none."""
        if not 0 < rows <= self.sizes[-1]:
            raise InputError("rows of a decode batch", rows, f"1 to {self.sizes[-1]}")
        return self.sizes[bisect_left(self.sizes, rows)]

    def load(self, rows: DecodeRows, drawn: Tensor | None = None) -> None:
        """Put a batch where the next `replay` finds it; does not wait for the device, unless it is two loads behind.

        `drawn`: the ids that `rows.carry` points into; those of the last replay unless given.
        """
        count, (_, pages) = len(rows.tokens), rows.tables.shape
        self.padded(count)
        if pages > self._tables.shape[1]:
            raise InputError("pages of a sequence", pages, f"at most {self._tables.shape[1]}")
        self._rows = count
        stage = self._stages[0]
        self._stages = [*self._stages[1:], stage]
        tables = stage.fill(rows)
        self._arena.words.copy_(stage.arena.words, non_blocking=True)
        self._tables[:count, :pages].copy_(tables, non_blocking=True)
        if rows.carry is not None:
            carry, last = self._arena.carry, self._drawn if drawn is None else drawn
            carried = last[carry.clamp_min(0).long()].clamp_min(0).to(torch.int32)
            self._arena.tokens.copy_(torch.where(carry < 0, self._arena.tokens, carried))
        if stage.read is not None:
            stage.read.record()

    def replay(self) -> Tensor:
        """One step: the ids drawn, int64 [rows]. The next replay overwrites them, and takes them as its tokens."""
        size = self.padded(self._rows)
        self.prepare(size)
        self._replays[size]()
        return self._drawn[: self._rows]

    def launch(self) -> Callable[[], Longs]:
        """One step; its ids once they are asked for, which must be before the AHEAD-th launch after it."""
        back = self._returns[0]
        self._returns = [*self._returns[1:], back]
        back.send_for(self.replay())
        return back.ids

    def prepare(self, size: int | None = None) -> None:
        """Have the graph of that size, the largest unless given, before it is needed; what is loaded stays as it is.

        The largest is the first that is made. Graphs share memory, so all others find in it what they need; made in
        the order in which a batch grows, each would add to it.
        """
        largest = self.sizes[-1]
        for wanted in (largest, size or largest) if self._side is not None else (size or largest,):
            if wanted not in self._replays:
                eager = partial(self._body, wanted)
                self._replays[wanted] = eager if self._side is None else self._capture(eager, self._side)

    def _body(self, size: int) -> None:
        """A step and the advance to the next, over the first `size` rows of the buffers."""
        tokens, at = self._arena.tokens[:size], self._arena.positions[:size]
        self._drawn[:size].copy_(self._step(self._inputs(size)))
        # No id, no token: such a row is given up, and until the host knows, any token will do.
        tokens.copy_(self._drawn[:size].clamp_min(0))
        at.add_(at.ne(PADDING))

    def _inputs(self, size: int) -> DecodeInputs:
        arena, tables = self._arena, self._tables[:size]
        at = arena.positions[:size]
        positions = at.clamp_min(0)
        page = tables.gather(1, (positions // self._block_size).long()[:, None]).squeeze(1).long()
        slots = page * self._block_size + positions % self._block_size
        return DecodeInputs(
            tokens=arena.tokens[:size],
            positions=positions,
            slots=slots.masked_fill(at.eq(PADDING), -1),
            block_tables=tables,
            query_start=self._query_start[: size + 1],
            context_lens=at + 1,
            temperature=arena.temperature[:size],
            top_k=arena.top_k[:size],
            top_p=arena.top_p[:size],
            seeds=arena.seeds[:size],
            drawn_at=at + 1,
        )

    def _capture(self, eager: Callable[[], None], side: torch.cuda.Stream) -> Callable[[], object]:
        """Record a step. It runs once before, so that kernels are built and libraries started, on padding alone."""
        before = self._arena.words.clone()
        self._arena.positions.fill_(PADDING)
        side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(side):
            eager()
        torch.cuda.current_stream(self._device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Other threads may touch CUDA meanwhile: only what this one does is held to the rules of a capture.
        with torch.cuda.graph(graph, pool=self._memory, stream=side, capture_error_mode="thread_local"):
            eager()
        self._arena.words.copy_(before)
        replay: Callable[[], object] = graph.replay
        return replay
