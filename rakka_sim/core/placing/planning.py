"""From the quotes of all nodes to places for the replicas of one deployment, by a policy. Nothing is taken here."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

from rakka_sim.core.placing.policies import Policy
from rakka_sim.core.placing.spanning import Room, Span, seen_from, span
from rakka_sim.core.placing.terms import Demand, Offer, Place, Quote
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
from rakka_sim.values import NodeAssignment, PlacementConstraints


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What to reserve: the assignments, in order of the replicas, and what was wished for and could not be had."""

    assignments: tuple[NodeAssignment, ...]
    degraded: tuple[str, ...] = ()

    def by_node(self) -> dict[str, list[NodeAssignment]]:
        """The assignments of each node that has some, as it sees them."""
        found: dict[str, list[NodeAssignment]] = {}
        for assignment in self.assignments:
            for node, _ in assignment.parts:
                found.setdefault(node, []).append(seen_from(assignment, node))
        return found


def within(
    constraints: PlacementConstraints | None, demand: Demand, nodes: Iterable[str]
) -> Iterator[tuple[str, int | None]]:
    """The nodes that may be asked for quotes, and how many GPUs each may give: those of lowest ordinal; None: all."""
    if constraints is None:
        yield from ((node, None) for node in nodes)
        return
    allowed = constraints.egress_nodes if demand.provider else constraints.gpu_nodes
    yield from ((node, constraints.gpu_nodes.get(node)) for node in nodes if node in allowed)


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
        self._taken, self._parts = [0] * len(quotes), [0] * len(quotes)  # places of a node, and parts of spans on it
        self._heads: dict[int, Offer] = {}
        self._fabrics: dict[tuple[str, str], list[int]] = {}  # of one fabric and one kind of GPU: the nodes
        self._cut: dict[int, list[int]] = {}  # what replicas that span nodes have of a node's spare GPUs, by node
        there: dict[str, set[int]] = {}
        for index, quote in enumerate(quotes):
            # A replica that spans nodes of one failure domain is in it once.
            there.setdefault(quote.domain, set()).update(quote.replicas)
            if quote.spare is not None:
                self._fabrics.setdefault((quote.spare.fabric, quote.gpu_model), []).append(index)
            self._show(index)
        self._in_domain = {domain: len(replicas) for domain, replicas in there.items()}
        self._known = {i for i, quote in enumerate(quotes) if quote.serves_account or quote.node in preferred}
        self._placed = len(set().union(*there.values()))
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
        """A place for one replica more: on one node if any can take it, else over nodes of one fabric."""
        offers = list(self._heads.values())
        spans = [] if offers and not self._too_near(offers) else self._spans()
        offers = spans or offers
        if not offers:
            raise self._refused()
        if self._demand.provider and not self._policy.overbooks:
            offers = [offer for offer in offers if offer.index in self._known] or offers
        offers = self._apart(offers)
        if spans:
            fewest = min(len(offer.nodes) for offer in offers)
            offers = [offer for offer in offers if len(offer.nodes) == fewest]
        chosen = self._chosen(offers)
        self._turn += 1
        if spans:
            self._take_span(chosen)
        else:
            self._taken[chosen.index] += 1
            self._show(chosen.index)
        for domain in self._domains(chosen):
            self._in_domain[domain] += 1
        self._placed += 1
        return NodeAssignment(replica, chosen.node, chosen.gpus, chosen.place.slice, chosen.place.others)

    # --- over several nodes -----------------------------------------------------------------------------------------

    def _spans(self) -> list[Offer]:
        """The best place over the nodes of each fabric, beyond all that the nodes offer by themselves."""
        found = []
        for indices in self._fabrics.values():
            rooms = [self._room(index) for index in indices]
            best = span(rooms, self._demand.gpus, self._wants_apart)
            if best is not None:
                found.append(self._as_one_node(indices, rooms, best))
        return found

    def _room(self, index: int) -> Room:
        quote, cut = self._quotes[index], self._cut.get(index, ())
        free = quote.free - self._taken[index] * self._demand.gpus - len(cut)
        joined = tuple(each for each in quote.spare.gpus if each[1] not in cut) if quote.spare else ()
        return Room(index, quote.total, free, joined, self._in_domain[quote.domain])

    def _as_one_node(self, indices: list[int], rooms: list[Room], best: Span) -> Offer:
        quotes = [self._quotes[index] for index in indices]
        (first, gpus), *others = best.parts
        parts = tuple((self._quotes[index].node, share) for index, share in others)
        mine = sum(self._taken[index] + self._parts[index] for index in indices)
        return Offer(
            index=first,
            node=self._quotes[first].node,
            domain=self._quotes[first].domain,
            gpu_model=self._quotes[first].gpu_model,
            total=sum(quote.total for quote in quotes),
            free=sum(room.free for room in rooms),
            hosted=sum(quote.hosted for quote in quotes) + mine,
            here=sum(quote.here for quote in quotes) + mine,
            turn=self._turn if mine else max(quote.turn for quote in quotes),
            place=Place(gpus, None, best.cost_s, best.flexibility, best.loss, best.waste, parts),
        )

    def _take_span(self, chosen: Offer) -> None:
        of = {quote.node: index for index, quote in enumerate(self._quotes)}
        for node, gpus in ((chosen.node, chosen.gpus), *chosen.place.others):
            self._cut.setdefault(of[node], []).extend(gpus)
            self._parts[of[node]] += 1

    def _domains(self, offer: Offer) -> set[str]:
        """The failure domains that a replica there belongs to: those of all its nodes."""
        if not offer.place.others:
            return {offer.domain}
        return {quote.domain for quote in self._quotes if quote.node in offer.nodes}

    def _near(self, offer: Offer) -> int:
        """How many replicas of this deployment a failure domain of that place has, where it has most."""
        if not offer.place.others:
            return self._in_domain[offer.domain]
        return max(self._in_domain[domain] for domain in self._domains(offer))

    @property
    def _wants_apart(self) -> bool:
        spread = self._demand.spread
        wished = spread == "prefer" and self._policy.domains
        return not self._policy.overbooks and (spread == "require" or wished)

    def _too_near(self, offers: Sequence[Offer]) -> bool:
        """Whether a failure domain for each is required, and none of these has one of its own."""
        return self._demand.spread == "require" and self._wants_apart and min(map(self._near, offers)) > 0

    # --- choosing ---------------------------------------------------------------------------------------------------

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
        if not self._wants_apart:
            return offers
        near = [self._near(offer) for offer in offers]
        fewest = min(near)
        if fewest and self._demand.spread == "require":
            raise NotEnoughDomains(self._demand.deployment, self._demand.replicas, self._placed)
        self._shared = self._shared or fewest > 0
        return [offer for offer, others in zip(offers, near, strict=True) if others == fewest]

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
        free = tuple((quote.node, quote.free) for quote in able)
        return NotEnoughGpus(demand.gpus, demand.deployment, demand.replicas, free, self._joined())

    def _joined(self) -> tuple[tuple[str, int], ...]:
        """What each fabric of several nodes had free when the deployment came."""
        return tuple(
            (fabric, sum(spare.joined for index in indices if (spare := self._quotes[index].spare)))
            for (fabric, _), indices in self._fabrics.items()
            if len(indices) > 1
        )
