"""The contract between actors and what runs them. Read this file first; no behaviour may be in it.

An actor is a synchronous ``receive(ctx, msg)``. It never blocks, never awaits, and asks nothing of the world but what
`Context` offers. The same actor runs on the virtual clock (`runtime.sim`) and on the wall clock (`runtime.live`).

What both runtimes promise (the conformance suite in ``tests/runtime`` holds them to it):

* Messages from one actor to another arrive in the order they were sent. Nothing else about order is promised, and
  ``shuffle_ties`` on the virtual clock shuffles the rest.
* At one instant, everything else comes before the end of a job: an arrival at a step boundary is seen by that boundary.
* A handler runs to its end. What it starts and stops, and its own failure, take effect right after it, before any
  other message.
* A reference stays valid over restarts of its actor. Waiting messages survive a restart; timers, jobs, watches and
  flows of the former incarnation do not: their late messages are dropped and counted.
* Mailboxes are bounded; what overflows, what reaches a stopped actor and what an actor does not understand become
  typed, counted dead letters. Timers, job results and `Terminated` are never refused for want of room.
* Every ask ends: with the answer, with `AskTimeout`, or with `ActorStopped` / `ActorRestarted` / the error that the
  actor failed with while it held the question.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from rakka_sim.values import value

if TYPE_CHECKING:
    import numpy as np

    from rakka_sim.core.supervision import Directive, Supervision

M = TypeVar("M")
M_contra = TypeVar("M_contra", contravariant=True)
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Ref(Protocol[M_contra]):
    """The address of an actor (or of a question waiting for its answer); valid over restarts, comparable, hashable."""

    @property
    def path(self) -> str:
        """Slash-separated names from the root, as in ``/manager/llama-8b/0/worker``."""
        ...

    def _accepts(self, msg: M_contra) -> None: ...  # only so that type checkers tell Ref[A] from Ref[B]


class Timer(Protocol):
    """A message to oneself that has not come yet."""

    @property
    def active(self) -> bool:
        """Whether it is still to come."""
        ...

    def cancel(self) -> None:
        """It will not come; harmless when it has come already."""
        ...


class Job(Protocol[R_co]):
    """Work for a device: how long it takes, where a model says so, and what it yields.

    The times are absolute, not durations: the end of a run of steps must be the very float that adding up the steps
    one by one gives.
    """

    @property
    def real(self) -> bool:
        """Whether `execute` does the work (a wall clock gives it to a worker) or a model gives its time."""
        ...

    def ends_at(self, start: float, rng: np.random.Generator) -> float:
        """When the work ends if it starts now; called once, before `cut` and `execute`."""
        ...

    def cut(self, now: float) -> float:
        """End at the first boundary at or after `now`; the new end. A real job stops at its next boundary by itself."""
        ...

    def execute(self) -> R_co:
        """The result; called once, at the end (modelled) or to do the work (real)."""
        ...


class Running(Protocol):
    """A job under way."""

    def interrupt(self) -> None:
        """Ask it to end at its next boundary; its result comes as usual, only sooner."""
        ...

    def abandon(self) -> None:
        """Drop its result; a real job may go on in its worker until its next boundary."""
        ...


@value
class Terminated:
    """To those who watch: the actor has stopped, with the error that stopped it, if any."""

    ref: Ref[Any]
    error: BaseException | None = None


@value
class JobFailed:
    """To the actor that ran a job whose `execute` raised; `then` is not called."""

    error: BaseException


class Ask(Protocol[R_co]):
    """A question under way; awaitable inside a flow."""

    def __await__(self) -> Any: ...


class Context(Protocol):
    """All that an actor may ask of the world. Valid only inside its own handlers and flows."""

    @property
    def self(self) -> Ref[Any]:
        """The actor's own address."""
        ...

    @property
    def now(self) -> float:
        """Seconds since the system started."""
        ...

    @property
    def rng(self) -> np.random.Generator:
        """This actor's own stream: a function of the root seed and its path, so no other actor can shift it."""
        ...

    def tell(self, to: Ref[M], msg: M) -> None:
        """Send and forget."""
        ...

    def ask(self, to: Ref[Any], msg: Any, timeout: float) -> Ask[Any]:
        """Send `msg` with its `reply_to` set to a fresh address; await the answer inside a flow."""
        ...

    def flow(self, steps: Coroutine[Any, Any, None]) -> None:
        """Drive a coroutine that awaits asks; it ends when this incarnation does. An error in it fails the actor."""
        ...

    def after(self, seconds: float, msg: object) -> Timer:
        """Send `msg` to myself in `seconds` (>= 0)."""
        ...

    def spawn(
        self,
        name: str,
        make: Callable[[], Actor],
        strategy: Supervision | None = None,
        mailbox: int | None = None,
    ) -> Ref[Any]:
        """Start a child; `make` is called again at each restart. Raises NameTaken if a child of that name is alive."""
        ...

    def stop(self, ref: Ref[Any] | None = None) -> None:
        """Stop a child, or myself: its children first, the last one first, then `stopped`, then watchers hear."""
        ...

    def watch(self, ref: Ref[Any]) -> None:
        """`Terminated` will come when it stops; at once if it has stopped already."""
        ...

    def unwatch(self, ref: Ref[Any]) -> None:
        """`Terminated` will not come after all."""
        ...

    def run(self, job: Job[R], then: Callable[[R], object]) -> Running:
        """The only door to a device: `then(result)` arrives as a message; `JobFailed` if the work raised."""
        ...

    def unhandled(self, msg: object) -> None:
        """Say that I do not understand a message: it becomes a dead letter, and an asker gets an error."""
        ...


