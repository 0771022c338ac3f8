"""Decode steps over persistent buffers: padded, advanced and run after run they draw what each sequence draws alone."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rakka_sim.engines.torch import ops, reference
from rakka_sim.engines.torch.graphs import DecodeGraphs, DecodeInputs, DecodeRows, graph_sizes
from rakka_sim.errors import InputError

VOCABULARY, HEADS, KV_HEADS, DIM, BLOCK = 50, 4, 2, 16, 4
MAX_PAGES, PAGES = 8, 400
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


class OneLayer:
    """Embedding, attention, head: the least model whose next token depends on every cached one."""

    def __init__(self, device: str) -> None:
        make = torch.Generator().manual_seed(7)
        width = HEADS * DIM
        self.embedding = torch.randn(VOCABULARY, width, generator=make).to(device)
        self.qkv = (torch.randn(width, (HEADS + 2 * KV_HEADS) * DIM, generator=make) * 0.3).to(device)
        angles = torch.outer(torch.arange(64.0), 0.5 ** torch.arange(DIM // 2))
        self.cos_sin = torch.cat([angles.cos(), angles.sin()], 1).to(device)
        self.pools = [torch.zeros(PAGES, BLOCK, KV_HEADS, DIM, device=device) for _ in range(2)]
        self.steps = 0

    def logits(self, tokens: Tensor, positions: Tensor, slots: Tensor, *rows: Tensor) -> Tensor:
        shape = {"heads": HEADS, "kv_heads": KV_HEADS, "head_dim": DIM}
        x = ops.rms_norm(F.embedding(tokens, self.embedding), torch.ones_like(self.embedding[0]), 1e-6)[0]
        q = ops.rope_store(x @ self.qkv, positions, self.cos_sin, slots, *self.pools, **shape)
        attended = ops.paged_attention(q, *self.pools, *rows, scale=DIM**-0.5, max_query=len(tokens) // len(rows[2]))
        return (x + attended.flatten(1)) @ self.embedding.T

    def step(self, at: DecodeInputs) -> Tensor:
        self.steps += 1
        rows = (at.block_tables, at.query_start, at.context_lens)
        logits = self.logits(at.tokens, at.positions, at.slots, *rows)
        drawn = ops.sample(logits, at.temperature, at.top_k, at.top_p, at.seeds, at.drawn_at)
        return drawn.masked_fill(logits.isnan().any(1), -1)


class Sequence:
    """One request: its tokens, its pages, how it is drawn; what it draws alone, its text read anew for every token."""

    def __init__(self, index: int, length: int) -> None:
        make = np.random.default_rng(index)
        self.tokens = make.integers(VOCABULARY, size=length).tolist()
        self.pages = [1 + index * MAX_PAGES + page for page in make.permutation(MAX_PAGES).tolist()]
        self.temperature = float(make.choice([0.0, 0.7, 1.3]))
        self.top_k, self.top_p = int(make.choice([0, 5])), float(make.choice([1.0, 0.8]))
        self.seed = int(make.integers(-(2**63), 2**63 - 1))

    def alone(self, model: OneLayer, steps: int) -> list[int]:
        """The next tokens, each from a model that has just seen the whole sequence as one prompt."""
        known = list(self.tokens)
        for _ in range(steps):
            count = len(known)
            at, pages = torch.arange(count), torch.arange(-(-count // BLOCK), dtype=torch.int32)
            rows = (pages[None], torch.tensor([0, count], dtype=torch.int32), torch.tensor([count], dtype=torch.int32))
            last = model.logits(torch.tensor(known), at, at, *rows)[-1:]
            draw = (torch.tensor([self.temperature]), torch.tensor([self.top_k]), torch.tensor([self.top_p]))
            seed, position = torch.tensor([self.seed]), torch.tensor([count])
            known.append(int(reference.sample(last, *draw, seed, position)))
        return known[len(self.tokens) :]

    def prefill(self, model: OneLayer) -> None:
        """Keys and values of all tokens but the last into its own pages."""
        at = torch.arange(len(self.tokens) - 1)
        slots = torch.tensor(self.pages)[at // BLOCK] * BLOCK + at % BLOCK
        device, count = model.embedding.device, torch.tensor([len(at)], dtype=torch.int32)
        rows = (torch.tensor([self.pages], dtype=torch.int32), torch.cat([count * 0, count]), count)
        tensors = (torch.tensor(self.tokens[:-1], dtype=torch.int32), at, slots, *rows)
        if len(at):
            model.logits(*(tensor.to(device) for tensor in tensors))


@cache
def alone(index: int, length: int, steps: int) -> list[int]:
    """What that sequence draws by itself."""
    return Sequence(index, length).alone(OneLayer("cpu"), steps)


def rows_of(sequences: list[Sequence], carry: list[int] | None = None) -> DecodeRows:
    """As a runner would pack them; tables are as wide as the longest sequence may still need."""
    return DecodeRows(
        tokens=np.array([seq.tokens[-1] if seq.tokens else 0 for seq in sequences], np.int32),
        positions=np.array([len(seq.tokens) - 1 for seq in sequences], np.int32),
        tables=np.array([seq.pages for seq in sequences], np.int32),
        temperature=np.array([seq.temperature for seq in sequences], np.float32),
        top_k=np.array([seq.top_k for seq in sequences], np.int32),
        top_p=np.array([seq.top_p for seq in sequences], np.float32),
        seeds=np.array([seq.seed for seq in sequences], np.int64),
        carry=None if carry is None else np.array(carry, np.int32),
    )


@pytest.fixture(params=DEVICES)
def model(request: pytest.FixtureRequest) -> OneLayer:
    return OneLayer(request.param)


def graphs_of(model: OneLayer, max_rows: int = 16) -> DecodeGraphs:
    device = model.embedding.device
    return DecodeGraphs(model.step, max_rows=max_rows, max_pages=MAX_PAGES, block_size=BLOCK, device=device)


# --- sizes ------------------------------------------------------------------------------------------------------


@given(st.integers(1, 600))
def test_sizes_hold_every_batch_and_waste_little(max_rows: int) -> None:
    sizes = graph_sizes(max_rows)
    assert list(sizes) == sorted(set(sizes))
    assert sizes[-1] >= max_rows
    for rows in range(1, max_rows + 1):
        padded = min(size for size in sizes if size >= rows)
        assert padded - rows < 8
        assert padded < 2 * rows


def test_sizes_are_those_of_the_field() -> None:
    assert graph_sizes(256) == (1, 2, 4, *range(8, 257, 8))
    assert [graph_sizes(rows) for rows in (1, 2, 3, 4, 5)] == [(1,), (1, 2), (1, 2, 3), (1, 2, 4), (1, 2, 4, 8)]


# --- runs of steps ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 8, 11])
def test_runs_draw_what_each_sequence_draws_alone(model: OneLayer, rows: int) -> None:
    """Prompts of one token to nearly three pages, runs across page boundaries, batches with and without padding."""
    sequences = [Sequence(index, 1 + (5 * index) % 11) for index in range(rows)]
    expected = [alone(index, len(seq.tokens), 9) for index, seq in enumerate(sequences)]
    for seq in sequences:
        seq.prefill(model)
    graphs = graphs_of(model)
    graphs.load(rows_of(sequences))
    found = torch.stack([graphs.replay().clone() for _ in range(9)]).T.tolist()
    assert found == expected
    assert graphs.captured[-1] == graphs.padded(rows)


def test_ids_may_be_asked_for_when_the_next_step_is_under_way(model: OneLayer) -> None:
    sequences = [Sequence(index, 4) for index in range(3)]
    expected = [alone(index, 4, 6) for index in range(3)]
    for seq in sequences:
        seq.prefill(model)
    graphs = graphs_of(model)
    graphs.load(rows_of(sequences))
    found, under_way = [], [graphs.launch()]
    for _ in range(5):
        under_way.append(graphs.launch())
        found.append(under_way.pop(0)())
    found.append(under_way.pop()())
    assert np.stack(found, axis=1).tolist() == expected


def test_a_graph_made_before_it_is_needed_changes_nothing(model: OneLayer) -> None:
    sequences = [Sequence(index, 4) for index in range(3)]
    for seq in sequences:
        seq.prefill(model)
    before = [pool.clone() for pool in model.pools]
    graphs = graphs_of(model)
    graphs.load(rows_of(sequences))
    graphs.prepare()
    assert graphs.captured == (16,)
    graphs.prepare(8)
    assert graphs.captured == (16, 8)
    for pool, kept in zip(model.pools, before, strict=True):
        assert torch.equal(pool, kept)
    assert graphs.replay().tolist() == [alone(index, 4, 1)[0] for index in range(3)]


@settings(max_examples=20)
@given(st.data())
def test_batches_come_and_go(data: st.DataObject) -> None:
    """Runs of any length over any choice and order of sequences, loads that carry tokens the host has not seen."""
    model = OneLayer("cpu")
    sequences = [Sequence(index, 1 + (5 * index) % 11) for index in range(6)]
    expected = [alone(index, len(seq.tokens), 12) for index, seq in enumerate(sequences)]
    for seq in sequences:
        seq.prefill(model)
    graphs, drawn = graphs_of(model, max_rows=6), [[] for _ in sequences]
    before: list[int] = []
    for _ in range(data.draw(st.integers(1, 4))):
        chosen = data.draw(st.permutations(range(6)))[: data.draw(st.integers(1, 6))]
        carry = [before.index(i) if i in before else -1 for i in chosen] if data.draw(st.booleans()) else None
        rows = rows_of([sequences[i] for i in chosen], carry)
        if carry is not None:
            rows.tokens[np.array(carry) >= 0] = -7
        graphs.load(rows)
        for _ in range(data.draw(st.integers(1, 3))):
            for i, token in zip(chosen, graphs.replay().tolist(), strict=True):
                drawn[i].append(token)
                sequences[i].tokens.append(token)
        before = list(chosen)
    for found, all_of_it in zip(drawn, expected, strict=True):
        assert found == all_of_it[: len(found)]


def test_padding_writes_nothing_and_disturbs_nobody(model: OneLayer) -> None:
    sequences = [Sequence(index, 6) for index in range(8)]
    graphs = graphs_of(model)
    graphs.load(rows_of(sequences))
    graphs.replay()
    for pool in model.pools:
        pool.zero_()
    few = [Sequence(index, 4) for index in (20, 21, 22, 23, 24)]
    graphs.load(rows_of(few))  # three rows of the last batch are still in the buffers, behind the five
    graphs.replay()
    graphs.replay()
    touched = (model.pools[0] != 0).any(-1).any(-1).nonzero().tolist()
    assert touched == sorted([seq.pages[at // BLOCK], at % BLOCK] for seq in few for at in (3, 4))


def test_a_row_without_a_number_is_told_and_hurts_nobody(model: OneLayer) -> None:
    sequences = [Sequence(index, 5) for index in range(3)]
    expected = [seq.alone(OneLayer("cpu"), 3) for seq in sequences]
    for seq in sequences:
        seq.prefill(model)
    model.pools[1][sequences[1].pages[0]] = float("nan")
    graphs = graphs_of(model)
    graphs.load(rows_of(sequences))
    found = torch.stack([graphs.replay().clone() for _ in range(3)]).T.tolist()
    assert found == [expected[0], [-1, -1, -1], expected[2]]
    sequences[1].tokens[-1:] = [0, 0]
    graphs.load(rows_of(sequences[1:2], carry=[1]))
    assert graphs.replay().tolist() == [-1]


def test_carried_tokens_may_come_from_elsewhere() -> None:
    """The step before may have been no decode step, and its ids in another tensor."""
    model = OneLayer("cpu")
    sequence = Sequence(0, 5)
    (expected,) = sequence.alone(OneLayer("cpu"), 1)
    sequence.prefill(model)
    graphs, last = graphs_of(model), sequence.tokens[-1]
    rows = rows_of([sequence], carry=[2])
    rows.tokens[:] = -7
    graphs.load(rows, torch.tensor([1, 2, last]))
    assert graphs.replay().tolist() == [expected]


# --- what is refused --------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused(model: OneLayer) -> None:
    graphs = graphs_of(model, max_rows=2)
    with pytest.raises(InputError, match=r"rows of a decode batch: 3 is not allowed; allowed: 1 to 2"):
        graphs.load(rows_of([Sequence(index, 1) for index in range(3)]))
    with pytest.raises(InputError, match="rows of a decode batch: 0"):
        graphs.replay()
    wide = rows_of([Sequence(0, 1)])
    with pytest.raises(InputError, match="pages of a sequence: 9"):
        graphs.load(DecodeRows(**{**vars_of(wide), "tables": np.zeros((1, 9), np.int32)}))


def vars_of(rows: DecodeRows) -> dict[str, object]:
    return {name: getattr(rows, name) for name in DecodeRows.__slots__}


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.mark.gpu
def test_a_step_is_recorded_once_and_only_replayed_then() -> None:
    model = OneLayer("cuda")
    graphs = graphs_of(model)
    graphs.load(rows_of([Sequence(index, 3) for index in range(3)]))
    graphs.replay()
    recorded = model.steps
    assert graphs.captured == (16, 4)  # the largest first: all others find room in its memory
    assert recorded == 4  # each once to warm up, once to record
    graphs.replay()
    assert model.steps == recorded
