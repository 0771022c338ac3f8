"""The decoder against transformers: the same random weights, the same logits, in whatever steps they are computed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from engines.torch.models import ARCHITECTURES, VOCAB, architecture, ours, their_greedy, their_logits
from hypothesis import given, settings
from hypothesis import strategies as st
from scenarios.test_lockstep import penalise

from rakka_sim.core.batching import Batcher, BatchingLimits, Preempted, Sampled, SequenceSpec, Started
from rakka_sim.core.feed import TokenFeed
from rakka_sim.core.kv import KvCache
from rakka_sim.engines.torch.architecture import Architecture
from rakka_sim.engines.torch.kv_pool import FIRST_PAGE, KvPool
from rakka_sim.engines.torch.model import Batch, Decoder
from rakka_sim.engines.torch.runner import Computed, ModelRunner
from rakka_sim.errors import InputError, NotBuilt
from rakka_sim.values import GREEDY_TO_THE_END, ExecuteBatch, FinishReason, Sampling, StepFeed, StepOutcome, StepPlan

BLOCK = 16


def a_prompt(length: int, seed: int = 0) -> list[int]:
    return torch.randint(VOCAB, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def pool_of(decoder: Decoder, blocks: int) -> KvPool:
    spec = decoder.architecture.spec
    return KvPool(spec.layers, blocks, BLOCK, spec.kv_heads, spec.head_dim, decoder.embedding.dtype)


def batch_of(rows: list[tuple[list[int], int, list[int]]]) -> Batch:
    """(all tokens so far, how many of them are in the cache, pages) of each row; every logit is wanted."""
    tokens, positions, slots, starts, lengths = [], [], [], [0], []
    for known, cached, pages in rows:
        places = range(cached, len(known))
        tokens += known[cached:]
        positions += places
        slots += [pages[place // BLOCK] * BLOCK + place % BLOCK for place in places]
        starts.append(len(tokens))
        lengths.append(len(known))
    widest = max(len(pages) for _, _, pages in rows)
    return Batch(
        tokens=torch.tensor(tokens),
        positions=torch.tensor(positions),
        slots=torch.tensor(slots),
        block_tables=torch.tensor([pages + [0] * (widest - len(pages)) for _, _, pages in rows], dtype=torch.int32),
        query_start=torch.tensor(starts, dtype=torch.int32),
        context_lens=torch.tensor(lengths, dtype=torch.int32),
        sampled=torch.arange(len(tokens)),
        max_query=max(len(known) - cached for known, cached, _ in rows),
    )


def agree(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert ours.shape == theirs.shape
    assert float((ours - theirs).abs().max()) <= 1e-4 * float(theirs.abs().max())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_logits_of_a_prompt_are_theirs(name: str) -> None:
    decoder, prompt = ours(name), a_prompt(70)
    agree(decoder(batch_of([(prompt, 0, [3, 1, 7, 2, 5])]), pool_of(decoder, 8)), their_logits(name, prompt))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_logits_are_the_same_in_chunks_and_in_company(name: str) -> None:
    """One prompt in three chunks, beside another that decodes, on pages in no order."""
    decoder, long, short = ours(name), a_prompt(60), a_prompt(20, seed=1)
    pool, pages, others = pool_of(decoder, 12), [9, 4, 6, 1], [2, 11]
    decoder(batch_of([(short[:18], 0, others)]), pool)
    got = [decoder(batch_of([(long[:25], 0, pages)]), pool)]
    second = decoder(batch_of([(short[:19], 18, others), (long[:26], 25, pages)]), pool)
    third = decoder(batch_of([(short[:20], 19, others), (long, 26, pages)]), pool)
    agree(torch.cat([*got, second[1:], third[1:]]), their_logits(name, long))
    agree(torch.stack([second[0], third[0]]), their_logits(name, short)[18:])


class Engine:
    """A batcher and a runner, without actors: the shortest loop there is."""

    def __init__(self, decoder: Decoder, limits: BatchingLimits, blocks: int, graph_rows: int = 0) -> None:
        kv = KvCache(blocks, BLOCK)
        self.batcher = Batcher(limits, kv)
        self.feed = TokenFeed(kv, VOCAB)
        self.runner = ModelRunner(decoder, blocks, BLOCK, graph_rows)
        self.tokens: dict[int, list[int]] = {}
        self.broken: list[int] = []
        self.preemptions = self.cached = 0

    def add(
        self,
        request_id: int,
        prompt: list[int],
        count: int,
        content: tuple[tuple[int, int], ...] = (),
        sampling: Sampling = GREEDY_TO_THE_END,
    ) -> None:
        content = content or ((request_id, len(prompt)),)
        self.batcher.add(SequenceSpec(request_id, len(prompt), count, content))
        batch = ExecuteBatch(request_id, "m", len(prompt), count, content, sampling, token_ids=tuple(prompt))
        self.feed.check(batch)
        self.feed.add(batch, ())

    def finish(self) -> None:
        while (plan := self.batcher.plan()) is not None:
            self.note(self.batcher.take_events())
            done = self.runner.run(plan, self.feed.inputs(plan, self.batcher.promised_blocks(plan)), plan.steps)
            ended = self.feed.took(StepOutcome(plan, 0.0, torch.arange(done.steps).numpy(), done.tokens, done.broken))
            self.note(self.batcher.commit(done.steps, ended))
            self.batcher.check()

    def note(self, events: list[Started | Preempted | Sampled]) -> None:
        for event in events:
            match event:
                case Sampled(request_id, _, count, finish, _):
                    self.tokens.setdefault(request_id, []).extend(self.feed.say(request_id, count)[1])
                    if finish is not None:
                        self.feed.drop(request_id)
                    if finish is FinishReason.ERROR:
                        self.broken.append(request_id)
                case Preempted(request_id):
                    self.preemptions += 1
                    self.feed.unseat(request_id)
                case Started(_, cached):
                    self.cached += cached


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_greedy_tokens_are_theirs_through_chunks_preemption_and_shared_prefixes(name: str) -> None:
    shared = a_prompt(32, seed=7)
    prompts = [shared + a_prompt(9 + 3 * n, seed=n) for n in range(4)] + [a_prompt(5, seed=9)]
    engine = Engine(ours(name), BatchingLimits(4, 24, 128, scheduler_reserve_full_isl=False), blocks=8)
    for n, prompt in enumerate(prompts):
        content = ((100, 32), (n, len(prompt) - 32)) if n < 4 else ((n, len(prompt)),)
        engine.add(n, prompt, 24, content)
    engine.finish()
    assert engine.preemptions > 0
    assert engine.cached > 0
    assert engine.tokens == {n: their_greedy(name, prompt, 24) for n, prompt in enumerate(prompts)}


@pytest.mark.parametrize("graph_rows", [0, 8])
def test_penalties_follow_a_sequence_through_chunks_preemption_and_company(graph_rows: int) -> None:
    """Every kind of penalty beside requests without any; each token against all computed anew and penalised by hand."""
    kinds = [
        replace(GREEDY_TO_THE_END, repetition_penalty=1.4),
        replace(GREEDY_TO_THE_END, presence_penalty=1.5),
        replace(GREEDY_TO_THE_END, frequency_penalty=0.8, repetition_penalty=0.9),
        GREEDY_TO_THE_END,
        replace(GREEDY_TO_THE_END, presence_penalty=-0.5, frequency_penalty=-0.5),
    ]
    limits = BatchingLimits(4, 24, 128, scheduler_reserve_full_isl=False)
    engine = Engine(ours("llama"), limits, blocks=8, graph_rows=graph_rows)
    prompts = [a_prompt(30 + 3 * n, seed=n) for n in range(5)]
    for n, prompt in enumerate(prompts):
        engine.add(n, prompt, 20, sampling=kinds[n])
    engine.finish()
    assert engine.preemptions > 0
    for n, prompt in enumerate(prompts):
        drawn: list[int] = []
        while len(drawn) < 20:
            logits = their_logits("llama", prompt + drawn)[-1]
            penalise(logits, tuple(prompt), drawn, kinds[n])
            drawn.append(int(logits.argmax()))
        assert engine.tokens[n] == drawn
    assert engine.tokens[0] != their_greedy("llama", prompts[0], 20)


@pytest.mark.parametrize("graph_rows", [0, 2, 8])
def test_steps_over_the_buffers_of_graphs_draw_the_same_tokens(graph_rows: int) -> None:
    """Without CUDA they run eagerly, with the padding that a graph would have. Batches beyond `graph_rows` do not."""
    engine = Engine(ours("llama"), BatchingLimits(6, 40, 128), blocks=40, graph_rows=graph_rows)
    prompts = [a_prompt(4 + 7 * n, seed=n) for n in range(5)]
    for n, prompt in enumerate(prompts):
        engine.add(n, prompt, 6 + 5 * n)
    engine.finish()
    assert engine.tokens == {n: their_greedy("llama", prompt, 6 + 5 * n) for n, prompt in enumerate(prompts)}


def test_a_batch_with_a_prompt_in_it_or_with_too_many_rows_is_no_graph_and_says_why() -> None:
    """Two rows to a graph at most; three requests, of which the third comes late and stays."""
    engine = Engine(ours("llama"), BatchingLimits(6, 40, 128), blocks=40, graph_rows=2)
    engine.add(0, a_prompt(4), 8)
    engine.add(1, a_prompt(5), 8)
    ways: list[tuple[int, str]] = []
    run = engine.runner.run

    def noted(plan: StepPlan, feed: StepFeed, steps: int) -> Computed:
        done = run(plan, feed, steps)
        ways.append((done.steps, done.way))
        return done

    engine.runner.run = noted  # type: ignore[method-assign, assignment]
    engine.finish()
    for n in (2, 3, 4):
        engine.add(n, a_prompt(4), 5)
    engine.finish()
    eager, graph = "eager, with prompts", "graph of 2 rows"
    assert ways == [(1, eager), (7, graph), (1, eager), (4, "eager, of more than 2 rows")]
    assert engine.runner._graphs is not None
    assert engine.runner._graphs.captured == (2,)


def decoding(graph_rows: int, sampling: Sampling) -> tuple[ModelRunner, StepPlan]:
    """A runner that has three prompts behind it, and a plan of ten decode steps."""
    engine = Engine(ours("llama"), BatchingLimits(6, 40, 128), blocks=40, graph_rows=graph_rows)
    for n in range(3):
        engine.add(n, a_prompt(5 + n, seed=n), 11, sampling=sampling)
    plan = engine.batcher.plan()
    assert plan is not None
    done = engine.runner.run(plan, engine.feed.inputs(plan, {}), 1)
    engine.note(engine.batcher.commit(1, engine.feed.took(StepOutcome(plan, 0.0, torch.zeros(1).numpy(), done.tokens))))
    plan = engine.batcher.plan()
    assert plan is not None
    assert plan.steps == 10
    engine.runner._sequences.learn(engine.feed.inputs(plan, engine.batcher.promised_blocks(plan)))
    return engine.runner, plan


NOTHING_NEW = StepFeed((), {}, ())


@pytest.mark.parametrize("graph_rows", [0, 4])
@pytest.mark.parametrize("wanted", [1, 4, 9, 10])
def test_a_run_that_is_cut_is_the_beginning_of_the_whole_one(graph_rows: int, wanted: int) -> None:
    """A graph's next step is under way when the end is asked for, and counts; never more than that one."""
    runner, plan = decoding(graph_rows, GREEDY_TO_THE_END)
    whole = runner.run(plan, NOTHING_NEW, 10)
    asked: list[int] = []
    runner, plan = decoding(graph_rows, GREEDY_TO_THE_END)
    cut = runner.run(plan, NOTHING_NEW, 10, lambda steps: asked.append(steps) or steps < wanted)
    assert cut.steps == min(10, wanted + (graph_rows > 0))
    assert asked == list(range(1, cut.steps + 1))
    assert cut.tokens == {n: tokens[: cut.steps] for n, tokens in whole.tokens.items()}
    # What comes next is as if it had been one run.
    rest = replace(plan, rows=[replace(row, context=row.context + cut.steps) for row in plan.rows])
    again = runner.run(rest, NOTHING_NEW, 10 - cut.steps) if cut.steps < 10 else Computed(tokens={0: [], 1: [], 2: []})
    assert {n: cut.tokens[n] + again.tokens[n] for n in range(3)} == whole.tokens