class Actor:
    """State and a `receive`. The hooks do nothing by default; every one of them may use `ctx` freely."""

    def started(self, ctx: Context) -> None:
        """Called before the first message of each incarnation."""

    def receive(self, ctx: Context, msg: Any) -> None:
        """Take one message. An exception is a failure: the parent's strategy for this child decides what follows."""
        raise NotImplementedError

    def stopped(self, ctx: Context) -> None:
        """Called last, when this incarnation ends (stop or restart), whatever the reason; children are gone by then."""

    def child_failed(self, ctx: Context, child: Ref[Any], error: Exception, directive: Directive) -> None:
        """A child failed and `directive` has been carried out (not called when it was to escalate)."""


class Promise(Protocol, Generic[R]):
    """An address outside the actor system that keeps the first message told to it."""

    @property
    def ref(self) -> Ref[R]: ...

    @property
    def done(self) -> bool: ...

    def result(self) -> R:
        """The message. Raises it if it is an exception; raises `Stalled` if it has not come."""
        ...


@value
class DeadLetter:
    """A message that no actor took. `reason`: stopped, overflow, unhandled, stale (of a former incarnation)."""

    reason: str
    to: str
    message: object
    at: float


class System(Protocol):
    """What runs actors: made by `SimRuntime(...)` or `LiveRuntime(...)`, driven from outside by the one who made it."""

    @property
    def now(self) -> float: ...

    @property
    def dead_letters(self) -> dict[str, int]:
        """Dead letters so far, by reason."""
        ...

    @property
    def last_dead_letters(self) -> list[DeadLetter]:
        """The latest of them, for a look (bounded)."""
        ...

    def spawn(
        self,
        name: str,
        make: Callable[[], Actor],
        strategy: Supervision | None = None,
        mailbox: int | None = None,
    ) -> Ref[Any]:
        """Start a top-level actor. What it escalates ends the system: `wait` raises it."""
        ...

    def tell(self, to: Ref[M], msg: M) -> None: ...

    def promise(self, name: str) -> Promise[Any]:
        """A fresh address to wait on."""
        ...

    def ask(self, to: Ref[Any], msg: Any, timeout: float) -> Any:
        """Send, wait, answer; for notebooks and tests."""
        ...

    def wait(self, promise: Promise[R], timeout: float | None = None, tick: Callable[[], None] | None = None) -> R:
        """Drive (virtual clock) or await (wall clock) until the promise is kept; `tick` is called now and then.

        Raises `Stalled` when nothing is left to happen, `AskTimeout` after `timeout` s of this system's clock, and
        the error itself when a top-level actor escalated one. KeyboardInterrupt leaves the system as it is.
        """
        ...

    def stop(self) -> None:
        """Stop every actor in reverse order of its start; idempotent. Leaves no thread and no process behind."""
        ...
