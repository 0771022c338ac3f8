"""Worker processes from the parent's side: start them, give them work, notice when one is gone or hangs. No torch.

The parent never touches a device: a fault in a worker is mended by a new process, which is the only thing that mends a
sticky CUDA error. What hangs cannot be interrupted, so it is killed. Ranks live and die together: without one of them,
the others wait for ever in a collective.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections import Counter
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import TYPE_CHECKING, Any, Self

from rakka_sim.engines.recipe import Recipe
from rakka_sim.engines.wire import POISONED, Done, Failed, Ready, Shared, Work
from rakka_sim.errors import ContextPoisoned, InvariantBroken, OutOfMemory, RakkaError, Unrecoverable
from rakka_sim.runtime.wall import instant
from rakka_sim.values import StepFeed, StepOutcome, StepPlan

if TYPE_CHECKING:
    import numpy as np

LOADING_S = 1800.0  # a process that has not loaded its weights by then never will
LOOK_S = 0.2  # how often a silent worker is looked at


@dataclass(frozen=True, slots=True)
class Rank:
    """One worker process."""

    process: SpawnProcess
    pipe: Connection
    shared: Shared


class ProcessRunner:
    """An engine's ranks (`actors.worker.Runner`). Made by `start`, off the actor thread: it takes seconds."""

    def __init__(self, recipe: Recipe, watchdog_s: float, ways: Counter[str] | None = None) -> None:
        self._ways = Counter() if ways is None else ways
        context = multiprocessing.get_context("spawn")
        self._watchdog_s = watchdog_s
        self._number = 0
        self._next: Work | None = None  # it is to follow the newest work, and is not yet on its way
        self._sent = 0  # number of the last work that was sent to follow another
        self._heard_bell, self._bell = context.Pipe(duplex=False)  # whoever waits for the ranks is to look at it
        self.origin: float | None = None  # the `instant` at which the parent's clock stood at 0
        self.ended = 0.0  # when the newest step that has been heard of did (`instant`)
        self._meeting = tempfile.TemporaryDirectory(prefix="rakka_sim-ranks-")
        self._ranks: list[Rank] = []
        place = os.path.join(self._meeting.name, "store")
        for rank in range(recipe.tp):
            ours, theirs = context.Pipe()
            shared = Shared(context.RawValue("q", 0), context.RawValue("d", 0.0))
            arguments = (theirs, recipe, rank, place, shared)
            process = context.Process(target=_serve, args=arguments, daemon=True, name=f"rakka_sim rank {rank}")
            process.start()
            theirs.close()
            self._ranks.append(Rank(process, ours, shared))

    @classmethod
    def start(cls, recipe: Recipe, watchdog_s: float, ways: Counter[str] | None = None) -> Self:
        """With weights loaded. Raises Unrecoverable (a second try would not help), OutOfMemory or ContextPoisoned.

        `ways` counts steps by how they were computed: as a graph of some size, or not, and why.
        """
        runner = cls(recipe, watchdog_s, ways)
        try:
            for reply in runner.replies(LOADING_S):
                if isinstance(reply, Failed):
                    if isinstance(reply.error, OutOfMemory):
                        raise reply.error  # perhaps only until what came before is out of the memory
                    raise Unrecoverable(f"the engine cannot be built: {reply.error}")
        except RakkaError:
            runner.close()
            raise
        return runner

    @property
    def pids(self) -> list[int]:
        """The processes, by rank."""
        return [rank.process.pid or 0 for rank in self._ranks]

    def job(self, plan: StepPlan, feed: StepFeed | None) -> ProcessJob:
        """The work of one plan."""
        if feed is None:
            raise InvariantBroken("live", "a plan came without its tokens")
        self._number += 1
        return ProcessJob(self, Work(self._number, plan, feed))

    def follow(self, plan: StepPlan, feed: StepFeed) -> ProcessJob:
        """What is to follow the newest work without a pause; from the actor thread, which must not wait for a pipe."""
        after, self._number = self._number, self._number + 1
        self._next = work = Work(self._number, plan, feed, after)
        self._bell.send_bytes(b"!")
        return ProcessJob(self, work)

    def cut(self, number: int) -> None:
        """Work `number` is to end at its next boundary."""
        for rank in self._ranks:
            rank.shared.cut.value = number

    def compute(self, work: Work) -> Done:
        """Have it done; for a worker thread. Raises what the ranks' errors come to.

        `as_planned` then says that something follows, too.
        """
        if not work.after:  # else the ranks have it, and are at it
            self._send(work)
        replies = self.replies(self._watchdog_s, work.number)
        failed = next((reply for reply in replies if isinstance(reply, Failed)), None)
        if failed is not None and len(self._ranks) > 1:
            self.close()
            raise ContextPoisoned(f"a rank failed, and its group with it: {failed.error}")
        if failed is not None:
            raise failed.error
        done: Done = replies[0]
        self.ended = float(done.times[-1])
        self._ways[done.way] += len(done.times)
        if done.as_planned:
            self._send_next(work.number)
        return replace(done, as_planned=done.as_planned and self._sent == work.number + 1)

    def _send_next(self, number: int) -> None:
        """What is to follow work `number`, if it is there; what came too late for its own is not sent."""
        following = self._next
        if following is not None and following.after == number:
            self._next = None
            self._sent = following.number
            self._send(following)

    def _send(self, work: Work) -> None:
        try:
            for rank in self._ranks:
                rank.pipe.send(work)
        except OSError as error:
            raise self._gone() from error

    def replies(self, patience_s: float, number: int = 0) -> list[Any]:
        """One word of each rank, about work `number`; what is to follow that goes to them meanwhile.

        Kills all and raises ContextPoisoned if one is gone or has got nowhere for so long.
        """
        since = instant()
        replies: dict[int, Any] = {}
        while len(replies) < len(self._ranks):
            silent = [n for n in range(len(self._ranks)) if n not in replies]
            heard = wait([self._heard_bell, *(self._ranks[n].pipe for n in silent)], LOOK_S)
            if self._heard_bell in heard:
                self._heard_bell.recv_bytes()
                self._send_next(number)
            for n in silent:
                rank = self._ranks[n]
                if rank.pipe in heard:
                    replies[n] = self._receive(rank)
                    if isinstance(replies[n], Failed):
                        return [replies[n]]  # the others may never come to an end
                elif instant() - max(since, rank.shared.beat.value) > patience_s:
                    self.close()
                    raise ContextPoisoned(f"no step came to an end within {patience_s} s: the worker was killed")
        return [replies[n] for n in sorted(replies)]

    def _receive(self, rank: Rank) -> Ready | Done | Failed:
        try:
            reply: Ready | Done | Failed = rank.pipe.recv()
        except (EOFError, OSError) as error:
            raise self._gone() from error
        return reply

    def _gone(self) -> ContextPoisoned:
        for rank in self._ranks:
            rank.process.join(LOOK_S)  # its pipe is closed, so its exit code is about to be there
        codes = [rank.process.exitcode for rank in self._ranks]
        self.close()
        poisoned = "; its device context was lost" if POISONED in codes else ""
        return ContextPoisoned(f"the worker process is gone (exit codes by rank: {codes}){poisoned}")

    def close(self) -> None:
        """Kill every rank: one may hang, and none has anything to save."""
        for rank in self._ranks:
            rank.process.kill()
        for rank in self._ranks:
            rank.process.join()
        self._meeting.cleanup()


class ProcessJob:
    """The work of one plan, in the worker processes."""

    __slots__ = ("_runner", "_started", "_work")

    real = True

    def __init__(self, runner: ProcessRunner, work: Work) -> None:
        self._runner, self._work = runner, work
        self._started = 0.0

    def ends_at(self, start: float, rng: np.random.Generator) -> float:
        self._started = start
        if self._runner.origin is None:
            self._runner.origin = instant() - start
        return start

    def cut(self, now: float) -> float:
        self._runner.cut(self._work.number)
        return now

    def execute(self) -> StepOutcome:
        work, origin = self._work, self._runner.origin or 0.0
        # What follows unasked has begun when that before it ended, not when somebody here heard of it.
        started = self._runner.ended - origin if work.after else self._started
        done = self._runner.compute(work)
        return StepOutcome(work.plan, started, done.times - origin, done.tokens, done.broken, done.as_planned)


def _serve(*arguments: Any) -> None:
    # Only the new process imports torch.
    from rakka_sim.engines.torch.worker import serve

    serve(*arguments)
