"""The figures: what is drawn is what was measured, and it is really drawn."""

from __future__ import annotations

import io
import itertools
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from report import plainly
from report.plainly import Limits
from report.schedules import Schedule, build

from rakka_sim.report.figures import BLUE, GREEN, ORANGE, Figure, cdf, grouped, highest, over_time
from rakka_sim.report.report import Report

NAMES = ("latency", "timeline", "batch", "replicas")
SLO = Limits(ttft_ms=45.0)


@pytest.fixture(scope="module")
def schedule() -> Schedule:
    return build(41, replicas=3, batches=6)


@pytest.fixture(scope="module")
def report(schedule: Schedule) -> Report:
    return Report(schedule.log(), scenario={"name": "figures"}, slo=SLO)


def pixels(figure: Figure) -> np.ndarray:
    return imread(io.BytesIO(figure._repr_png_()))[:, :, :3]


@pytest.mark.parametrize(("name", "colour"), list(zip(NAMES, (BLUE, GREEN, BLUE, ORANGE), strict=True)))
def test_a_figure_is_really_drawn(report: Report, name: str, colour: str) -> None:
    image = pixels(getattr(report.plot, name)())
    assert min(image.shape[:2]) > 200
    assert (np.abs(image - to_rgb(colour)).max(axis=2) < 0.02).sum() > 50  # its curves or bars
    assert (image.max(axis=2) < 0.2).sum() > 200  # its text
    assert (image.min(axis=2) > 0.98).mean() > 0.3  # and room between them


@pytest.mark.parametrize("name", NAMES)
def test_every_axis_says_what_it_shows_and_in_which_unit(report: Report, name: str) -> None:
    figure = getattr(report.plot, name)()
    for axes in figure.axes:
        assert axes.get_title(loc="left")
        assert axes.get_ylabel()
        if axes is figure.axes[-1] or not axes.get_shared_x_axes().joined(axes, figure.axes[-1]):
            assert axes.get_xlabel()


def curve(axes: Axes, label: str) -> tuple[np.ndarray, np.ndarray]:
    line = next(line for line in axes.get_lines() if str(line.get_label()).startswith(label))
    return np.asarray(line.get_xdata()), np.asarray(line.get_ydata())


def test_the_latency_curves_are_the_distributions(report: Report, schedule: Schedule) -> None:
    axes = report.plot.latency().axes
    done = [request for request in schedule.requests if request.outcome in plainly.COMPLETED]
    ttft = [plainly.latencies(request)["ttft_ms"] for request in done]
    at, share = axes[0].get_lines()[0].get_data()
    assert (at[0], at[-1], share[0], share[-1]) == pytest.approx((min(ttft), max(ttft), 0, 100))
    for value, percent in list(zip(at, share, strict=True))[1:-1]:
        assert value == pytest.approx(plainly.percentile(ttft, percent))
    assert curve(axes[0], "p99")[0] == pytest.approx(plainly.percentile(ttft, 99))
    assert curve(axes[0], "objective")[0] == pytest.approx(45.0)
    gaps = [gap for request in done for gap in plainly.gaps_ms(request)]
    assert curve(axes[2], "p50")[0] == pytest.approx(plainly.percentile(gaps, 50))
    assert not [line for line in axes[2].get_lines() if str(line.get_label()).startswith("objective")]


def test_the_time_line_integrates_to_what_happened(report: Report, schedule: Schedule) -> None:
    axes = report.plot.timeline().axes
    waiting = running = 0.0
    for stretch in schedule.stretches:
        for outcome in stretch.singles():
            seconds = float(outcome.times[0]) - outcome.started
            running += outcome.plan.running * seconds
            waiting += outcome.plan.waiting * seconds
    for label, area in (("running", running), ("waiting", waiting)):
        at, level = curve(axes[0], label)
        assert np.sum(level) * (at[1] - at[0]) == pytest.approx(area)
    at, rate = axes[2].get_lines()[0].get_data()
    assert np.sum(rate) * (at[1] - at[0]) == pytest.approx(sum(request.output_tokens for request in schedule.requests))
    at, share = axes[1].get_lines()[0].get_data()
    assert np.mean(share) == pytest.approx(100 * report.summary()["kv_usage"]["mean"])