def test_no_step_is_begun_while_a_row_may_just_have_ended() -> None:
    runner, plan = decoding(4, GREEDY_TO_THE_END)
    whole = runner.run(plan, NOTHING_NEW, 10)
    stop = whole.tokens[1][3]
    first = min(tokens.index(stop) for tokens in whole.tokens.values() if stop in tokens)
    runner, plan = decoding(4, replace(GREEDY_TO_THE_END, stop_ids=(stop,)))
    launches: list[object] = []
    assert runner._graphs is not None
    launch = runner._graphs.launch
    runner._graphs.launch = lambda: launches.append(None) or launch()  # type: ignore[method-assign]
    done = runner.run(plan, NOTHING_NEW, 10)
    assert done.stopped
    assert done.steps == len(launches) == first + 1


def test_warming_up_writes_no_page_and_is_forgotten() -> None:
    engine = Engine(ours("qwen3"), BatchingLimits(6, 40, 128), blocks=40, graph_rows=4)
    engine.runner.warm_up()
    assert not engine.runner._pool.memory.any()
    assert engine.runner._graphs is not None
    assert engine.runner._graphs.captured == (4,)
    engine.add(0, a_prompt(9), 5)
    engine.finish()
    assert engine.tokens == {0: their_greedy("qwen3", a_prompt(9), 5)}


