"""Batches for paged attention: rows of any kind, blocks scattered over the pools, and dense attention beside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st


@dataclass(repr=False)
class Case:
    """One call of `paged_attention`, and each row's own keys and values [context, kv_heads, head_dim] in order."""

    q: torch.Tensor
    k_pool: torch.Tensor
    v_pool: torch.Tensor
    block_tables: torch.Tensor
    query_start: torch.Tensor
    context_lens: torch.Tensor
    scale: float
    window: int | None
    max_query: int
    keys: list[torch.Tensor]
    values: list[torch.Tensor]

    @classmethod
    def build(
        cls,
        rows: list[tuple[int, int]],
        *,
        kv_heads: int,
        group: int,
        seed: int,
        head_dim: int = 16,
        block_size: int = 4,
        window: int | None = None,
        spare: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> Case:
        """Rows of (queries, tokens cached before them); (n, -n) is a padded row of n queries and no context.

        Whatever a row may not look at is NaN: unused blocks, slots past a context. Tables end in `spare` entries that
        name no block at all.
        """
        make = torch.Generator().manual_seed(seed)
        contexts = [queries + cached for queries, cached in rows]
        counts = [-(-context // block_size) for context in contexts]
        blocks = torch.randperm(sum(counts) + 2, generator=make)
        k_pool, v_pool = (torch.full((len(blocks), block_size, kv_heads, head_dim), float("nan")) for _ in range(2))
        tables = torch.full((len(rows), max(counts, default=0) + spare), 2**30, dtype=torch.int32)
        keys, values, used = [], [], 0
        for row, (context, count) in enumerate(zip(contexts, counts, strict=True)):
            mine = blocks[used : used + count]
            tables[row, :count] = mine
            used += count
            for pool, kept in ((k_pool, keys), (v_pool, values)):
                tokens = torch.randn(context, kv_heads, head_dim, generator=make)
                at = torch.arange(context)
                pool[mine[at // block_size], at % block_size] = tokens
                kept.append(tokens.to(dtype))
        lengths = torch.tensor([0, *(queries for queries, _ in rows)], dtype=torch.int32)
        q = torch.randn(int(lengths.sum()), kv_heads * group, head_dim, generator=make)
        return cls(
            q=q.to(dtype),
            k_pool=k_pool.to(dtype),
            v_pool=v_pool.to(dtype),
            block_tables=tables,
            query_start=lengths.cumsum(0, dtype=torch.int32),
            context_lens=torch.tensor(contexts, dtype=torch.int32),
            scale=head_dim**-0.5,
            window=window,
            max_query=max((queries for queries, _ in rows), default=0),
            keys=keys,
            values=values,
        )

    def __repr__(self) -> str:
        rows = list(zip(self.query_start.diff().tolist(), self.context_lens.tolist(), strict=True))
        kind = f"{self.q.dtype}, {self.q.shape[1]} heads, pools {list(self.k_pool.shape)}, window {self.window}"
        return f"Case({kind}, (queries, context) of each row: {rows})"

    def run(self, attention: Callable[..., torch.Tensor], **more: Any) -> torch.Tensor:
        tensors = (self.q, self.k_pool, self.v_pool, self.block_tables, self.query_start, self.context_lens)
        return attention(*tensors, scale=self.scale, window=self.window, max_query=self.max_query, **more)


def dense(case: Case) -> torch.Tensor:
    """What attention means, query by query and head by head, in float64."""
    out = torch.zeros_like(case.q, dtype=torch.float64)
    starts = case.query_start.tolist()
    for row, (keys, values) in enumerate(zip(case.keys, case.values, strict=True)):
        context, queries = len(keys), starts[row + 1] - starts[row]
        for index in range(queries if context else 0):
            at = context - queries + index
            first = 0 if case.window is None else max(0, at + 1 - case.window)
            for head in range(case.q.shape[1]):
                shared = head // (case.q.shape[1] // keys.shape[1])
                q = case.q[starts[row] + index, head].double()
                weights = torch.softmax(keys[first : at + 1, shared].double() @ q * case.scale, 0)
                out[starts[row] + index, head] = weights @ values[first : at + 1, shared].double()
    return out.to(case.q.dtype)


def rows(most_queries: int = 9, most_cached: int = 21) -> st.SearchStrategy[tuple[int, int]]:
    """Decode, prefill, extend, and both kinds of padding: no query, and a query without context."""
    cached = st.integers(0, most_cached)
    return st.one_of(
        st.tuples(st.just(1), cached),
        st.tuples(st.integers(2, most_queries), st.just(0)),
        st.tuples(st.integers(2, most_queries), cached),
        st.sampled_from([(0, 0), (1, -1)]),
    )


@st.composite
def cases(draw: st.DrawFn, most_rows: int = 4, decode_only: bool = False) -> Case:
    """Any batch: of 1 to 7 query heads a KV head, with and without a window, tables longer than need be."""
    one = st.one_of(st.tuples(st.just(1), st.integers(0, 40)), st.just((1, -1)))
    return Case.build(
        draw(st.lists(one if decode_only else rows(), min_size=1, max_size=most_rows)),
        kv_heads=draw(st.sampled_from([1, 2])),
        group=draw(st.sampled_from([1, 4, 7])),
        block_size=draw(st.sampled_from([4, 16])),
        window=draw(st.one_of(st.none(), st.integers(1, 24))),
        spare=draw(st.integers(0, 2)),
        seed=draw(st.integers(0, 2**16)),
    )
