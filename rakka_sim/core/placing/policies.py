"""The placement policies: each looks at one offer of every node that could take the next replica, and takes one.

A policy decides which node; which GPUs of it, the node has decided already, in the way the policy asks for (`sets`).
What may not be (a GPU twice, a node of the wrong kind) is no policy's business: such offers are never made. A function
``(offers, demand) -> offer`` is a policy as it is; so is any object that can be called so, whose attributes of the
names below, if it has them, say the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from rakka_sim.core.placing.sets import Pick
from rakka_sim.core.placing.terms import Demand, Offer
from rakka_sim.errors import InputError, UnknownName

Score = tuple[float, ...]
Choose = Callable[[Sequence[Offer], Demand], Offer]


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy with all that belongs to it.

    `sets`: how a node picks GPUs (`NodeBook.quote`). `domains`: replicas go to different failure domains as far as
    there are any. `decreasing`: of several deployments those with the largest replicas come first. `exact`: if several
    deployments do not all find a place one after another, an integer programme decides whether they can; `joint`: it
    decides in any case. `rank` is the score that `choose` minimises, where it depends on nothing but the node's kind
    and what is free on it; lower indices win ties.
    """

    name: str
    choose: Choose
    sets: Pick = "best"
    domains: bool = False
    decreasing: bool = False
    exact: bool = False
    joint: bool = False
    rank: Callable[[Offer], Score] | None = None

    @property
    def overbooks(self) -> bool:
        """Whether it gives GPUs away that are taken or do not exist."""
        return self.sets == "blind"


def _least(score: Callable[[Offer], Score]) -> Choose:
    def choose(offers: Sequence[Offer], demand: Demand) -> Offer:
        return min(offers, key=lambda offer: (*score(offer), offer.index))

    return choose


def _here(offer: Offer) -> Score:
    return (offer.here,)


def _emptiest(offer: Offer) -> Score:
    return (offer.here, -offer.free)


def _longest_ago(offer: Offer) -> Score:
    return (offer.turn,)


def _share_in_use(offer: Offer) -> Score:
    return ((offer.total - offer.free) / offer.total, offer.hosted)


def _best_fit(offer: Offer) -> Score:
    return (offer.free,)


def _spread(offer: Offer) -> Score:
    return (offer.here, -offer.free, offer.cost_s)


def _topology(offer: Offer) -> Score:
    return (offer.cost_s, offer.loss, offer.waste)


NAIVE = Policy("naive", _least(_here), sets="blind")
EXCLUSIVE = Policy("exclusive", _least(_emptiest), sets="lowest")
ROUND_ROBIN = Policy("round_robin", _least(_longest_ago), sets="lowest")
LEAST_LOADED = Policy("least_loaded", _least(_share_in_use), sets="lowest")
PACK = Policy("pack", _least(_best_fit), sets="lowest", decreasing=True, exact=True, rank=_best_fit)
SPREAD = Policy("spread", _least(_spread), domains=True)
TOPOLOGY = Policy("topology", _least(_topology), domains=True, decreasing=True, exact=True, rank=_topology)
OPTIMAL = Policy("optimal", _least(_topology), domains=True, decreasing=True, exact=True, joint=True, rank=_topology)

POLICIES: dict[str, Policy] = {
    policy.name: policy for policy in (NAIVE, EXCLUSIVE, ROUND_ROBIN, LEAST_LOADED, PACK, SPREAD, TOPOLOGY, OPTIMAL)
}
DEFAULT = TOPOLOGY.name


def make_policy(policy: object) -> Policy:
    """A policy by its name in `POLICIES`, or made of a function or an object; raises UnknownName or InputError."""
    if isinstance(policy, Policy):
        return policy
    if isinstance(policy, str):
        if policy not in POLICIES:
            raise UnknownName("placement policy", policy, ", ".join(POLICIES))
        return POLICIES[policy]
    if not callable(policy):
        allowed = "a function (offers, demand) -> offer, an object that can be called so, or one of: "
        raise InputError("placement policy", policy, allowed + ", ".join(POLICIES))
    return Policy(
        name=_name_of(policy),
        choose=cast("Choose", policy),
        sets=_sets_of(policy),
        domains=bool(getattr(policy, "domains", True)),
        decreasing=bool(getattr(policy, "decreasing", False)),
    )


def _name_of(policy: Any) -> str:
    return str(getattr(policy, "name", None) or getattr(policy, "__name__", type(policy).__name__))


def _sets_of(policy: Any) -> Pick:
    sets = getattr(policy, "sets", "best")
    if sets == "lowest":
        return "lowest"
    if sets != "best":
        raise InputError(f"sets of the placement policy {_name_of(policy)}", sets, "best, lowest")
    return "best"
