"""Which node and which GPUs a replica gets: pure policies, books of who has what, and nothing of actors or messages.

`terms` has the words (Demand, Quote, Offer), `sets` the search inside a node, `spanning` over nodes of a fabric,
`book` one node, `planning` one deployment, `ledger` a whole cluster, `batch` many deployments at once.
"""

from rakka_sim.core.placing.batch import place_all
from rakka_sim.core.placing.book import NodeBook
from rakka_sim.core.placing.ledger import Batch, Ledger, facts_of, preferred
from rakka_sim.core.placing.planning import Plan, plan, within
from rakka_sim.core.placing.policies import DEFAULT, POLICIES, Policy, make_policy
from rakka_sim.core.placing.sets import SetTable, Tables
from rakka_sim.core.placing.shapes import Alike, Shape
from rakka_sim.core.placing.terms import Claim, Demand, NodeFacts, Offer, Place, Quote

__all__ = [
    "DEFAULT",
    "POLICIES",
    "Alike",
    "Batch",
    "Claim",
    "Demand",
    "Ledger",
    "NodeBook",
    "NodeFacts",
    "Offer",
    "Place",
    "Plan",
    "Policy",
    "Quote",
    "SetTable",
    "Shape",
    "Tables",
    "facts_of",
    "make_policy",
    "place_all",
    "plan",
    "preferred",
    "within",
]
