"""Carries out one line of a scenario's schedule: so many replicas at such a time. How they come and go is not here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rakka_sim.actors.client import Go
from rakka_sim.messages import Apply, DeploymentStatus
from rakka_sim.runtime.api import Actor, Context, Ref
from rakka_sim.values import value

if TYPE_CHECKING:
    from rakka_sim.config.deployment import Deployment


@value
class Now:
    """The resizer's own timer: its time has come."""


class Resizer(Actor):
    """Applies a deployment `at_s` after `Go`, and keeps the answer with its time; a refusal is an answer too."""

    def __init__(self, at_s: float, deployment: Deployment, manager: Ref[Any]) -> None:
        self._at_s = at_s
        self._deployment = deployment
        self._manager = manager
        self._origin = 0.0
        self._answered_s: float | None = None
        self._answer: DeploymentStatus | Exception | None = None

    def receive(self, ctx: Context, msg: Any) -> None:
        match msg:
            case Go():
                self._origin = ctx.now
                ctx.after(self._at_s, Now())
            case Now():
                ctx.tell(self._manager, Apply(self._deployment, ctx.self))
            case DeploymentStatus() | Exception():
                self._answer, self._answered_s = msg, ctx.now - self._origin
            case _:
                ctx.unhandled(msg)

    def outcome(self) -> dict[str, Any]:
        """What was asked and what came of it, as plain data; `answered_s` is None as long as nothing has.

        Times in s from the start of the workload. `wanted` is what held when the answer came: a later wish may win.
        """
        status = self._answer if isinstance(self._answer, DeploymentStatus) else None
        error = self._answer if status is None else status.error
        return {
            "deployment": self._deployment.name,
            "at_s": self._at_s,
            "replicas": self._deployment.replicas,
            "answered_s": self._answered_s,
            "ready": None if status is None else status.ready,
            "wanted": None if status is None else status.wanted,
            "error": None if error is None else str(error) or type(error).__name__,
        }
