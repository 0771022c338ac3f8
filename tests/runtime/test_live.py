"""What only the wall clock has: other threads, worker processes, an event loop around it, and nothing left behind."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from rakka_sim.errors import AskTimeout, InputError, OutOfMemory, Stalled
from rakka_sim.runtime.api import Context, JobFailed
from rakka_sim.runtime.live import LiveRuntime
from tests.runtime.support import ESCALATE, LONG, RESTART, SOON, Boom, Ping, Say, Steps, acting, boom, quiesce


@pytest.fixture
def system() -> Iterator[LiveRuntime]:
    system = LiveRuntime()
    yield system
    system.stop()


@dataclass
class Square:
    """Real work; says in which process it was done."""

    number: int
    real: bool = True

    def ends_at(self, start: float, rng: Any) -> float:
        return start

    def cut(self, now: float) -> float:
        return now

    def execute(self) -> tuple[int, int]:
        if self.number < 0:
            raise OutOfMemory(reason=f"{self.number}")
        return self.number**2, os.getpid()


class Patient(Square):
    """Real work that ends when it is cut."""

    def __init__(self) -> None:
        super().__init__(3)
        self.cuts: list[float] = []
        self.let_go = threading.Event()

    def cut(self, now: float) -> float:
        self.cuts.append(now)
        self.let_go.set()
        return now

    def execute(self) -> tuple[int, int]:
        assert self.let_go.wait(LONG)
        return super().execute()


def running(system: LiveRuntime, done: Any) -> Any:
    """An actor that runs the jobs it is told, interrupts at "cut", and tells `done` what comes of them."""
    runs: list[Any] = []

    def receive(ctx: Context, msg: Any) -> None:
        if isinstance(msg, Square):
            runs.append(ctx.run(msg, lambda result: ("result", *result)))
        elif msg == "cut":
            runs[-1].interrupt()
        elif msg == "fail":
            raise Boom
        else:
            ctx.tell(done, msg)

    return system.spawn("a", acting(receive), RESTART)


# --- real work --------------------------------------------------------------------------------------------------


def test_real_work_is_done_in_processes_that_do_not_outlive_the_system() -> None:
    threads = set(threading.enumerate())
    system = LiveRuntime()
    first, second = system.promise("first"), system.promise("second")
    actor = running(system, first.ref)
    system.tell(actor, Square(7))
    word, result, pid = system.wait(first, LONG)
    assert (word, result) == ("result", 49)
    assert pid != os.getpid()
    assert multiprocessing.active_children()

    other = system.spawn("b", acting(lambda ctx, msg: run_or_tell(ctx, msg, second.ref)))
    system.tell(other, Square(-5))
    failed = system.wait(second, LONG)
    system.tell(other, Square(2))  # under way when the system stops
    assert isinstance(failed, JobFailed)
    assert isinstance(failed.error, OutOfMemory)
    assert failed.error.reason == "-5"  # whole, out of another process

    system.stop()
    assert multiprocessing.active_children() == []
    assert set(threading.enumerate()) <= threads


def run_or_tell(ctx: Context, msg: Any, done: Any) -> None:
    """Run a job, and pass on what comes of it."""
    if isinstance(msg, Square):
        ctx.run(msg, lambda result: result)
    else:
        ctx.tell(done, msg)


def test_an_executor_of_the_user_is_used_and_left_running() -> None:
    with ThreadPoolExecutor(1) as executor:
        system = LiveRuntime(executor=executor)
        done = system.promise("done")
        system.tell(running(system, done.ref), Square(5))
        assert system.wait(done, LONG) == ("result", 25, os.getpid())
        system.stop()
        assert executor.submit(int, "3").result() == 3


def test_interrupting_real_work_cuts_the_job_where_it_is_shared() -> None:
    with ThreadPoolExecutor(1) as executor:
        system = LiveRuntime(executor=executor)
        done = system.promise("done")
        actor, job = running(system, done.ref), Patient()
        system.tell(actor, job)
        system.tell(actor, "cut")
        assert system.wait(done, LONG) == ("result", 9, os.getpid())
        system.tell(actor, "cut")  # it has ended: harmless
        system.ask(actor, Ping(), LONG)
        assert len(job.cuts) == 1
        system.stop()


def test_a_real_result_for_a_former_incarnation_is_stale() -> None:
    with ThreadPoolExecutor(1) as executor:
        system = LiveRuntime(executor=executor)
        actor, job = running(system, system.promise("never").ref), Patient()
        system.tell(actor, job)
        system.tell(actor, "fail")
        system.ask(actor, Ping(), LONG)
        job.let_go.set()
        while system.dead_letters != {"stale": 1}:
            time.sleep(0.002)
        assert system.last_dead_letters[0].message is job
        system.stop()


class Refusing(ThreadPoolExecutor):
    """An executor that takes no work, or loses what it took."""

    def __init__(self, lose: bool) -> None:
        super().__init__(1)
        self._lose = lose

    def submit(self, *work: Any, **more: Any) -> Future[Any]:  # type: ignore[override]
        if not self._lose:
            raise RuntimeError("no more work")
        lost: Future[Any] = Future()
        lost.cancel()
        return lost


@pytest.mark.parametrize(("lose", "error"), [(False, RuntimeError), (True, CancelledError)])
def test_work_that_the_executor_refuses_or_loses_has_failed(lose: bool, error: type[Exception]) -> None:
    with Refusing(lose) as executor:
        system = LiveRuntime(executor=executor)
        done = system.promise("done")
        system.tell(running(system, done.ref), Square(5))
        failed = system.wait(done, LONG)
        assert isinstance(failed, JobFailed)
        assert isinstance(failed.error, error)
        system.stop()


# --- threads ----------------------------------------------------------------------------------------------------


def test_interrupting_a_job_that_is_overdue_lets_it_end(system: LiveRuntime) -> None:
    """An actor that is kept busy finds its modelled job's end in the past: it has ended, and is no error."""
    done = system.promise("done")

    def receive(ctx: Context, msg: Any) -> None:
        if msg == "go":
            start, running = ctx.now, ctx.run(Steps(SOON / 4, 2), lambda steps: ("ended", steps))
            while ctx.now < start + SOON:
                pass
            running.interrupt()
        else:
            ctx.tell(done.ref, msg)

    system.tell(system.spawn("busy", acting(receive), ESCALATE), "go")
    assert system.wait(done, LONG) == ("ended", 2)


