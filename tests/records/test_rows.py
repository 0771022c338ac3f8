"""Columns that grow, against lists and sets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rakka_sim.core.plan_rows import DecodeRows
from rakka_sim.records.requests import Ids
from rakka_sim.records.rows import ROOM, Floats
from rakka_sim.records.steps import MOST_IN_A_BYTE, ReplicaSteps
from rakka_sim.values import StepOutcome, StepPlan


@given(st.lists(st.lists(st.floats(allow_nan=False), max_size=ROOM)))
def test_floats_are_a_list_and_what_was_read_stays(parts: list[list[float]]) -> None:
    column, plain = Floats(), list[float]()
    read = []
    for part in parts:
        read.append((column.array(), list(plain)))
        column.extend(np.array(part))
        plain += part
        assert column.some(len(plain) - len(part), len(part)).tolist() == part
    assert len(column) == len(plain)
    assert column.array().tolist() == plain
    assert all(seen.tolist() == then for seen, then in read)
    with pytest.raises(ValueError, match="read-only"):
        column.array()[:] = 0.0


@given(st.lists(st.integers(-2, 12)))
def test_ids_are_a_set(numbers: list[int]) -> None:
    ids, plain = Ids(), set[int]()
    for number in numbers:
        assert ids.add(number) == (number not in plain)
        plain.add(number)
        assert len(ids) == len(plain)
        assert [number in ids for number in range(-3, 14)] == [number in plain for number in range(-3, 14)]


def test_ids_that_count_up_take_no_room() -> None:
    ids = Ids()
    for number in (2, 1, 4, 3, 6, 5):
        ids.add(number)
    assert not ids._ahead


def test_more_rows_take_a_block_at_one_step_than_a_byte_holds() -> None:
    log, many = ReplicaSteps(), MOST_IN_A_BYTE + 45
    for takers in (7, many):
        rows = DecodeRows(list(range(takers)), [16] * takers)
        plan = StepPlan(rows, 2, 0, takers, 16 * takers, 16, takers, 0, takers, (0, takers))
        log.append(StepOutcome(plan, 0.0, np.array([1.0, 2.0])), 0, ())
    assert log.columns()["kv_blocks"].tolist() == [7, 14, many, 2 * many]
