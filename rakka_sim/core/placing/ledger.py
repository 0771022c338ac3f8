"""A whole cluster's books and a policy, in one pure object: what the placement actors do, without messages and time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from rakka_sim.core.placing.book import NodeBook
from rakka_sim.core.placing.planning import Plan, plan, within
from rakka_sim.core.placing.policies import DEFAULT, make_policy
from rakka_sim.core.placing.sets import Tables
from rakka_sim.core.placing.shapes import Alike
from rakka_sim.core.placing.spanning import gpu_count, seen_from
from rakka_sim.core.placing.terms import Claim, Demand, NodeFacts, Quote, fingerprint
from rakka_sim.errors import InputError, InvariantBroken, PlacementError, UnknownNode, UnknownPlacement
from rakka_sim.values import NodeAssignment, PlacementConstraints, PlacementResult


@dataclass(slots=True)
class Batch:
    """What became of several demands: each is in one of the two. `proven`: no way places more GPUs than this one."""

    placed: dict[str, PlacementResult] = field(default_factory=dict)
    refused: dict[str, PlacementError] = field(default_factory=dict)
    proven: bool = False
    solver: str = ""

    @property
    def gpus(self) -> int:
        """GPUs given away."""
        return sum(gpu_count(each) for result in self.placed.values() for each in result.assignments)


def facts_of(constraints: PlacementConstraints) -> list[NodeFacts]:
    """Nodes of which only a number of GPUs and the way out are known."""
    names = dict.fromkeys([*constraints.gpu_nodes, *constraints.egress_nodes])
    return [
        NodeFacts(name, Alike(constraints.gpu_nodes.get(name, 0)), egress=name in constraints.egress_nodes)
        for name in names
    ]


def preferred(constraints: PlacementConstraints | None, demand: Demand) -> tuple[str, ...]:
    """The nodes that serve a remote demand's account already, by what the constraints say."""
    known = constraints.egress_preference if constraints and demand.provider else {}
    accounts = ((provider, fingerprint(key)) for provider, key in known)
    nodes = (serving for account, serving in zip(accounts, known.values(), strict=True) if account == demand.account)
    return next(nodes, ())