def test_many_threads_may_tell_spawn_and_ask(system: LiveRuntime) -> None:
    heard: list[tuple[int, int]] = []
    listener = system.spawn("listener", acting(lambda ctx, msg: heard.append(msg)))
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            mine = system.spawn(f"own-{number}", acting())
            for n in range(200):
                system.tell(listener, (number, n))
            assert system.ask(mine, Ping(), LONG) == "pong"
            assert system.ask(listener, Ping(), LONG) == "pong"
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    for number in range(4):
        assert [n for who, n in heard if who == number] == list(range(200))


def test_actors_run_in_one_thread_of_their_own(system: LiveRuntime) -> None:
    name = acting(lambda ctx, msg: ctx.tell(msg.reply_to, threading.current_thread()))
    one, two = (system.ask(system.spawn(path, name), Say("who?"), LONG) for path in "ab")
    assert one is two
    assert one is not threading.current_thread()
    assert one.daemon
    assert one.name == "rakka-sim actors"


def test_an_actor_may_not_wait_for_its_own_system(system: LiveRuntime) -> None:
    promise = system.promise("p")
    for call in (lambda: system.wait(promise), system.stop):
        actor = system.spawn(f"a{id(call)}", acting(lambda ctx, msg, call=call: call()), ESCALATE)
        with pytest.raises(InputError):
            system.ask(actor, Say("wait"), LONG)


def test_it_works_inside_a_running_event_loop() -> None:
    async def main() -> Any:
        system = LiveRuntime()
        try:
            actor = system.spawn("a", acting(lambda ctx, msg: ctx.after(SOON, msg) and None))
            answer = system.ask(actor, Ping(), LONG)
            await asyncio.sleep(0)
            return answer, await asyncio.to_thread(system.ask, actor, Ping(), LONG)
        finally:
            system.stop()

    assert asyncio.run(main()) == ("pong", "pong")


# --- ends -------------------------------------------------------------------------------------------------------


def test_stopping_twice_and_from_a_failed_system_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    system = LiveRuntime()
    system.tell(system.spawn("a", acting(boom), ESCALATE), "go")
    with pytest.raises(Boom):
        system.wait(system.promise("never"), LONG)
    system.stop()
    system.stop()
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("fails", [False, True])
def test_a_stop_that_came_in_during_a_handler_ends_the_thread(fails: bool) -> None:
    before = set(threading.enumerate())
    system = LiveRuntime()

    def receive(ctx: Context, msg: str) -> None:
        threading.Thread(target=system.stop).start()
        time.sleep(2 * SOON)
        if fails:
            raise Boom

    system.tell(system.spawn("a", acting(receive), ESCALATE), "go")
    with pytest.raises(Boom if fails else Stalled):
        system.wait(system.promise("never"), LONG)
    system.stop()
    assert set(threading.enumerate()) <= before


def test_waiting_for_a_stopped_system_ends() -> None:
    system = LiveRuntime()
    promise = system.promise("never")
    threading.Timer(SOON, system.stop).start()
    with pytest.raises(Stalled):
        system.wait(promise, LONG)


def test_the_loss_of_the_actor_thread_is_heard() -> None:
    """What is no Exception is no actor's failure; it ends the thread, and everybody who waits is told."""
    system = LiveRuntime()

    def receive(ctx: Context, msg: str) -> None:
        raise SystemExit(3)

    actor = system.spawn("a", acting(receive))
    system.tell(actor, "go")
    with pytest.raises(SystemExit):
        system.wait(system.promise("never"), LONG)
    system.stop()
    system.tell(actor, "late")
    assert system.dead_letters == {"stopped": 1}


def test_chatter_does_not_keep_timers_and_others_waiting(system: LiveRuntime) -> None:
    """Two actors that never stop talking at zero delay."""
    done = system.promise("done")

    def talk(ctx: Context, msg: Any) -> None:
        if msg == "timer":
            ctx.tell(done.ref, "done")
            ctx.stop()
        else:
            if msg == "go":
                ctx.after(SOON, "timer")
            ctx.tell(ctx.self, "again")

    actor = system.spawn("a", acting(talk))
    system.tell(actor, "go")
    assert system.ask(system.spawn("b", acting()), Ping(), LONG) == "pong"
    assert system.wait(done, LONG) == "done"


def test_an_interrupt_while_waiting_leaves_the_system_running(system: LiveRuntime) -> None:
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals arrive in the main thread only")

    def wait() -> None:
        threading.Timer(SOON, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        system.wait(system.promise("never"), LONG)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            wait()
    finally:
        signal.signal(signal.SIGINT, before)
    assert system.ask(system.spawn("a", acting()), Ping(), LONG) == "pong"


def test_a_timeout_of_nothing(system: LiveRuntime) -> None:
    with pytest.raises(AskTimeout):
        system.wait(system.promise("never"), 0.0)
    quiesce(system)
