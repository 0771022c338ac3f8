"""The sampler against a loop over rows, exact distributions, an independent hash; and that batching changes nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from engines.torch.sampling_cases import batch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rakka_sim.engines.torch import ops, reference
from rakka_sim.engines.torch.gumbel import finish, gumbel, hashes, mix

# --- the noise --------------------------------------------------------------------------------------------------


def murmur3(message: bytes, seed: int = 0) -> int:
    """MurmurHash3_x86_32 of whole words, in Python's integers."""
    h = seed
    for start in range(0, len(message), 4):
        k = int.from_bytes(message[start : start + 4], "little") * 0xCC9E2D51 % 2**32
        k = (k << 15 | k >> 17) % 2**32 * 0x1B873593 % 2**32
        h ^= k
        h = ((h << 13 | h >> 19) % 2**32 * 5 + 0xE6546B64) % 2**32
    h ^= len(message)
    h = (h ^ h >> 16) * 0x85EBCA6B % 2**32
    h = (h ^ h >> 13) * 0xC2B2AE35 % 2**32
    return h ^ h >> 16


@pytest.mark.parametrize(("seed", "expected"), [(0, 0xBA6BD213), (0x9747B28C, 0x704B81DC)], ids=["no seed", "seeded"])
def test_the_hash_is_the_published_one(seed: int, expected: int) -> None:
    """MurmurHash3_x86_32 of the four bytes "test", as published with the algorithm's test vectors."""
    word = torch.tensor(int.from_bytes(b"test", "little"))
    assert int(finish(mix(torch.tensor(seed), word), 4)) == murmur3(b"test", seed) == expected


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1))
def test_a_hash_is_of_seed_position_and_id(seed: int, position: int, token: int) -> None:
    message = seed.to_bytes(8, "little", signed=True) + position.to_bytes(4, "little") + token.to_bytes(4, "little")
    found = hashes(torch.tensor([seed]), torch.tensor([position]), torch.tensor([token]))
    assert found.tolist() == [[murmur3(message)]]


def test_noise_is_gumbel_and_finite() -> None:
    extremes = torch.tensor([0, 1, 2**31, 2**32 - 2, 2**32 - 1])
    exact = [-math.log(-math.log1p(-(h + 0.5) / 2**32)) for h in extremes.tolist()]
    assert gumbel(extremes).tolist()[:3] == pytest.approx(exact[:3], rel=1e-6)
    # Near u = 1 float32 has 2^-25 at best; there the noise is so low that the id loses anyway.
    assert gumbel(extremes)[3:].tolist() == pytest.approx([-math.log(25 * math.log(2))] * 2, rel=1e-6)
    noise = gumbel(hashes(torch.arange(40), torch.arange(40) * 7, torch.arange(500))).double()
    assert stats.kstest(noise.flatten().numpy(), "gumbel_r").pvalue > 0.01
    # Neither neighbours in position nor in id nor in seed are alike.
    for a, b in ((noise[1:], noise[:-1]), (noise[:, 1:], noise[:, :-1])):
        assert abs(np.corrcoef(a.flatten(), b.flatten())[0, 1]) < 4 / math.sqrt(a.numel())


@given(st.integers(1, 2**32 - 1))
def test_the_series_meets_the_logarithm(hashed: int) -> None:
    exact = -math.log(-math.log1p(-min((hashed + 0.5) / 2**32, 1 - 2**-25)))
    assert float(gumbel(torch.tensor(hashed))) == pytest.approx(exact, rel=2e-6, abs=2e-6)


# --- what is drawn ----------------------------------------------------------------------------------------------


def allowed(logits: list[float], temperature: float, top_k: int, top_p: float) -> dict[int, float]:
    """id -> probability, by sorting and adding up in Python; equals of the last one let in are let in as well."""
    order = sorted(range(len(logits)), key=lambda i: -logits[i])
    if top_k:
        kth = logits[order[min(top_k, len(order)) - 1]]
        order = [i for i in order if logits[i] >= kth]
    weights = {i: math.exp((logits[i] - logits[order[0]]) / temperature) for i in order}
    total, mass, last = math.fsum(weights.values()), 0.0, -math.inf
    if top_p < 1:
        for i in order:
            mass, last = mass + weights[i] / total, logits[i]
            if mass >= top_p:
                break
    kept = {i: w for i, w in weights.items() if logits[i] >= last}
    return {i: w / math.fsum(kept.values()) for i, w in kept.items()}


