"""The wall clock: one actor thread, and an executor for real work. No policy may be in it, and no virtual clock."""

from __future__ import annotations

import itertools
import math
import multiprocessing
import queue
import threading
import time
from collections.abc import Callable
from concurrent import futures
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from typing import TYPE_CHECKING, Any

from rakka_sim.errors import AskTimeout, InputError, Stalled
from rakka_sim.runtime.agenda import Agenda
from rakka_sim.runtime.base import ActorSystem, check_address
from rakka_sim.runtime.dues import JobRun
from rakka_sim.runtime.refs import ActorRef, Letterbox

if TYPE_CHECKING:
    import numpy as np

    from rakka_sim.core.supervision import Supervision
    from rakka_sim.runtime.api import Actor, Job
    from rakka_sim.runtime.cell import Cell
    from rakka_sim.runtime.replay import Trace

POLL_S = 0.05
LONGEST_SLEEP_S = 3600.0
DELIVERIES_PER_TURN = 64

Call = tuple[Callable[..., object], tuple[Any, ...]]


class LiveRuntime(ActorSystem):
    """Actors on the wall clock (`api.System`); every method may be called from any thread but the actors' own.

    Real jobs go to `executor`, which the caller shuts down; without one they go to processes of this runtime's own,
    started (spawned) at the first real job: jobs and results are pickled then. Modelled jobs end when their model
    says and execute on the actor thread.
    """

    def __init__(
        self, seed: int | np.integer[Any] = 0, *, executor: Executor | None = None, trace: Trace | None = None
    ) -> None:
        super().__init__(seed, trace, Agenda([], itertools.count()))
        self._start = time.monotonic()
        self._inbox: queue.SimpleQueue[Call] = queue.SimpleQueue()
        self._executor = executor
        self._own_executor: ProcessPoolExecutor | None = None
        self._actors_thread = threading.Thread(target=self._run, name="rakka-sim actors", daemon=True)
        self._actors_thread.start()

    @property
    def now(self) -> float:
        return time.monotonic() - self._start

    # --- from any thread ----------------------------------------------------------------------------------------

    def spawn(
        self,
        name: str,
        make: Callable[[], Actor],
        strategy: Supervision | None = None,
        mailbox: int | np.integer[Any] | None = None,
    ) -> ActorRef:
        ref: ActorRef = self._call(super().spawn, name, make, strategy, mailbox)
        return ref

    def tell(self, to: Any, msg: Any) -> None:
        check_address(to)
        self._inbox.put((super().tell, (to, msg)))
        if not self._actors_thread.is_alive():
            self._empty_inbox()

    def promise(self, name: str) -> Letterbox:
        return _AwaitedBox(self, f"?{name}")

    def question(self, to: Any, msg: Any, timeout: float) -> Letterbox:
        box: Letterbox = self._call(super().question, to, msg, timeout)
        return box

    def wait(
        self, promise: Any, timeout: float | np.number[Any] | None = None, tick: Callable[[], None] | None = None
    ) -> Any:
        if threading.current_thread() is self._actors_thread:
            raise InputError("wait", promise, "outside of actors: it would wait for itself")
        deadline = math.inf if timeout is None else self.now + float(timeout)
        # In short waits, so that Ctrl-C, a failure and `tick` get their turn.
        while not promise.kept.wait(min(POLL_S, max(0.0, deadline - self.now))):
            self.raise_failure()
            if not self._actors_thread.is_alive():
                raise Stalled(promise.path, self.now)
            if self.now >= deadline:
                raise AskTimeout(promise.path, float(timeout or 0.0))
            if tick is not None:
                tick()
        return promise.result()

    def stop(self) -> None:
        """As `ActorSystem.stop`; real jobs under way run to their end first, those still waiting do not start."""
        if threading.current_thread() is self._actors_thread:
            raise InputError("stop", self, "outside of actors: it would wait for itself")
        try:
            self._call(super().stop)
        finally:
            self._actors_thread.join()
            if self._own_executor is not None:
                self._own_executor.shutdown(cancel_futures=True)

    def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call it on the actor thread, or here once that has ended; its result or its error."""
        if threading.current_thread() is self._actors_thread:
            return function(*args)
        outcome: Future[Any] = Future()
        self._inbox.put((_resolve, (outcome, function, args)))
        while not futures.wait((outcome,), POLL_S).done:
            if not self._actors_thread.is_alive():
                self._empty_inbox()
        return outcome.result()

    # --- on the actor thread ------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self.stopped:
                self._turn()
        except BaseException as error:
            # Not an actor's failure, these are handled: without this thread nothing can go on.
            self.fail(error)
        self._empty_inbox()

    def _turn(self) -> None:
        self._empty_inbox()
        if self.stopped:
            return
        if self.failure is None:
            self._deliver()
        else:
            self._wait_for_calls()

    def _deliver(self) -> None:
        """Some of the mail and one thing that is due; sleeps when there is nothing to do."""
        for _ in range(DELIVERIES_PER_TURN):
            if self.failure is not None or not self.mail:
                break
            _, target, msg = self.mail.popleft()
            target.deliver(msg)
            self.settle()
        if self.failure is not None:
            return
        entry = self.agenda.first()
        when = math.inf if entry is None else entry[0]
        if entry is not None and when <= self.now:
            self.agenda.pop()
            entry[3].fire()
            self.settle()
        elif not self.mail:
            self._wait_for_calls(when - self.now)

    def _wait_for_calls(self, seconds: float = math.inf) -> None:
        try:
            function, args = self._inbox.get(timeout=min(max(0.0, seconds), LONGEST_SLEEP_S))
        except queue.Empty:
            return
        function(*args)
        self.settle()

    def _empty_inbox(self) -> None:
        while True:
            try:
                function, args = self._inbox.get_nowait()
            except queue.Empty:
                return
            function(*args)
            self.settle()

    # --- real work ----------------------------------------------------------------------------------------------

    def run_job(self, cell: Cell, job: Job[Any], then: Callable[[Any], object]) -> JobRun:
        if not job.real:
            return super().run_job(cell, job, then)
        job.ends_at(self.now, cell.rng)  # a model's opinion, if any; the work ends when it ends
        run = RealRun(cell, job, then)
        try:
            future = self._workers().submit(_execute, job)
        except Exception as error:
            self._inbox.put((run.ended, (None, error)))
        else:
            future.add_done_callback(lambda done: self._inbox.put((run.ended, _outcome(done))))
        return run

    def _workers(self) -> Executor:
        if self._executor is not None:
            return self._executor
        if self._own_executor is None:
            # Spawned, for a forked child inherits the threads' locks and a CUDA context it cannot use.
            self._own_executor = ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn"))
        return self._own_executor


class RealRun(JobRun):
    """A job that an executor has.

    `interrupt` cuts the job of this process: a worker thread shares it and may heed it, a worker process has a copy.
    """

    __slots__ = ()

    def __init__(self, cell: Cell, job: Job[Any], then: Callable[[Any], object]) -> None:
        super().__init__(cell, job, then)
        self.number = 0  # under way

    def interrupt(self) -> None:
        if self.active:
            self.job.cut(self.ref.cell.system.now)

    def ended(self, result: Any, error: BaseException | None) -> None:
        """The outcome has come from the worker."""
        if self.number < 0 or self.ref.cell.system.failure is not None:
            return
        if not self.current:
            self.lapse()
        elif error is not None:
            self.finish(error, failed=True)
        else:
            self.finish(result)


class _AwaitedBox(Letterbox):
    """A letterbox that another thread can wait at."""

    __slots__ = ("kept",)

    def __init__(self, system: ActorSystem, path: str) -> None:
        self.kept = threading.Event()
        super().__init__(system, path, self.kept.set)


def _execute(job: Job[Any]) -> Any:
    return job.execute()


def _outcome(done: Future[Any]) -> tuple[Any, BaseException | None]:
    try:
        return done.result(), None
    except BaseException as error:
        return None, error


def _resolve(outcome: Future[Any], function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    try:
        outcome.set_result(function(*args))
    except BaseException as error:
        outcome.set_exception(error)
