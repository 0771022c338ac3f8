"""The two tiers below an engine: a poisoned context is rebuilt, three times a minute; nothing in flight is lost."""

from __future__ import annotations

import pytest
from actors.serving import STEP_S, Faults, Serving

from rakka_sim.errors import ContextPoisoned, OutOfMemory, RakkaError, Unrecoverable


def poisoned_at(*passes: int) -> Faults:
    return Faults({("n0", number): ContextPoisoned("illegal address") for number in passes})


def served(faults: Faults, startup_s: float = 0.0, output: int = 10) -> Serving:
    """Two requests on one engine that plans step by step."""
    serving = Serving(faults, engine={"runs_of_steps": False, "startup_s": startup_s})
    serving.up()
    for _ in range(2):
        serving.submit(output=output)
    return serving


@pytest.mark.parametrize("number", [1, 2, 5, 10])
def test_a_poisoned_context_is_rebuilt_and_nothing_is_lost(number: int) -> None:
    serving = served(poisoned_at(number), startup_s=0.5)
    engine = serving.engine_ref("m-0")
    serving.finish()
    assert serving.outcomes() == ["stop", "stop"]
    for request in (1, 2):
        times = serving.client.times(request)
        assert len(times) == 10
        # The step that was poisoned yields nothing; what follows waits for the new context.
        wanted = [0.5 + STEP_S * (n if n < number else n + 1) + (0.5 if n >= number else 0.0) for n in range(1, 11)]
        assert times == pytest.approx(wanted)
    assert serving.faults.built["n0"] == 2
    assert serving.engine_ref("m-0") == engine
    serving.check_idle()


def test_a_cancel_during_the_rebuild_is_heard() -> None:
    serving = served(poisoned_at(3), startup_s=5.0)
    serving.run(3.5 * STEP_S)
    serving.cancel(1)
    serving.run(STEP_S)
    assert serving.outcome(1) == "cancelled"
    assert serving.client.ended_at[1] == pytest.approx(5.0 + 3.5 * STEP_S)
    serving.finish()
    assert serving.outcome(2) == "stop"
    serving.check_idle()


def test_arrivals_during_the_rebuild_wait_for_it_in_order() -> None:
    serving = served(poisoned_at(1), startup_s=1.0)
    serving.run(1.5 * STEP_S)
    late = serving.submit(output=2)
    serving.finish()
    assert serving.client.times(late)[0] == pytest.approx(2.0 + 2 * STEP_S)
    serving.check_idle()


def test_three_restarts_in_a_minute_are_mended_below_the_engine() -> None:
    serving = served(poisoned_at(2, 4, 6))
    serving.finish()
    assert serving.outcomes() == ["stop", "stop"]
    assert (serving.faults.built["n0"], list(serving.engines())) == (4, ["m-0"])
    serving.check_idle()


def test_the_fourth_in_a_minute_is_the_engines_end() -> None:
    """One replica: nobody else is there to take its requests over; they wait for the engine that replaces it."""
    serving = served(poisoned_at(2, 4, 6, 8))
    serving.finish()
    assert serving.outcomes() == ["stop"] * 2
    assert list(serving.engines()) == ["m-0.2"]
    serving.check_idle()


def test_restarts_further_apart_than_a_minute_do_not_add_up() -> None:
    serving = served(poisoned_at(*range(2, 40, 2)), output=1)
    for _ in range(19):
        serving.submit(output=1)
        serving.finish()
        serving.run(20.5)
    assert set(serving.outcomes()) == {"stop"}
    assert list(serving.engines()) == ["m-0"]
    assert serving.faults.built["n0"] > 10
    serving.check_idle()


def test_the_restarts_of_both_tiers_are_bounded_together() -> None:
    """Every pass is poisoned: 4 contexts for each of 4 engines, then the deployment has failed. No endless loop."""
    serving = served(poisoned_at(*range(1, 1000)))
    for _ in range(100):
        serving.submit()
        serving.run(4 * STEP_S)
    assert serving.faults.built["n0"] <= 16
    assert serving.engines() == {}
    assert "stop" not in serving.outcomes()
    serving.check_idle()


@pytest.mark.parametrize("number", [1, 2, 5, 10])
def test_a_step_out_of_memory_is_tried_again(number: int) -> None:
    serving = served(Faults({("n0", number): OutOfMemory()}))
    serving.finish()
    assert serving.outcomes() == ["stop", "stop"]
    assert [len(serving.client.times(request)) for request in (1, 2)] == [10, 10]
    assert serving.faults.built["n0"] == 1, "a sound context is not rebuilt"
    serving.check_idle()


def test_a_batch_that_never_fits_ends_and_the_engine_serves_on() -> None:
    """Out of memory three times over: the requests of that batch are told so, those that waited are served."""
    faults = Faults({("n0", number): OutOfMemory("2 GiB wanted") for number in (3, 4, 5)})
    serving = Serving(faults, engine={"runs_of_steps": False, "max_num_seqs": 2})
    serving.up()
    for _ in range(4):
        serving.submit(output=6)
    serving.finish()
    assert serving.outcomes() == ["out_of_memory"] * 2 + ["stop"] * 2
    assert isinstance(serving.client.ended[1].error, OutOfMemory)
    assert [len(serving.client.times(request)) for request in range(1, 5)] == [2, 2, 6, 6]
    assert list(serving.engines()) == ["m-0"]
    serving.check_idle()


BUILDING = {
    "out of memory": OutOfMemory("the weights do not fit"),
    "poisoned": ContextPoisoned(),
    "unknown": ValueError("no such kernel"),
}


@pytest.mark.parametrize("error", BUILDING.values(), ids=BUILDING.keys())
def test_a_context_that_fails_to_build_is_built_again(error: Exception) -> None:
    serving = Serving(Faults(building={("n0", 1): error}))
    assert serving.up()[0].state == "serving"
    request = serving.submit()
    serving.finish()
    assert serving.outcome(request) == "stop"
    assert serving.faults.built["n0"] == 2
    serving.check_idle()


@pytest.mark.parametrize("error", [*BUILDING.values(), Unrecoverable("no device")], ids=[*BUILDING, "no device"])
def test_a_context_that_can_never_be_built_fails_the_deployment(error: Exception) -> None:
    serving = Serving(Faults(building={("n0", number): error for number in range(1, 100)}))
    status = serving.up()[0]
    assert status.state == "failed"
    assert isinstance(status.error, RakkaError | ValueError)
    assert serving.faults.built["n0"] <= 16
    assert serving.engines() == {}


def test_an_interrupted_run_of_steps_fails_like_any_other() -> None:
    """An arrival cuts the run in flight, which turns out to be poisoned at that boundary."""
    serving = Serving(poisoned_at(2))
    serving.up()
    serving.submit(output=50)
    serving.run(5.5 * STEP_S)
    late = serving.submit(output=50)
    serving.finish()
    assert serving.outcomes() == ["stop", "stop"]
    assert [len(serving.client.times(request)) for request in (1, late)] == [50, 50]
    serving.check_idle()
