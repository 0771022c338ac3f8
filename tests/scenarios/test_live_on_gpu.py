"""The live engine on a CUDA device under real faults: the tokens of an undisturbed run, whatever becomes of it."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import pytest
from scenarios.test_live import DRAWN, Live, kill

from rakka_sim.engines.processes import ProcessRunner
from rakka_sim.engines.wire import Work

pytestmark = [pytest.mark.gpu, pytest.mark.slow]
DEVICE = "cuda"
REQUESTS = [(20, 40), (33, 40), (7, 40), (50, 40)]


def live(**config: object) -> Live:
    return Live("float32", 1, runtime_config={"device": DEVICE, **config})


def undisturbed() -> dict[int, list[int]]:
    report, notes = live().play(REQUESTS, sampling=DRAWN)
    assert report.summary()["outcomes"] == {"stop": len(REQUESTS)}
    return notes.heard


def test_two_runs_draw_the_same_and_decode_in_graphs() -> None:
    assert undisturbed() == undisturbed()


def test_a_process_that_is_killed_costs_no_token_and_repeats_none() -> None:
    disturbed = live()
    _, notes = disturbed.play(REQUESTS, after=30, then=kill)
    assert len(disturbed.runners) == 2
    assert notes.heard == undisturbed()


def test_a_process_that_hangs_is_killed_and_replaced() -> None:
    disturbed = live(watchdog_s=5.0)
    _, notes = disturbed.play(REQUESTS, after=30, then=lambda runner: os.kill(runner.pids[0], signal.SIGSTOP))
    assert len(disturbed.runners) == 2
    assert notes.heard == undisturbed()


def test_a_page_that_there_is_not_costs_a_process_and_no_token() -> None:
    """The kernels read far outside of the pool: an illegal address, after which the context is lost."""
    disturbed = live()

    def misplace(runner: ProcessRunner) -> None:
        if len(disturbed.runners) > 1:
            return
        send = runner._send

        def corrupt(work: Work) -> None:
            if work.number == 3:
                blocks = {row.request_id: (0, (10**8,)) for row in work.plan.rows}
                work = replace(work, feed=replace(work.feed, blocks=blocks))
            send(work)

        runner._send = corrupt  # type: ignore[method-assign]

    disturbed.at_start = misplace
    _, notes = disturbed.play(REQUESTS)
    assert len(disturbed.runners) == 2
    assert notes.heard == undisturbed()
