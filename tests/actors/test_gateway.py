"""The gateway: whom it lets in, whom it refuses and with which word, and that one word is all a client gets."""

from __future__ import annotations

import math

import pytest
from actors.serving import STEP_S, Serving

from rakka_sim.errors import BadRequest, NotFound
from rakka_sim.messages import Finished, Submit
from rakka_sim.values import ExecuteBatch, FinishReason, TokenChunk


def test_a_request_gets_its_tokens_and_one_last_word() -> None:
    serving = Serving()
    serving.up()
    request = serving.submit(prompt=20, output=5)
    serving.finish()
    ended = serving.client.ended[request]
    assert (ended.outcome, ended.usage.input, ended.usage.output) == ("stop", 20, 5)
    assert serving.client.times(request) == pytest.approx([STEP_S * n for n in range(1, 6)])
    assert (ended.first_token, ended.last_token) == (
        serving.client.times(request)[0],
        serving.client.times(request)[-1],
    )
    serving.check_idle()


def test_who_does_not_stream_gets_the_last_word_alone() -> None:
    serving = Serving()
    serving.up()
    request = serving.submit(output=5, stream=False)
    serving.finish()
    assert serving.client.ended[request].usage.output == 5
    assert serving.client.chunks == {}


REFUSED = {
    "no prompt": {"prompt": 0},
    "a negative prompt": {"prompt": -1},
    "a prompt beyond all bounds": {"prompt": 1 << 40},
    "a negative output": {"output": -1},
    "a deadline before its arrival": {"timeout_s": -1.0},
    "a deadline that is no number": {"timeout_s": math.nan},
    "a deadline that never comes": {"timeout_s": math.inf},
}


@pytest.mark.parametrize("fields", REFUSED.values(), ids=REFUSED.keys())
def test_a_malformed_request_is_refused_by_name(fields: dict[str, float]) -> None:
    serving = Serving()
    serving.up()
    serving.submit(**fields)  # type: ignore[arg-type]
    fine = serving.submit()
    serving.finish()
    assert serving.outcomes() == ["bad_request", "stop"]
    error = serving.client.ended[1].error
    assert isinstance(error, BadRequest)
    (field,) = fields
    assert field in error.reason
    assert serving.outcome(fine) == "stop"
    serving.check_idle()


def test_a_model_that_nobody_deployed_is_not_found() -> None:
    serving = Serving()
    serving.up()
    request = serving.submit(model="gpt-5")
    serving.finish()
    error = serving.client.ended[request].error
    assert isinstance(error, NotFound)
    assert error.model == "gpt-5"
    assert serving.records()[0]["deployment"] == "gpt-5"
    serving.check_idle()


def test_before_any_replica_serves_the_answer_is_503() -> None:
    serving = Serving()
    request = serving.submit()
    serving.finish()
    error = serving.client.ended[request].error
    assert (serving.outcome(request), error.status) == ("server_error", 503)  # type: ignore[union-attr]
    serving.check_idle()


@pytest.mark.parametrize("after", [0.0, 2.5 * STEP_S, 1.0], ids=["at once", "under way", "ended"])
def test_an_id_is_one_requests(after: float) -> None:
    """A second request of an id, whenever it comes, is refused and changes nothing for the first."""
    serving = Serving()
    serving.up()
    request = serving.submit(output=5)
    if after:
        serving.run(after)
    twin = serving.system.promise("twin")
    serving.system.tell(serving.stack.gateway, Submit(ExecuteBatch(request, "m", 7, 7, ((9, 7),)), twin.ref))
    answer = serving.system.wait(twin)
    assert isinstance(answer.error, BadRequest)
    serving.finish()
    assert serving.outcome(request) == "stop"
    assert serving.client.ended[request].usage.output == 5
    serving.check_idle()
    assert serving.counters()["m"].failed == {}


def test_a_cancel_for_nobody_is_harmless() -> None:
    serving = Serving()
    serving.up()
    serving.cancel(77)
    request = serving.submit()
    serving.finish()
    serving.cancel(request)
    serving.run(1.0)
    assert serving.outcomes() == ["stop"]
    assert serving.system.dead_letters == {}


def test_a_request_that_breaks_is_one_clients_misfortune() -> None:
    """Its actor fails on a message that cannot be; the client is told, the engine is rid of it, others go on."""
    serving = Serving()
    serving.up()
    victim, other = serving.submit(output=50), serving.submit(output=10)
    serving.run(2.5 * STEP_S)
    cell = serving.stack.gateway.cell.children[f"request-{victim}"]  # type: ignore[attr-defined]
    chunk = TokenChunk(victim, serving.client.chunks[other][0].times[:0], finish=FinishReason.STOP)
    cell.actor._life.state = "queued"
    serving.system.tell(cell.ref, Finished(chunk, 0))
    serving.run(2 * STEP_S)
    assert serving.outcome(victim) == "internal"
    assert [engine._load().outstanding for engine in serving.engines().values()] == [1]
    serving.finish()
    assert serving.outcome(other) == "stop"
    assert len(serving.client.times(other)) == 10


def test_what_it_does_not_understand_is_a_dead_letter() -> None:
    serving = Serving()
    serving.system.tell(serving.stack.gateway, "hello")
    serving.run(STEP_S)
    assert serving.system.dead_letters == {"unhandled": 1}
