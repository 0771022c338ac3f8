"""One actor's interest in the end of another; no lifecycle may be in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rakka_sim.runtime.refs import ActorRef, Grave

if TYPE_CHECKING:
    from rakka_sim.runtime.api import Terminated
    from rakka_sim.runtime.cell import Cell


class Watch:
    """Where the `Terminated` of `watched` goes: to one incarnation of the watcher, and only while it cares."""

    __slots__ = ("_generation", "_watcher", "capacity", "kept", "waiting", "watched")

    def __init__(self, watcher: Cell, watched: ActorRef) -> None:
        self._watcher = watcher.ref
        self._generation = watcher.generation
        self.watched = watched
        self.kept = True
        self.waiting = 0
        self.capacity = 1

    @property
    def path(self) -> str:
        return self._watcher.path

    @property
    def lane(self) -> ActorRef:
        return self._watcher

    def deliver(self, msg: Terminated) -> None:
        watcher = self._watcher.cell
        if not self.kept:
            return
        if isinstance(watcher, Grave) or watcher.generation != self._generation:
            watcher.system.dead_letter("stale", self.path, msg)
            return
        watcher.forget_watch(self.watched)
        watcher.take(msg)
