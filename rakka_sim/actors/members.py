"""A node as the placement of deployments knows it: its facts, its actor while it lives. Not what is free there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rakka_sim.core.supervision import Directive, Supervision
from rakka_sim.runtime.api import Ref

if TYPE_CHECKING:
    from rakka_sim.core.placing import NodeFacts


def _stop_it(error: Exception) -> Directive:
    return Directive.STOP


# A book that failed is not trusted any more: its node counts as lost until it is said to be back.
NODES = Supervision(decide=_stop_it)


class Member:
    """One node of the cluster: what is known of it, and its actor while it lives."""

    __slots__ = ("facts", "life", "ref")

    def __init__(self, facts: NodeFacts) -> None:
        self.facts = facts
        self.ref: Ref[Any] | None = None
        self.life = 0
