"""From rows of a plan to the tensors of a step: what a runner remembers of its sequences, packed. No model is here.

Rows that compute one token stand first. All tables are numpy until the last moment: indexing a list of lists costs
milliseconds a step.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rakka_sim.engines.torch.graphs import DecodeRows
from rakka_sim.engines.torch.kv_pool import FIRST_PAGE
from rakka_sim.engines.torch.model import Batch
from rakka_sim.values import FedSequence, StepFeed, StepRow

Ints = np.ndarray[Any, Any]
ROOM = 64  # entries by which a sequence's arrays grow, at least


class Known:
    """One sequence: its ids, its pages, how its tokens are drawn."""

    __slots__ = ("_ids", "_pages", "fed", "length")

    def __init__(self, fed: FedSequence) -> None:
        self.fed = fed
        self.length = len(fed.tokens)
        self._ids: Ints = np.array(fed.tokens, np.int64)
        self._pages: Ints = np.empty(0, np.int32)

    def ids(self, start: int, stop: int) -> Ints:
        """Token ids of a part of it."""
        return self._ids[start:stop]

    def pages(self, count: int) -> Ints:
        """The first pages of its table."""
        return self._pages[:count]

    def append(self, tokens: list[int]) -> None:
        """More tokens of it are known."""
        self._ids = _with(self._ids, self.length, tokens)
        self.length += len(tokens)

    def place(self, at: int, blocks: tuple[int, ...]) -> None:
        """Its table is this, from entry `at` on."""
        self._pages = _with(self._pages, at, [block + FIRST_PAGE for block in blocks])


def _with(array: Ints, at: int, values: list[int]) -> Ints:
    """The array, with `values` from `at` on; grown if it must be."""
    if at + len(values) > len(array):
        grown = np.empty(max(at + len(values), len(array) * 3 // 2, ROOM), array.dtype)
        grown[: len(array)] = array
        array = grown
    array[at : at + len(values)] = values
    return array


@dataclass(slots=True)
class Draws:
    """How the tokens of a step's sampling rows are drawn (`reference.sample`); [rows] each."""

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    seeds: Tensor
    positions: Tensor


class Sequences:
    """What a runner remembers: every sequence that it was told of and not yet told to forget."""

    def __init__(self, block_size: int, device: torch.device) -> None:
        self._block_size = block_size
        self._device = device
        self._known: dict[int, Known] = {}

    def __getitem__(self, request_id: int) -> Known:
        return self._known[request_id]

    def learn(self, feed: StepFeed) -> None:
        """Take in what has changed."""
        for request_id in feed.gone:
            self._known.pop(request_id, None)
        for fed in feed.new:
            self._known[fed.request_id] = Known(fed)
        for request_id, (at, blocks) in feed.blocks.items():
            self._known[request_id].place(at, blocks)

    def pack(self, rows: list[StepRow], steps: int) -> Batch:
        """The first step of a plan; its tables reach to the last of `steps`."""
        counts = np.array([row.tokens for row in rows], np.int32)
        contexts = np.array([row.context for row in rows], np.int32)
        known = [self._known[row.request_id] for row in rows]
        starts = np.zeros(len(rows) + 1, np.int32)
        np.cumsum(counts, out=starts[1:])
        parts = [seq.ids(row.context, row.context + row.tokens) for seq, row in zip(known, rows, strict=True)]
        ids = np.concatenate(parts)
        lengths = contexts + counts
        tables = self._tables(known, lengths + steps - 1)
        owner = np.repeat(np.arange(len(rows)), counts)
        positions = np.arange(len(ids)) - starts[owner] + contexts[owner]
        slots = tables[owner, positions // self._block_size].astype(np.int64) * self._block_size
        slots += positions % self._block_size
        sampled = starts[1:][[row.samples for row in rows]] - 1
        return Batch(
            tokens=self._tensor(ids),
            positions=self._tensor(positions),
            slots=self._tensor(slots),
            block_tables=self._tensor(tables),
            query_start=self._tensor(starts),
            context_lens=self._tensor(lengths),
            sampled=self._tensor(sampled.astype(np.int64)),
            max_query=int(counts.max()),
        )

    def draws(self, rows: list[StepRow]) -> Draws:
        """How the tokens of these rows, all of which sample, are drawn. A new token's position is the row's length."""
        positions = np.array([row.context + row.tokens for row in rows], np.int64)
        return Draws(*map(self._tensor, (*self._settings(rows), positions)))

    def decode_rows(self, rows: list[StepRow], steps: int) -> DecodeRows:
        """A run of `steps` decode steps of these rows, in numpy."""
        known = [self._known[row.request_id] for row in rows]
        positions = np.array([row.context for row in rows], np.int32)
        tokens = np.array(
            [seq.ids(row.context, row.context + 1)[0] for seq, row in zip(known, rows, strict=True)], np.int32
        )
        tables = self._tables(known, positions + steps)
        temperature, top_k, top_p, seeds = self._settings(rows)
        return DecodeRows(tokens, positions, tables, temperature, top_k, top_p, seeds)

    def _tables(self, known: list[Known], lengths: Ints) -> Ints:
        """[rows, pages] for sequences that come to these lengths; 0 beyond."""
        pages = -(-lengths // self._block_size)
        tables = np.zeros((len(known), int(pages.max())), np.int32)
        for table, seq, count in zip(tables, known, pages.tolist(), strict=True):
            table[:count] = seq.pages(count)
        return tables

    def _settings(self, rows: list[StepRow]) -> tuple[Ints, Ints, Ints, Ints]:
        """Temperature, top_k, top_p and seed of each row."""
        known = [self._known[row.request_id].fed for row in rows]
        return (
            np.array([fed.sampling.temperature for fed in known], np.float32),
            np.array([fed.sampling.top_k for fed in known], np.int32),
            np.array([fed.sampling.top_p for fed in known], np.float32),
            np.array([fed.seed for fed in known], np.int64),
        )

    def _tensor(self, array: Ints) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)


def decode_first(rows: Iterable[StepRow]) -> list[StepRow]:
    """Rows of one token, then the others, each in their order."""
    return sorted(rows, key=lambda row: row.tokens > 1)
