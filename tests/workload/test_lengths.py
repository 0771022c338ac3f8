"""Lengths and shared prefixes: their statistics, and the contents made of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rakka_sim.config.workload import EmpiricalLengths, LognormalLengths, Prefix, Spread
from rakka_sim.errors import InputError, TraceError
from rakka_sim.workload.lengths import bodies
from rakka_sim.workload.prefixes import prefix_groups

Build = Callable[..., Any]


def drawn(lengths: Any, n: int, base: Path = Path()) -> np.ndarray[Any, Any]:
    return np.array([body[:2] for body in islice(bodies(lengths, np.random.default_rng(1), base), n)])


def test_lognormal_lengths_have_their_moments() -> None:
    prompt, output = Spread(median=1000, sigma=0.5), Spread(mean=2000, cv=0.8)
    tokens = drawn(LognormalLengths(prompt=prompt, output=output, correlation=0.6), 40_000)
    logs = np.log(tokens)
    assert np.median(tokens[:, 0]) == pytest.approx(1000, rel=0.02)
    assert logs[:, 0].std() == pytest.approx(0.5, rel=0.03)
    assert tokens[:, 1].mean() == pytest.approx(2000, rel=0.02)
    assert tokens[:, 1].std() / tokens[:, 1].mean() == pytest.approx(0.8, rel=0.05)
    assert np.corrcoef(logs.T)[0, 1] == pytest.approx(0.6, abs=0.02)


def test_lengths_are_clipped() -> None:
    wild = Spread(median=100, sigma=10, min=7, max=900)
    tokens = drawn(LognormalLengths(prompt=wild, output=Spread(median=2e9, sigma=10)), 5_000)
    assert tokens[:, 0].min() == 7
    assert tokens[:, 0].max() == 900
    assert tokens[:, 1].min() >= 1
    assert tokens[:, 1].max() == 2**31 - 1


@pytest.mark.parametrize(
    ("name", "text", "columns"),
    [
        ("p.csv", "a,prompt_tokens,output_tokens\r\nx,3,30\r\ny,4,40\r\n", {}),
        (
            "p.csv",
            "ContextTokens,GeneratedTokens\n3,30\n4,40",
            {"prompt": "ContextTokens", "output": "GeneratedTokens"},
        ),
        ("p.jsonl", '{"prompt_tokens": 3, "output_tokens": 30}\n\n{"prompt_tokens": 4, "output_tokens": 40}\n', {}),
    ],
)
def test_empirical_lengths_are_pairs_of_the_file(tmp_path: Path, name: str, text: str, columns: dict[str, str]) -> None:
    (tmp_path / name).write_text(text, newline="")
    tokens = drawn(EmpiricalLengths(file=name, **columns), 2_000, tmp_path)
    seen = Counter(map(tuple, tokens.tolist()))
    assert set(seen) == {(3, 30), (4, 40)}
    assert abs(seen[3, 30] - 1000) < 120


def test_empirical_lengths_of_a_sharegpt_file(tmp_path: Path) -> None:
    turns = '[{"from": "human", "value": "12345678"}, {"from": "gpt", "value": "abcde"}]'
    (tmp_path / "s.json").write_text(f'[{{"conversations": {turns}}}]')
    assert drawn(EmpiricalLengths(file="s.json"), 3, tmp_path).tolist() == [[2, 2]] * 3


@pytest.mark.parametrize(
    ("name", "error"), [("none.csv", InputError), ("x.parquet", InputError), ("e.csv", TraceError)]
)
def test_empirical_files_that_cannot_be_used(tmp_path: Path, name: str, error: type[InputError]) -> None:
    (tmp_path / "e.csv").write_text("prompt_tokens,output_tokens\n")
    with pytest.raises(error):
        drawn(EmpiricalLengths(file=name), 1, tmp_path)


def test_prefix_groups_follow_their_weights() -> None:
    groups = list(islice(prefix_groups(Prefix(groups=4, tokens=8, zipf=1.0), np.random.default_rng(1)), 50_000))
    shares = np.bincount(groups, minlength=4) / 50_000
    assert shares == pytest.approx(np.array([12, 6, 4, 3]) / 25, abs=0.01)
    even = list(islice(prefix_groups(Prefix(groups=4, tokens=8), np.random.default_rng(1)), 50_000))
    assert np.bincount(even) / 50_000 == pytest.approx([0.25] * 4, abs=0.01)


def test_prefixes_are_shared_and_what_follows_is_not(build: Build, drain: Build) -> None:
    fixed = {"kind": "fixed", "prompt": 10, "output": 5}
    arrivals = {"kind": "constant", "rate": 1}
    table = {"requests": 200, "arrivals": arrivals, "lengths": fixed, "prefix": {"groups": 3, "tokens": 64}}
    requests = [request for _, request in drain(build(table))]
    assert {request.prompt_tokens for request in requests} == {74}
    assert {tuple(tokens for _, tokens in request.content) for request in requests} == {(64, 10)}
    assert len({request.content[0] for request in requests}) == 3
    assert len({request.content[1] for request in requests}) == 200
    sources = [{request.content[n][0] for request in requests} for n in (0, 1)]
    assert not sources[0] & sources[1]
