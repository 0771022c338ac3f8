"""The lives of requests, workers and deployments as tables; what an actor does in a state may not be here."""

from __future__ import annotations

from collections.abc import Mapping

from rakka_sim.errors import InvariantBroken

# state -> event -> next state. A life begins in the first state and is over in a state without events.
Table = Mapping[str, Mapping[str, str]]

REQUEST: Table = {
    "received": {"route": "routing", "cancel": "cancelled", "fail": "failed"},
    "routing": {"dispatch": "queued", "reroute": "received", "cancel": "cancelled", "fail": "failed"},
    "queued": {"schedule": "prefill", "reroute": "received", "cancel": "cancelled", "fail": "failed"},
    "prefill": {"first_token": "decode", "reroute": "received", "cancel": "cancelled", "fail": "failed"},
    "decode": {"finish": "done", "reroute": "received", "cancel": "cancelled", "fail": "failed"},
    "done": {},
    "failed": {},
    "cancelled": {},
}

WORKER: Table = {
    "starting": {"ready": "ready", "poison": "rebuilding", "die": "dead"},
    "ready": {"execute": "busy", "poison": "rebuilding", "die": "dead"},
    "busy": {"step": "ready", "poison": "rebuilding", "die": "dead"},
    "rebuilding": {"ready": "ready", "poison": "rebuilding", "die": "dead"},
    "dead": {},
}

DEPLOYMENT: Table = {
    "pending": {"serve": "serving", "drain": "draining", "fail": "failed"},
    "serving": {"drain": "draining", "fail": "failed"},
    "draining": {"stop": "stopped", "fail": "failed"},
    "stopped": {},
    "failed": {},
}


class Lifecycle:
    """One life: where it stands in its table."""

    __slots__ = ("_table", "state")

    def __init__(self, table: Table) -> None:
        self._table = table
        self.state = next(iter(table))

    def fire(self, event: str) -> str:
        """Move on an event and return the new state; raises InvariantBroken if the state does not know the event."""
        moves = self._table[self.state]
        if event not in moves:
            possible = ", ".join(moves) or "none, its life is over"
            raise InvariantBroken("lifecycle", f"{event!r} happened in state {self.state!r}; possible: {possible}")
        self.state = moves[event]
        return self.state

    @property
    def over(self) -> bool:
        """Whether nothing can happen any more."""
        return not self._table[self.state]


def diagram(table: Table) -> str:
    """The table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", f"    [*] --> {next(iter(table))}"]
    for state, moves in table.items():
        lines += [f"    {state} --> {after}: {event}" for event, after in moves.items()]
        if not moves:
            lines.append(f"    {state} --> [*]")
    return "\n".join(lines)
