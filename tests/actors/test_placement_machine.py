"""The placement actors beside the pure ledger: deployments and nodes come and go in both, also over several nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from actors.test_placement import deployment
from core.placing_oracle import Joined
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rakka_sim.actors.demands import demand_of
from rakka_sim.actors.placement import DeploymentPlacementActor
from rakka_sim.core.placing import POLICIES, Alike, Demand, Ledger, NodeFacts
from rakka_sim.errors import PlacementError
from rakka_sim.messages import GetPlacements, GetQuote, NodeLost, NodeReturned, Place, Release, Resize
from rakka_sim.runtime.sim import SimRuntime

WAIT_S = 60.0
HONEST = sorted(POLICIES.keys() - {"naive"})


def said(work: Callable[[], Any]) -> Any:
    """A result, or what a refusal says."""
    try:
        return work()
    except PlacementError as error:
        return type(error).__name__, str(error)


@st.composite
def trays(draw: st.DrawFn) -> list[NodeFacts]:
    """Nodes of few GPUs in two fabrics or none."""
    facts = []
    for index in range(draw(st.integers(2, 5))):
        count, fabric = draw(st.integers(1, 4)), draw(st.sampled_from(["f", "f", "g", ""]))
        joined = Joined(fabric, (1.0,) * count) if fabric else None
        facts.append(NodeFacts(f"n{index}", Alike(count), domain=draw(st.sampled_from(["", "r"])), fabric=joined))
    return facts


class PlacementMachine(RuleBasedStateMachine):
    """Whatever is asked, both answer the same and have the same GPUs free afterwards."""

    @initialize(facts=trays(), policy=st.sampled_from(HONEST))
    def start(self, facts: list[NodeFacts], policy: str) -> None:
        self.ledger, self.system = Ledger(facts, policy), SimRuntime(0)
        self.actor = DeploymentPlacementActor(policy, facts)
        self.ref = self.system.spawn("placement", lambda: self.actor)
        self.names, self.up, self.down = [], [fact.name for fact in facts], []  # type: ignore[var-annotated]

    def ask(self, message: Any) -> Any:
        return self.system.ask(self.ref, message, WAIT_S)

    @rule(replicas=st.integers(1, 3), gpus=st.integers(1, 9), spread=st.sampled_from(["prefer", "require", "ignore"]))
    def place(self, replicas: int, gpus: int, spread: str) -> None:
        made = deployment(f"d{len(self.names)}", replicas, gpus, placement={"spread": spread})
        found = said(lambda: self.ledger.place(demand_of(made)))
        assert said(lambda: self.ask(Place(made))) == found
        self.names.append((made.name, gpus, spread) if not isinstance(found, tuple) else ("", 0, ""))

    @precondition(lambda self: any(name for name, *_ in self.names))
    @rule(data=st.data(), replicas=st.integers(1, 4))
    def resize(self, data: st.DataObject, replicas: int) -> None:
        name, gpus, spread = data.draw(st.sampled_from([each for each in self.names if each[0]]))
        made = deployment(name, replicas, gpus, placement={"spread": spread})
        found = said(lambda: self.ledger.resize(demand_of(made)))
        answer = said(lambda: self.ask(Resize(made)))
        if isinstance(found, tuple):
            assert answer == found
        else:  # the actors leave it to whoever has drained a replica to give up its place
            surplus = tuple(i for i in (each.replica_index for each in answer.assignments) if i >= replicas)
            self.ask(Release(name, replicas=surplus))

    @precondition(lambda self: any(name for name, *_ in self.names))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        at = data.draw(st.sampled_from([at for at, each in enumerate(self.names) if each[0]]))
        name, self.names[at] = self.names[at][0], ("", 0, "")
        self.ledger.release(name)
        self.ask(Release(name))

    @precondition(lambda self: self.up)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        node = data.draw(st.sampled_from(self.up))
        self.up.remove(node)
        self.down.append(node)
        self.ledger.fail(node)
        self.ask(NodeLost(node))

    @precondition(lambda self: self.down)
    @rule(data=st.data())
    def bring_back(self, data: st.DataObject) -> None:
        node = data.draw(st.sampled_from(self.down))
        self.down.remove(node)
        self.up.append(node)
        self.ledger.restore(node)
        self.ask(NodeReturned(node))

    @invariant()
    def both_have_the_same(self) -> None:
        if not hasattr(self, "ledger"):
            return
        self.ledger.check()
        assert {each.deployment: each for each in self.ask(GetPlacements())} == self.ledger.placed
        for name, member in self.actor._members.items():
            assert (member.ref is None) == (name in self.down)
            if member.ref is not None:
                quote = self.system.ask(member.ref, GetQuote(Demand("probe", 1), 1, "best"), WAIT_S)
                assert (quote.free, quote.hosted) == (self.ledger.books[name].free, self.ledger.books[name].hosted)


TestPlacement = PlacementMachine.TestCase