@given(st.integers(1, 6), st.integers(1, 60), st.integers(0, 2**16))
def test_a_batch_draws_what_each_row_would_alone(rows: int, vocabulary: int, seed: int) -> None:
    logits, temperature, top_k, top_p, seeds, positions = batch(rows, vocabulary, seed)
    expected = []
    for row in range(rows):
        t, choices = float(temperature[row]), list(range(vocabulary))
        scores = logits[row].tolist()
        if t > 0:
            choices = sorted(allowed(scores, t, int(top_k[row]), float(top_p[row])))
            noise = gumbel(hashes(seeds[row : row + 1], positions[row : row + 1], torch.arange(vocabulary)))[0]
            scores = [s / t + g for s, g in zip(scores, noise.tolist(), strict=True)]
        expected.append(max(choices, key=lambda i: (scores[i], -i)))
    assert ops.sample(logits, temperature, top_k, top_p, seeds, positions).tolist() == expected


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(1.0, 0, 1.0), (0.6, 0, 1.0), (1.7, 5, 1.0), (1.0, 0, 0.8), (0.9, 6, 0.7)]
)
def test_draws_follow_the_exact_distribution(temperature: float, top_k: int, top_p: float) -> None:
    logits = torch.tensor([2.0, 1.5, 1.5, 0.3, 0.0, -0.5, -1.0, -2.0, 0.9, 1.1])
    draws = 20_000
    ids = ops.sample(
        logits.expand(draws, -1),
        torch.full((draws,), temperature),
        torch.full((draws,), top_k),
        torch.full((draws,), top_p),
        torch.full((draws,), 42),
        torch.arange(draws),
    )
    exact = allowed(logits.tolist(), temperature, top_k, top_p)
    seen = np.bincount(ids.numpy(), minlength=len(logits))
    assert {i for i, count in enumerate(seen) if count} == set(exact)
    assert stats.chisquare(seen[list(exact)], np.array(list(exact.values())) * draws).pvalue > 0.01


def test_a_large_vocabulary_is_drawn_evenly() -> None:
    """Where the noise would be too coarse, some ids of 50,000 would never win and ties would go to low ids."""
    vocabulary, draws = 50_000, 400
    many = torch.ones(draws)
    ids = ops.sample(torch.zeros(draws, vocabulary), many, many.int() * 0, many, many.long(), torch.arange(draws))
    assert stats.kstest(ids.numpy() / vocabulary, "uniform").pvalue > 0.01
    assert len(set(ids.tolist())) > draws - 10


@given(st.integers(2, 8), st.integers(0, 2**16), st.data())
def test_tokens_do_not_depend_on_the_batch(rows: int, seed: int, data: st.DataObject) -> None:
    arguments = batch(rows, 37, seed)
    together = ops.sample(*arguments)
    picked = torch.tensor(data.draw(st.permutations(range(rows)))[: data.draw(st.integers(1, rows))])
    assert torch.equal(ops.sample(*(argument[picked] for argument in arguments)), together[picked])


def test_greedy_takes_the_first_of_equals_and_no_noise() -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0, 2.0], [0.0, 0.0, 0.0, 0.0]])
    for seed in range(5):
        rows = torch.full((2,), seed)
        assert ops.sample(logits, torch.zeros(2), rows * 0, torch.full((2,), 0.1), rows, rows).tolist() == [1, 0]


def test_cuts_let_at_least_one_through() -> None:
    logits = torch.tensor([[0.0, 5.0, 5.0, 1.0]]).repeat(4, 1)
    cut = reference.cuts(logits, torch.ones(4), torch.tensor([1, 0, 0, 0]), torch.tensor([1.0, 1e-9, 0.0, 1.0]))
    assert cut.tolist() == [5.0, 5.0, 5.0, -math.inf]


# --- penalties --------------------------------------------------------------------------------------------------


@given(st.integers(1, 5), st.integers(2, 40), st.integers(0, 2**16), st.data())
def test_penalties_are_those_of_a_loop_over_ids(rows: int, vocabulary: int, seed: int, data: st.DataObject) -> None:
    logits = batch(rows, vocabulary, seed)[0]
    ids = st.lists(st.integers(0, vocabulary - 1), max_size=12)
    costs = st.tuples(st.floats(0.5, 2), st.floats(-2, 2), st.floats(-2, 2))
    prompts, generated = (data.draw(st.lists(ids, min_size=rows, max_size=rows)) for _ in range(2))
    penalties = data.draw(st.lists(costs, min_size=rows, max_size=rows))
    expected = logits.double()
    for row, (repetition, presence, frequency) in enumerate(penalties):
        for token in range(vocabulary):
            times, score = generated[row].count(token), float(expected[row, token])
            if times or token in prompts[row]:
                score = score / repetition if score > 0 else score * repetition
            expected[row, token] = score - presence * (times > 0) - frequency * times
    counts = torch.tensor([[one.count(token) for token in range(vocabulary)] for one in generated], dtype=torch.int32)
    there = torch.tensor([[token in one for token in range(vocabulary)] for one in prompts])
    found = reference.penalised(logits, counts, there, *torch.tensor(penalties, dtype=torch.float32).T)
    assert torch.allclose(found.double(), expected, rtol=1e-5, atol=1e-5)


@given(st.integers(2, 40), st.integers(0, 2**16), st.floats(0.5, 2), st.data())
def test_the_repetition_penalty_is_that_of_transformers(
    vocabulary: int, seed: int, penalty: float, data: st.DataObject
) -> None:
    from transformers import RepetitionPenaltyLogitsProcessor

    logits = batch(1, vocabulary, seed)[0]
    ids = data.draw(st.lists(st.integers(0, vocabulary - 1), min_size=1, max_size=20))
    cut = data.draw(st.integers(0, len(ids)))
    theirs = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([ids]), logits.clone())
    counts = torch.bincount(torch.tensor(ids[cut:], dtype=torch.int64), minlength=vocabulary)[None]
    prompt = torch.zeros(1, vocabulary, dtype=torch.bool)
    prompt[0, ids[:cut]] = True
    none = torch.zeros(1)
    ours = reference.penalised(logits, counts, prompt, torch.tensor([penalty]), none, none)
    assert torch.allclose(ours, theirs, rtol=1e-6, atol=1e-6)
