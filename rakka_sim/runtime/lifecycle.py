"""Start, stop, restart and what becomes of a failure; each runs between two messages, never inside a handler."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rakka_sim.core.supervision import Directive
from rakka_sim.errors import ActorError, ActorRestarted, ActorStopped
from rakka_sim.runtime.api import Terminated
from rakka_sim.runtime.refs import Grave

if TYPE_CHECKING:
    from rakka_sim.runtime.cell import Cell


def start(cell: Cell, _: Exception | None = None) -> None:
    """Make a new incarnation, unless the actor was stopped before it came to that."""
    if cell.ref.cell is not cell:
        return
    try:
        cell.actor = cell.make()
        cell.actor.started(cell)
    except Exception as error:
        cell.failed(error)


def stop(cell: Cell, error: Exception | None = None) -> None:
    """Stop an actor for good: its address leads to a grave from now on."""
    if cell.ref.cell is not cell:
        return
    cell.stopping = True
    _end_incarnation(cell)
    cell.ref.cell = Grave(cell.system, cell.ref.path, error)
    if cell.parent is not None:
        del cell.parent.children[cell.name]
    _give_up_questions(cell, ActorStopped(cell.ref.path))
    for watch in cell.watchers:
        cell.system.post((cell.ref, watch, Terminated(cell.ref, error)))


def restart(cell: Cell) -> None:
    """End this incarnation and start the next; the address, its mail and those who watch it stay."""
    _end_incarnation(cell)
    _give_up_questions(cell, ActorRestarted(cell.ref.path))
    start(cell)


def supervise(cell: Cell, error: Exception) -> None:
    """Carry out what the parent's strategy says to a failure; an escalation is the parent's own failure."""
    system, parent = cell.system, cell.parent
    if parent is None:
        system.fail(error)
        return
    directive = cell.restart_window().decide(error, system.now)
    if cell.ref.cell is not cell and directive is not Directive.ESCALATE:
        directive = Directive.STOP  # it failed on its way out
    elif cell.actor is None and directive is Directive.RESUME:
        directive = Directive.ESCALATE  # it failed to come into being: there is nothing to resume
    if directive is Directive.ESCALATE:
        if cell.actor is None:
            stop(cell, error)
        supervise(parent, error)
        return
    if directive is Directive.RESTART:
        restart(cell)
    elif directive is Directive.STOP:
        stop(cell, error)
    if parent.actor is not None:
        try:
            parent.actor.child_failed(parent, cell.ref, error, directive)
        except Exception as failure:
            parent.failed(failure)


def _end_incarnation(cell: Cell) -> None:
    end_belongings(cell)
    if cell.actor is not None:
        try:
            cell.actor.stopped(cell)
        except Exception as error:
            cell.failed(error)
        end_belongings(cell)  # what `stopped` has started
    cell.actor = None
    cell.generation += 1
    for watch in cell.watching.values():
        watch.watched.cell.remove_watch(watch)
    cell.watching.clear()


def end_belongings(cell: Cell) -> None:
    """Stop the children, the last one first, and close the flows."""
    while cell.children:
        stop(next(reversed(cell.children.values())))
    for flow in tuple(cell.flows):
        try:
            flow.close()
        except Exception as error:
            cell.failed(error)


def _give_up_questions(cell: Cell, error: ActorError) -> None:
    for question in cell.questions:
        question.end(cell.ref, error)
    cell.questions.clear()