class Ledger:
    """Who has what on a cluster."""

    __slots__ = ("_demands", "_facts", "_lives", "_placed", "_tables", "_turn", "books", "constraints", "policy")

    def __init__(
        self,
        nodes: PlacementConstraints | Iterable[NodeFacts],
        policy: object = DEFAULT,
        tables: Tables | None = None,
    ) -> None:
        self.constraints = nodes if isinstance(nodes, PlacementConstraints) else None
        self._facts = {f.name: f for f in (facts_of(nodes) if isinstance(nodes, PlacementConstraints) else nodes)}
        self.policy = make_policy(policy)
        self._tables = tables or Tables()
        self.books = {name: NodeBook(facts, self._tables) for name, facts in self._facts.items()}
        self._lives = dict.fromkeys(self._facts, 0)
        self._placed: dict[str, PlacementResult] = {}
        self._demands: dict[str, Demand] = {}
        self._turn = 0

    def copy(self) -> Ledger:
        """The same ledger, to try something on."""
        other = Ledger.__new__(Ledger)
        other.constraints, other.policy, other._tables = self.constraints, self.policy, self._tables
        other._facts, other._lives = self._facts, dict(self._lives)
        other.books = {name: book.copy() for name, book in self.books.items()}
        other._placed, other._demands, other._turn = dict(self._placed), dict(self._demands), self._turn
        return other

    def adopt(self, other: Ledger) -> None:
        """Take over the state of a copy on which something has worked out."""
        self.books, self._lives, self._turn = other.books, other._lives, other._turn
        self._placed, self._demands = other._placed, other._demands

    # --- looking ----------------------------------------------------------------------------------------------------

    @property
    def placed(self) -> dict[str, PlacementResult]:
        """Every deployment that has a place, and it."""
        return dict(self._placed)

    def demand(self, deployment: str) -> Demand:
        """What a placed deployment asked for; raises UnknownPlacement."""
        if deployment not in self._demands:
            raise UnknownPlacement(deployment)
        return self._demands[deployment]

    def holders(self, node: str, gpu: int) -> tuple[str, ...]:
        """The deployments on a GPU, once for each replica."""
        return self.books[node].holders(gpu) if node in self.books else ()

    def double_booked(self) -> dict[tuple[str, int], tuple[str, ...]]:
        """GPUs that more than one replica has, with their deployments."""
        return {(node, gpu): who for node, book in self.books.items() for gpu, who in book.double_booked.items()}

    def quotes(self, demand: Demand, count: int, constraints: PlacementConstraints | None = None) -> list[Quote]:
        """What each node would give; `constraints` leave out nodes, and GPUs of high ordinals."""
        admitted = within(constraints, demand, self.books)
        return [self.books[name].quote(demand, count, self.policy.sets, limit) for name, limit in admitted]

    # --- placing ----------------------------------------------------------------------------------------------------

    def place(self, demand: Demand, constraints: PlacementConstraints | None = None) -> PlacementResult:
        """Place a deployment whole, or raise a PlacementError and change nothing.

        `constraints` narrow the cluster for this demand only.
        """
        if demand.deployment in self._placed:
            raise InputError("deployment", demand.deployment, "a name that is not placed yet")
        return self._keep(demand, (), self._plan(demand, range(demand.replicas), constraints))

    def _plan(self, demand: Demand, replicas: Sequence[int], constraints: PlacementConstraints | None = None) -> Plan:
        quotes = self.quotes(demand, len(replicas), constraints)
        known = preferred(constraints or self.constraints, demand)
        return plan(quotes, demand, self.policy, replicas, self._turn + 1, known)

    def _keep(self, demand: Demand, kept: tuple[NodeAssignment, ...], planned: Plan) -> PlacementResult:
        """Enter a plan into the books, beside the replicas that stay where they are."""
        for node, assignments in planned.by_node().items():
            book = self.books[node]
            claim = Claim(demand, tuple(assignments), self._turn + len(planned.assignments), self.policy.overbooks)
            book.reserve(demand.deployment, book.epoch, claim)
            book.commit(demand.deployment)
        self._turn += len(planned.assignments)
        together = sorted((*kept, *planned.assignments), key=lambda assignment: assignment.replica_index)
        result = PlacementResult(demand.deployment, tuple(together), planned.degraded)
        self._placed[demand.deployment], self._demands[demand.deployment] = result, demand
        return result

    def keep(self, demand: Demand, planned: Plan) -> PlacementResult:
        """Enter what was planned elsewhere for a deployment that is not placed; raises InputError if it is taken."""
        return self._keep(demand, (), planned)

    def resize(self, demand: Demand) -> PlacementResult:
        """Bring a placed deployment to `demand.replicas`; what stays does not move, what was lost is placed anew.

        Raises a PlacementError and changes nothing where there is no room.
        """
        self.demand(demand.deployment)
        result = self._placed[demand.deployment]
        kept = tuple(each for each in result.assignments if each.replica_index < demand.replicas)
        there = {each.replica_index for each in kept}
        missing = [replica for replica in range(demand.replicas) if replica not in there]
        planned = self._plan(demand, missing) if missing else Plan((), result.degraded)
        for each in result.assignments:
            if each.replica_index >= demand.replicas:
                self._give_back(demand.deployment, each)
        return self._keep(demand, kept, planned)

    def _give_back(self, deployment: str, assignment: NodeAssignment) -> None:
        """Free what a replica has on all of its nodes that are there."""
        for node, _ in assignment.parts:
            if node in self.books:
                self.books[node].release(deployment, [assignment.replica_index])

    def release(self, deployment: str) -> None:
        """Free all that a deployment has; raises UnknownPlacement."""
        if self._placed.pop(deployment, None) is None:
            raise UnknownPlacement(deployment)
        del self._demands[deployment]
        for book in self.books.values():
            book.release(deployment)

    # --- nodes come and go ------------------------------------------------------------------------------------------

    def fail(self, node: str) -> dict[str, tuple[int, ...]]:
        """A node is lost: the replicas that went with it, by deployment. They stay unplaced until `resize`.

        One that spans nodes goes with any of them, and gives back what it has on the others.
        """
        if node not in self.books:
            raise UnknownNode(node, tuple(self.books))
        book = self.books.pop(node)
        lost: dict[str, tuple[int, ...]] = {}
        for deployment in book.deployments:
            gone = book.assignments(deployment)
            lost[deployment] = tuple(each.replica_index for each in gone)
            for each in gone:
                self._give_back(deployment, each)
            result = self._placed[deployment]
            left = tuple(each for each in result.assignments if each.replica_index not in lost[deployment])
            self._placed[deployment] = PlacementResult(deployment, left, result.degraded)
        return lost

    def restore(self, node: str) -> None:
        """A lost node is back, empty."""
        if node not in self._facts or node in self.books:
            raise UnknownNode(node, [name for name in self._facts if name not in self.books])
        self._lives[node] += 1
        back = NodeBook(self._facts[node], self._tables, self._lives[node])
        books = {**self.books, node: back}
        self.books = {name: books[name] for name in self._facts if name in books}  # in the cluster's order

    def check(self) -> None:
        """Raise InvariantBroken if a book is broken (under `naive` it will be) or lacks its part of a replica."""
        for book in self.books.values():
            book.check()
        for name, result in self._placed.items():
            for each in result.assignments:
                for node, _ in each.parts:
                    if node not in self.books or seen_from(each, node) not in self.books[node].assignments(name):
                        where = f"placement of {name}"
                        raise InvariantBroken(where, f"{node} has no part of replica {each.replica_index}")
