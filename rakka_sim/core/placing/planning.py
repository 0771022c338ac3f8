"""From the quotes of all nodes to places for the replicas of one deployment, by a policy. Nothing is taken here."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from rakka_sim.core.placing.policies import Policy
from rakka_sim.core.placing.terms import Demand, Offer, Quote
from rakka_sim.errors import (
    BadPolicy,
    NoEgressNodes,
    NoGpuNodes,
    NoSuitableNodes,
    NotEnoughDomains,
    NotEnoughGpus,
    PlacementError,
    RakkaError,
)
from rakka_sim.values import NodeAssignment


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What to reserve: the assignments, in order of the replicas, and what was wished for and could not be had."""

    assignments: tuple[NodeAssignment, ...]
    degraded: tuple[str, ...] = ()

    def by_node(self) -> dict[str, list[NodeAssignment]]:
        """The assignments of each node that has some."""
        found: dict[str, list[NodeAssignment]] = {}
        for assignment in self.assignments:
            found.setdefault(assignment.node, []).append(assignment)
        return found


def plan(
    quotes: Sequence[Quote],
    demand: Demand,
    policy: Policy,
    replicas: Sequence[int] | None = None,
    turn: int = 0,
    preferred: Sequence[str] = (),
) -> Plan:
    """Places for the replicas named (all of them by default); raises a PlacementError if one finds none.

    `turn` numbers the cluster's placements. `preferred` nodes serve the demand's account by others' account.
    """
    wanted = range(demand.replicas) if replicas is None else replicas
    table = _Table(quotes, demand, policy, turn, preferred)
    return Plan(tuple(table.next(replica) for replica in wanted), table.degraded)


class _Table:
    """The nodes' offers while a plan is made."""

    def __init__(
        self, quotes: Sequence[Quote], demand: Demand, policy: Policy, turn: int, preferred: Sequence[str]
    ) -> None:
        self._quotes, self._demand, self._policy, self._turn = quotes, demand, policy, turn
        self._taken = [0] * len(quotes)
        self._heads: dict[int, Offer] = {}
        self._in_domain: dict[str, int] = {}
        for index, quote in enumerate(quotes):
            self._in_domain[quote.domain] = self._in_domain.get(quote.domain, 0) + quote.here
            self._show(index)
        self._known = {i for i, quote in enumerate(quotes) if quote.serves_account or quote.node in preferred}
        self._placed = sum(self._in_domain.values())
        self._shared = False

    @property
    def degraded(self) -> tuple[str, ...]:
        """What of the wishes could not be had."""
        domains = sum(1 for replicas in self._in_domain.values() if replicas)
        return (f"{self._placed} replicas share {domains} failure domains",) if self._shared else ()

    def _show(self, index: int) -> None:
        """Put a node's next place on the table, or take the node off it."""
        quote, taken = self._quotes[index], self._taken[index]
        if taken == len(quote.places):
            self._heads.pop(index, None)
            return
        demand = self._demand
        gpus = 1 if demand.provider else 0 if demand.profile else demand.gpus
        self._heads[index] = Offer(
            index=index,
            node=quote.node,
            domain=quote.domain,
            gpu_model=quote.gpu_model,
            total=quote.total,
            free=quote.free - taken * gpus,
            hosted=quote.hosted + taken,
            here=quote.here + taken,
            turn=self._turn if taken else quote.turn,
            place=quote.places[taken],
        )

    def next(self, replica: int) -> NodeAssignment:
        """A place for one replica more."""
        offers = list(self._heads.values())
        if not offers:
            raise self._refused()
        if self._demand.provider and not self._policy.overbooks:
            offers = [offer for offer in offers if offer.index in self._known] or offers
        offers = self._apart(offers)
        chosen = self._chosen(offers)
        self._taken[chosen.index] += 1
        self._turn += 1
        self._show(chosen.index)
        self._in_domain[chosen.domain] += 1
        self._placed += 1
        return NodeAssignment(replica, chosen.node, chosen.gpus, chosen.place.slice)

    def _chosen(self, offers: Sequence[Offer]) -> Offer:
        try:
            chosen = self._policy.choose(offers, self._demand)
        except RakkaError:
            raise
        except Exception as error:
            raise BadPolicy(self._policy.name, f"raised {error!r}") from error
        if not any(chosen is offer for offer in offers):
            raise BadPolicy(self._policy.name, f"chose {chosen!r}, which is none of the {len(offers)} offers")
        return chosen

    def _apart(self, offers: list[Offer]) -> list[Offer]:
        """Only offers in the failure domains that have fewest replicas of this deployment, if that is wanted."""
        spread = self._demand.spread
        if self._policy.overbooks or spread == "ignore" or (spread == "prefer" and not self._policy.domains):
            return offers
        fewest = min(self._in_domain[offer.domain] for offer in offers)
        if fewest and spread == "require":
            raise NotEnoughDomains(self._demand.deployment, self._demand.replicas, self._placed)
        self._shared = self._shared or fewest > 0
        return [offer for offer in offers if self._in_domain[offer.domain] == fewest]

    def _refused(self) -> PlacementError:
        demand, quotes = self._demand, self._quotes
        refusals = [(quote.node, quote.refusal) for quote in quotes if quote.refusal]
        if demand.provider:
            able = [quote for quote in quotes if quote.refusal != "no egress" and "region" not in quote.refusal]
            if not able or self._policy.overbooks:
                return NoEgressNodes(demand.provider, demand.region)
            full = [(quote.node, "no room for another remote replica") for quote in able if not quote.refusal]
            return NoSuitableNodes(demand.deployment, (*refusals, *full))
        with_gpus = [quote for quote in quotes if quote.total]
        if not with_gpus:
            return NoGpuNodes()
        able = [quote for quote in with_gpus if not quote.refusal]
        if not able:
            return NoSuitableNodes(demand.deployment, refusals)
        return NotEnoughGpus(
            demand.gpus, demand.deployment, demand.replicas, tuple((quote.node, quote.free) for quote in able)
        )
