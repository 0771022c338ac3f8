"""The feed against a runner that believes every word of it: tables and tokens are always those of the cores."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rakka_sim.core.batching import Batcher, BatchingLimits, Event, Preempted, Sampled, SequenceSpec
from rakka_sim.core.feed import TokenFeed
from rakka_sim.core.kv import KvCache
from rakka_sim.errors import BadRequest
from rakka_sim.values import ExecuteBatch, FinishReason, Sampling, StepOutcome, StepPlan

VOCAB, BLOCK, STOP = 50, 4, 7


class Believer:
    """Draws the next token from all before it, as read off the blocks that the feed has told: a model in one line.

    It writes each token into its block when it computes it, so that a wrong table, or a block given to two sequences,
    shows as a wrong token.
    """

    def __init__(self, blocks: int) -> None:
        self.memory = np.full((blocks, BLOCK), -1)
        self.tokens: dict[int, list[int]] = {}
        self.tables: dict[int, list[int]] = {}

    def run(self, plan: StepPlan, feed: object, steps: int) -> dict[int, list[int]]:
        for gone in feed.gone:
            self.tokens.pop(gone, None)
        for fed in feed.new:
            self.tokens[fed.request_id], self.tables[fed.request_id] = list(fed.tokens), []
        for request_id, (at, blocks) in feed.blocks.items():
            assert at <= len(self.tables[request_id])
            self.tables[request_id] = [*self.tables[request_id][:at], *blocks]
        drawn: dict[int, list[int]] = {row.request_id: [] for row in plan.rows if row.samples}
        for step in range(steps):
            for row in plan.rows:
                tokens, table = self.tokens[row.request_id], self.tables[row.request_id]
                first, end = row.context + step, row.context + step + row.tokens
                for place in range(first, end):
                    self.memory[table[place // BLOCK], place % BLOCK] = tokens[place]
                if row.samples:
                    seen = [int(self.memory[table[place // BLOCK], place % BLOCK]) for place in range(end)]
                    assert seen == tokens[:end]
                    drawn[row.request_id].append(next_token(seen))
                    tokens.append(drawn[row.request_id][-1])
        return drawn


def next_token(tokens: list[int]) -> int:
    return (sum((n + 1) * token for n, token in enumerate(tokens)) * 2654435761 >> 7) % VOCAB


def alone(prompt: tuple[int, ...], count: int, stop: bool) -> list[int]:
    tokens = list(prompt)
    while len(tokens) < len(prompt) + count and not (stop and tokens[len(prompt) :][-1:] == [STOP]):
        tokens.append(next_token(tokens))
    return tokens[len(prompt) :]


requests = st.lists(
    st.tuples(st.integers(1, 16), st.integers(1, 16), st.integers(0, 2), st.booleans()), min_size=1, max_size=9
)


@given(
    requests,
    st.lists(st.sampled_from(["go", "go", "cut", "fail", "cancel"]), max_size=30),
    st.booleans(),
    st.sampled_from([12, 24]),
)
@settings(max_examples=300)
def test_every_token_is_drawn_from_the_right_ones(
    given_requests: list[tuple[int, int, int, bool]], what: list[str], runs: bool, blocks: int
) -> None:
    kv = KvCache(blocks, BLOCK)
    batcher = Batcher(BatchingLimits(3, 16, 48, scheduler_reserve_full_isl=False), kv, runs)
    feed, runner = TokenFeed(kv, VOCAB), Believer(blocks)
    asked: dict[int, tuple[ExecuteBatch, int]] = {}
    heard: dict[int, list[int]] = {}
    over: dict[int, FinishReason] = {}

    def note(events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Preempted):
                feed.unseat(event.request_id)
            elif isinstance(event, Sampled):
                heard[event.request_id] += feed.say(event.request_id, event.count)[1]
                if event.finish is not None:
                    feed.drop(event.request_id)
                    over[event.request_id] = event.finish

    for n, (prompt, output, shared, stops) in enumerate(given_requests):
        ids = tuple((3 * place + 1) % VOCAB for place in range(8 * shared)) + tuple(
            (n + 2) * (place + 1) % VOCAB for place in range(prompt)
        )
        content = ((1000, 8 * shared), (n, prompt)) if shared else ((n, prompt),)
        sampling = Sampling(stop_ids=(STOP,) if stops else ())
        batch = ExecuteBatch(n, "m", len(ids), output, content, sampling, token_ids=ids)
        feed.check(batch)
        batcher.add(SequenceSpec(n, len(ids), output, content))
        feed.add(batch, ())
        asked[n], heard[n] = (batch, output), []

    acts = iter(what)
    while (plan := batcher.plan()) is not None:
        note(batcher.take_events())
        told = feed.inputs(plan, batcher.promised_blocks(plan))
        act = next(acts, "go")
        if act == "fail":
            runner = Believer(blocks)  # what it knew is gone with it
            note(batcher.fail())
            feed.forget()
            continue
        if act == "cancel":
            note(batcher.cancel(plan.rows[-1].request_id))
        stops = any(asked[row.request_id][0].sampling.stop_ids for row in plan.rows)
        steps = 1 if act != "go" or stops else plan.steps
        tokens = runner.run(plan, told, steps)
        ended = feed.took(StepOutcome(plan, 0.0, np.arange(steps), tokens))
        note(batcher.commit(steps, ended))
        batcher.check()

    assert sorted(over) == sorted(asked)
    for n, (batch, output) in asked.items():
        whole = alone(batch.token_ids, output, bool(batch.sampling.stop_ids))
        if over[n] is FinishReason.CANCELLED:
            assert heard[n] == whole[: len(heard[n])]
        else:
            assert heard[n] == whole


def a_batch(**changes: object) -> ExecuteBatch:
    sampling = {name: changes.pop(name) for name in list(changes) if hasattr(Sampling(), name)}
    made = ExecuteBatch(1, "m", 3, 5, ((1, 3),), Sampling(**sampling), token_ids=(1, 2, 3))
    return replace(made, **changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"token_ids": ()}, "0 token ids are given"),
        ({"token_ids": (1, 2, VOCAB)}, "1 to 50"),
        ({"token_ids": (-1, 2, 3)}, "0 to 49"),
        ({"stop": ("x",)}, "need a tokenizer"),
        ({"presence_penalty": 2.1}, "presence_penalty and frequency_penalty are -2 to 2"),
        ({"frequency_penalty": float("nan")}, "frequency_penalty"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is above 0"),
        ({"repetition_penalty": float("inf")}, "repetition_penalty"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_k": -1}, "top_k"),
    ],
)
def test_what_no_real_model_can_serve_is_refused(changes: dict[str, object], said: str) -> None:
    feed = TokenFeed(KvCache(4, BLOCK), VOCAB)
    feed.check(a_batch())
    with pytest.raises(BadRequest, match=said):
        feed.check(a_batch(**changes))


def test_a_row_whose_logits_are_no_numbers_ends_without_that_token() -> None:
    kv = KvCache(12, BLOCK)
    batcher, feed = Batcher(BatchingLimits(3, 16, 48), kv), TokenFeed(kv, VOCAB)
    for n in (1, 2):
        batcher.add(SequenceSpec(n, 3, 10, ((n, 3),)))
        feed.add(replace(a_batch(), request_id=n), ())
    plan = batcher.plan()
    assert plan is not None
    feed.inputs(plan, {})
    ended = feed.took(StepOutcome(plan, 0.0, np.arange(1), {1: [4], 2: []}, broken=(2,)))
    last = {event.request_id: event for event in batcher.commit(1, ended) if isinstance(event, Sampled)}
    assert (last[1].count, last[1].finish) == (1, None)
    assert (last[2].count, last[2].finish) == (0, FinishReason.ERROR)
    batcher.check()


def test_less_fits_into_a_step_after_it_did_not_fit_into_memory() -> None:
    batcher = Batcher(BatchingLimits(8, 20, 64), KvCache(40, BLOCK))
    batcher.add(SequenceSpec(1, 30, 5, ((1, 30),)))
    budgets = []
    for _ in range(6):
        plan = batcher.plan()
        assert plan is not None
        budgets.append(plan.prefill_tokens + plan.decode_seqs)
        batcher.fail()
        batcher.shrink()
        batcher.check()
    assert budgets == [20, 10, 5, 2, 1, 1]
