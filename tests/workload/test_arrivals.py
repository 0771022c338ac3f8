"""Open loops: when requests arrive, and that nothing else drawn shifts it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rakka_sim.config.workload import Constant, Gamma, Poisson
from rakka_sim.workload import arrivals, lengths
from rakka_sim.workload.arrivals import arrival_times, pauses

Build = Callable[..., Any]
FIXED = {"kind": "fixed", "prompt": 10, "output": 5}
SPREAD = {"kind": "lognormal", "prompt": {"median": 100, "sigma": 1}, "output": {"mean": 50, "cv": 1}}
POISSON = {"kind": "poisson", "rate": 4.0}


def first(kind: Poisson | Gamma | Constant, n: int, seed: int = 7) -> np.ndarray[Any, Any]:
    return np.array(list(islice(arrival_times(kind, np.random.default_rng(seed)), n)))


@pytest.mark.parametrize("burstiness", [0.2, 0.835, 1.0, 5.0])
def test_gaps_are_gamma_with_the_rate_asked_for(burstiness: float) -> None:
    gaps = np.diff(first(Gamma(rate=4.0, burstiness=burstiness), 40_000), prepend=0.0)
    cv = burstiness**-0.5
    assert gaps.mean() == pytest.approx(0.25, abs=4 * 0.25 * cv / 200)  # four standard errors
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.05)
    assert stats.kstest(gaps, "gamma", (burstiness, 0, 0.25 / burstiness)).pvalue > 1e-3


def test_poisson_is_gamma_of_shape_one() -> None:
    assert np.array_equal(first(Poisson(rate=4.0), 5000), first(Gamma(rate=4.0, burstiness=1.0), 5000))
    counts, _ = np.histogram(first(Poisson(rate=4.0), 40_000), np.arange(0, 9_000))
    assert counts.var() / counts.mean() == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("kind", [Constant(rate=8.0), Gamma(rate=8.0, burstiness=float("inf"))])
def test_constant_arrivals_do_not_drift(kind: Constant | Gamma) -> None:
    times = first(kind, 100_000)
    assert times[0] == 0.125
    assert times[-1] == 12_500.0


@given(st.floats(0.1, 20), st.floats(0.01, 1000), st.integers(0, 2**32))
def test_times_ascend_and_scale_with_the_rate(burstiness: float, rate: float, seed: int) -> None:
    slow = first(Gamma(rate=rate, burstiness=burstiness), 200, seed)
    fast = first(Gamma(rate=2 * rate, burstiness=burstiness), 200, seed)
    assert np.all(np.diff(slow) >= 0)
    assert np.allclose(fast * 2, slow, rtol=1e-12)


def test_chunks_leave_no_trace(monkeypatch: pytest.MonkeyPatch, build: Build, drain: Build) -> None:
    table = {
        "requests": 500,
        "arrivals": {"kind": "gamma", "rate": 4, "burstiness": 0.5},
        "lengths": SPREAD,
        "prefix": {"groups": 5, "tokens": 9, "zipf": 1},
    }
    whole = drain(build(table))
    for module in (arrivals, lengths):
        monkeypatch.setattr(module, "CHUNK", 7)
    assert drain(build(table)) == whole


def test_pauses_have_mean_and_cv() -> None:
    drawn = np.array(list(islice(pauses(3.0, 0.5, np.random.default_rng(3)), 20_000)))
    assert drawn.mean() == pytest.approx(3.0, rel=0.02)
    assert drawn.std() / drawn.mean() == pytest.approx(0.5, rel=0.03)
    assert list(islice(pauses(3.0, 0.0, np.random.default_rng(3)), 2)) == [3.0, 3.0]


def test_streams_are_independent(build: Build, drain: Build) -> None:
    base = {"requests": 300, "arrivals": POISSON, "lengths": SPREAD, "prefix": {"groups": 9, "tokens": 7}}

    def seen(**changes: Any) -> tuple[list[float], list[int], list[int]]:
        got = drain(build({**base, **changes}))
        return (
            [at for at, _ in got],
            [request.output_tokens for _, request in got],
            [request.content[0][0] for _, request in got],
        )

    times, outputs, prefixes = seen()
    assert seen(lengths=FIXED)[0] == times
    assert seen(lengths=FIXED)[2] == prefixes
    assert seen(arrivals={"kind": "gamma", "rate": 9, "burstiness": 3})[1:] == (outputs, prefixes)
    assert seen(prefix=None)[:2] == (times, outputs)
    assert seen(arrivals={"kind": "closed", "concurrency": 3, "think_time_s": 1, "think_cv": 1})[1:] == (
        outputs,
        prefixes,
    )
    assert abs(np.corrcoef(np.diff(times), outputs[1:])[0, 1]) < 0.2


def test_a_seed_is_all_there_is(build: Build, drain: Build) -> None:
    table = {"requests": 50, "arrivals": POISSON, "lengths": SPREAD}
    assert drain(build(table, seed=5)) == drain(build(table, seed=5))
    assert drain(build(table, seed=5)) != drain(build(table, seed=6))


def test_the_open_loop_ends_at_its_limits(build: Build, drain: Build) -> None:
    source = build({"requests": 20, "arrivals": {"kind": "constant", "rate": 2}, "lengths": FIXED})
    assert (source.total, source.peek(), source.exhausted) == (20, 0.5, False)
    got = drain(source)
    assert [request.request_id for _, request in got] == list(range(1, 21))
    assert (source.peek(), source.exhausted) == (None, True)
    timed = build({"duration_s": 5, "arrivals": {"kind": "constant", "rate": 2}, "lengths": FIXED})
    assert timed.total is None
    assert [at for at, _ in drain(timed)] == [n / 2 for n in range(1, 10)]  # at 5 s none arrives any more
    assert timed.exhausted


def test_requests_carry_what_the_workload_says(build: Build) -> None:
    base = {"requests": 3, "arrivals": POISSON, "lengths": FIXED, "timeout_s": 9.0}
    plain = build(base, first_id=40).pop()
    assert (plain.request_id, plain.model, plain.timeout_s, plain.session) == (40, "m", 9.0, 0)
    assert (plain.prompt_tokens, plain.output_tokens, plain.sampling.max_tokens) == (10, 5, None)
    assert plain.content == ((160, 10),)
    told = build({**base, "sampling": {"max_tokens": "output", "temperature": 0.5}}).pop().sampling
    assert (told.max_tokens, told.temperature) == (5, 0.5)
    assert build({**base, "sampling": {"max_tokens": 3}}).pop().sampling.max_tokens == 3