def test_logits_that_are_no_numbers_end_their_request_alone() -> None:
    engine = Engine(ours("llama"), BatchingLimits(4, 64, 128), blocks=20)
    for n in range(3):
        engine.add(n, a_prompt(20, seed=n), 30)
    plan = engine.batcher.plan()
    assert plan is not None
    engine.note(engine.batcher.take_events())
    done = engine.runner.run(plan, engine.feed.inputs(plan, {}), 1)
    engine.note(engine.batcher.commit(1, engine.feed.took(StepOutcome(plan, 0.0, torch.zeros(1).numpy(), done.tokens))))
    # A fault in memory: a value in a page of request 1 is no number any more.
    engine.runner._pool.memory[:, 1, engine.batcher._kv.table(1)[0] + FIRST_PAGE, 3] = float("nan")
    engine.finish()
    assert engine.broken == [1]
    assert {n: len(tokens) for n, tokens in engine.tokens.items()} == {0: 30, 1: 1, 2: 30}
    assert engine.tokens[0] == their_greedy("llama", a_prompt(20, seed=0), 30)


@given(cuts=st.lists(st.integers(1, 39), max_size=4))
@settings(max_examples=20, deadline=None)
def test_however_a_prompt_is_cut(cuts: list[int]) -> None:
    decoder, prompt = ours("qwen3"), a_prompt(40)
    pool, ends = pool_of(decoder, 4), sorted({*cuts, 40})
    got = [
        decoder(batch_of([(prompt[:end], begin, [2, 4, 1])]), pool)
        for begin, end in zip([0, *ends], ends, strict=False)
    ]
    agree(torch.cat(got), their_logits("qwen3", prompt))