def test_the_batch_sizes_share_the_busy_time(report: Report) -> None:
    bars, over = report.plot.batch().axes
    assert sum(bar.get_height() for bar in bars.patches) == pytest.approx(100)
    mean = curve(over, "mean")[1]
    assert 0 < mean.max() <= report.steps.decode_seqs.max()


def test_the_bars_are_the_replicas(report: Report) -> None:
    found = report.summary()["replicas"]
    requests, busy, kv = report.plot.replicas().axes
    assert [bar.get_height() for bar in requests.patches] == [of["requests"] for of in found]
    assert [bar.get_height() for bar in busy.patches] == pytest.approx([100 * of["busy"] for of in found])
    assert [bar.get_height() for bar in kv.patches] == pytest.approx([100 * of["kv_mean"] for of in found])


def test_names_are_not_mathematics() -> None:
    schedule = build(42, deployments=2)
    schedule.replicas[0] = replace(schedule.replicas[0], deployment="$\\frac$ {x_")
    figure = Report(schedule.log()).plot.replicas()
    pixels(figure)  # a formula that does not parse would raise
    assert figure.axes[0].get_xticklabels()[0].get_text().endswith("{x_/0")


intervals = st.lists(st.tuples(st.floats(0, 3), st.floats(0.001, 3), st.integers(0, 9)), max_size=12)


@settings(max_examples=50)
@given(intervals, st.integers(1, 15))
def test_the_mean_over_time_by_hand(gaps: list[tuple[float, float, int]], bins: int) -> None:
    start, end, level, now = [], [], [], 0.0
    for gap, length, height in gaps:
        start.append(now + gap)
        end.append(now + gap + length)
        level.append(height)
        now = end[-1]
    edges = np.linspace(0, now + 1, bins + 1)
    means = over_time(np.array(start), np.array(end), np.array(level), edges)
    tops = highest(np.array(start), np.array(level, int), edges)
    for place, (left, right) in enumerate(itertools.pairwise(edges)):
        inside = [max(0.0, min(right, e) - max(left, s)) * h for s, e, h in zip(start, end, level, strict=True)]
        assert means[place] == pytest.approx(sum(inside) / (right - left), abs=1e-9)
        assert tops[place] == max([h for s, h in zip(start, level, strict=True) if left <= s < right], default=0)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=40), st.integers(1, 12))
def test_bars_are_grouped_without_loss(counts: list[int], most: int) -> None:
    shares, every = grouped(np.array(counts), most)
    assert len(shares) <= most
    assert shares.tolist() == [sum(counts[at : at + every]) for at in range(0, len(counts), every)]


def test_a_distribution_is_thinned_but_keeps_its_ends() -> None:
    values = np.random.default_rng(0).exponential(size=100_000)
    at, share = cdf(values)
    assert len(at) == len(share) == 500
    assert (at[0], at[-1]) == (values.min(), values.max())
    assert cdf(np.array([3.0]))[0].tolist() == [3.0, 3.0]


def test_figures_need_no_pyplot_and_leave_the_users_style_alone() -> None:
    code = (
        "import sys, matplotlib\n"
        "from report.schedules import build\n"
        "from rakka_sim.report.report import Report\n"
        "assert 'matplotlib' in sys.modules and 'matplotlib.figure' not in sys.modules\n"
        "before = matplotlib.rcParams.copy()\n"
        "Report(build(1).log()).plot.latency()._repr_png_()\n"
        "assert matplotlib.rcParams.copy() == before\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    subprocess.run([sys.executable, "-c", code], env=env, check=True)


def test_a_run_without_time_has_figures_too() -> None:
    empty = Report(build(43, batches=0).log())
    for name in NAMES:
        pixels(getattr(empty.plot, name)())
