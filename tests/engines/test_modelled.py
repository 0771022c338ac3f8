"""Modelled jobs: a run, cut anywhere, ends on the very floats that its steps end on one by one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rakka_sim.config.gpus import gpu
from rakka_sim.config.models import model_spec
from rakka_sim.engines.modelled import ModelledJob, ModelledRunner, step_shape
from rakka_sim.timing.api import StepShape
from rakka_sim.timing.roofline import Roofline
from rakka_sim.values import StepPlan, StepRow

HOST_S = 0.5e-3
MODEL = Roofline(model_spec("Qwen3-0.6B"), gpu("H200"))
RNG = np.random.default_rng(0)


def plan_of(rows: list[StepRow], steps: int = 1) -> StepPlan:
    """A plan, its totals counted the plain way."""
    decode = [row for row in rows if row.tokens == 1 and row.samples]
    return StepPlan(
        rows=rows,
        steps=steps,
        prefill_tokens=sum(row.tokens for row in rows if row not in decode),
        decode_seqs=len(decode),
        context_tokens=sum(row.context for row in decode),
        max_context=max((row.context for row in decode), default=0),
        running=len(rows),
        waiting=0,
        kv_blocks=0,
    )


def decode_plan(contexts: list[int], steps: int = 1) -> StepPlan:
    return plan_of([StepRow(n, 1, context, True) for n, context in enumerate(contexts)], steps)


def started(plan: StepPlan, start: float) -> ModelledJob:
    job = ModelledRunner(MODEL, HOST_S).job(plan)
    job.ends_at(start, RNG)
    return job


@pytest.mark.parametrize("tokens", [5, 6, 7])
def test_a_host_that_is_ahead_costs_nothing_up_to_the_largest_graph(tokens: int) -> None:
    """Whether the step's tokens are decode rows or a prompt's beside one of them."""
    mixed = plan_of([StepRow(0, 1, 7, True), StepRow(1, tokens - 1, 0, True)])
    for plan in (decode_plan([7] * tokens), decode_plan([7] * tokens, steps=3), mixed):
        late, ahead = (ModelledRunner(MODEL, HOST_S, graph).job(plan).ends_at(1.0, RNG) for graph in (0, 6))
        assert late - ahead == pytest.approx(HOST_S * plan.steps if tokens <= 6 else 0.0, abs=1e-12)


def stepped(contexts: list[int], steps: int, start: float, cuts: list[float]) -> list[float]:
    """Boundaries of `steps` single steps, stopping at the first boundary at or after a cut."""
    times: list[float] = []
    for step in range(steps):
        plan = decode_plan([context + step for context in contexts])
        start = ModelledRunner(MODEL, HOST_S).job(plan).ends_at(start, RNG)
        times.append(start)
        if any(cut <= start for cut in cuts):
            break
    return times


contexts_lists = st.lists(st.integers(0, 4000), min_size=1, max_size=40)
starts = st.floats(0.0, 1e6)


@given(contexts_lists, st.integers(1, 60), starts, st.lists(st.floats(-0.01, 0.1), max_size=3))
def test_a_run_cut_anywhere_is_its_steps_to_the_last_bit(
    contexts: list[int], steps: int, start: float, cuts: list[float]
) -> None:
    job = ModelledRunner(MODEL, HOST_S).job(decode_plan(contexts, steps))
    end = job.ends_at(start, RNG)
    for cut in cuts:
        end = job.cut(start + cut)
    outcome = job.execute()
    assert outcome.times.tolist() == stepped(contexts, steps, start, [start + cut for cut in cuts])
    assert outcome.times[-1] == end
    assert outcome.started == start


@given(contexts_lists, st.integers(1, 60), st.integers(0, 59))
def test_a_cut_at_a_boundary_ends_there(contexts: list[int], steps: int, at: int) -> None:
    job = started(decode_plan(contexts, steps), 3.0)
    boundary = float(job.times[min(at, steps - 1)])
    assert job.cut(boundary) == boundary
    assert job.cut(boundary) == boundary  # and again: nothing changes
    assert len(job.execute().times) == min(at, steps - 1) + 1


def test_a_cut_never_comes_before_the_first_boundary_nor_lengthens_a_run() -> None:
    job = started(decode_plan([100], 10), 5.0)
    whole = job.times.tolist()
    assert job.cut(whole[-1] + 1.0) == whole[-1]
    assert job.cut(whole[4]) == whole[4]
    assert job.cut(whole[7]) == whole[4]
    assert job.cut(0.0) == whole[0]
    assert job.execute().times.tolist() == whole[:1]


def test_a_step_takes_the_models_time_and_the_hosts() -> None:
    plan = decode_plan([100, 200])
    shape = StepShape((), 2, 302, 201, 2)
    assert started(plan, 0.0).times.tolist() == [MODEL.seconds(shape) + HOST_S]
    assert ModelledRunner(MODEL, 0.0).job(plan).ends_at(0.0, RNG) == MODEL.seconds(shape)


def test_an_outcome_is_of_its_plan_and_has_no_tokens() -> None:
    plan = decode_plan([10], 5)
    job = started(plan, 1.0)
    outcome = job.execute()
    assert outcome.plan is plan
    assert outcome.tokens == {}
    assert np.all(np.diff(outcome.times) > HOST_S)
    assert not job.real


# --- shapes of plans --------------------------------------------------------------------------------------------

rows = st.lists(
    st.builds(StepRow, st.integers(0, 9), st.sampled_from([1, 1, 2, 500]), st.integers(0, 4000), st.booleans()),
    min_size=1,
    max_size=12,
)


@given(rows)
def test_a_shape_counts_each_row_once(rows: list[StepRow]) -> None:
    shape = step_shape(plan_of(rows))
    assert shape.tokens == sum(row.tokens for row in rows)
    assert shape.samples == sum(row.samples for row in rows)
    attended = sum(row.context + row.tokens for row in rows)
    assert shape.decode_context + sum(chunk + cached for chunk, cached in shape.prefill) == attended


@pytest.mark.parametrize(
    ("row", "shape"),
    [
        (StepRow(0, 1, 7, True), StepShape((), 1, 8, 8, 1)),  # a decode
        (StepRow(0, 1, 0, True), StepShape((), 1, 1, 1, 1)),  # a prompt of one token
        (StepRow(0, 1, 7, False), StepShape(((1, 7),), 0, 0, 0, 0)),  # the budget's last token
        (StepRow(0, 64, 7, True), StepShape(((64, 7),), 0, 0, 0, 1)),  # a last chunk
        (StepRow(0, 64, 7, False), StepShape(((64, 7),), 0, 0, 0, 0)),  # a chunk
    ],
)
def test_the_shape_of_one_row(row: StepRow, shape: StepShape) -> None:
    assert step_shape(plan_of([row])) == shape


def test_a_shape_is_that_of_the_first_step_of_a_run() -> None:
    plan = decode_plan([10, 20], steps=9)
    assert step_shape(plan) == step_shape(replace(plan, steps=1)) == StepShape((), 2, 32, 21, 2)