def test_page_zero_is_nobodys() -> None:
    decoder = ours("llama")
    engine = Engine(decoder, BatchingLimits(4, 64, 128), blocks=6)
    for n in range(3):
        engine.add(n, a_prompt(20, seed=n), 8)
    engine.finish()
    pool = engine.runner._pool
    assert pool.memory.shape[2] == 6 + FIRST_PAGE
    assert not pool.memory[:, :, 0].any()
    assert pool.memory[:, :, 1:].any()


# --- what a config may say --------------------------------------------------------------------------------------


def config_of(**changes: object) -> dict[str, object]:
    import json

    from engines.torch.models import folder

    return json.loads((folder("llama") / "config.json").read_text()) | changes


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_act": "gelu"},
        {"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4, "factor": 2.0}},
        {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
    ],
)
def test_what_is_not_computed_is_said(changes: dict[str, object]) -> None:
    with pytest.raises(NotBuilt):
        Architecture.of(config_of(**changes))


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({"rope_type": "llama3", "factor": 8.0}, "low_freq_factor"),
        ({"rope_type": "yarn"}, "factor, original_max_position_embeddings"),
        ({"rope_type": "linear", "factor": "much"}, "numbers factor"),
        ({"rope_type": "dynamic"}, "numbers factor"),
    ],
)
def test_a_scaling_without_its_numbers_is_refused(given: dict[str, object], missing: str) -> None:
    with pytest.raises(InputError, match=missing):
        Architecture.of(config_of(rope_parameters=given))


def test_dynamic_scaling_ends_where_keys_would_have_to_be_turned_again() -> None:
    with pytest.raises(NotBuilt, match="its trained context, 256 tokens"):
        Decoder(architecture("dynamic-rope"), 257)


def test_the_spelling_before_transformers_5_means_the_same() -> None:
    new = architecture("llama3-rope")
    given = config_of()
    del given["rope_parameters"]
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling["original_max_position_embeddings"] = 64
    old = Architecture.of(given | {"rope_theta": 10000.0, "rope_scaling": scaling})
    assert (old.rope_theta, old.rope_scaling) == (new.rope_theta, new.rope_scaling)
