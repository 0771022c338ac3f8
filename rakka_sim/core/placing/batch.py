"""Placing many deployments of a ledger at once: greedily, by an integer programme, or both. No solver may be here."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from rakka_sim.core.placing.greedy import Greedy, is_plain, kind_of
from rakka_sim.core.placing.ledger import Batch, Ledger
from rakka_sim.core.placing.patterns import deal, programme
from rakka_sim.core.placing.planning import Plan
from rakka_sim.core.placing.sets import gpus_of
from rakka_sim.core.placing.solvers import solve
from rakka_sim.core.placing.terms import Demand
from rakka_sim.errors import InputError, NotEnoughGpus, PlacementError
from rakka_sim.values import NodeAssignment


def place_all(ledger: Ledger, demands: Sequence[Demand], *, gang: bool = False, solver: str | None = None) -> Batch:
    """Place as many of the demands as the ledger's policy can; each whole or not at all.

    A policy that is `exact` places all of them wherever that is possible; `optimal` places most GPUs wherever not. With
    `gang` it is all or none: raises the first PlacementError and changes nothing. What no programme can express (remote
    demands, slices, rules on neighbours, a required spread) is placed one by one after the rest; what is larger than
    any node, before it. So where a fabric joins nodes, the promises above are for replicas that one node holds.
    """
    seen = dict.fromkeys(ledger.placed, 1)
    for demand in demands:
        if seen.setdefault(demand.deployment, 0):
            raise InputError("deployment", demand.deployment, "a name that is not placed yet")
        seen[demand.deployment] = 1
    trial = ledger.copy() if gang else ledger
    batch = _place_all(trial, demands, solver)
    if gang:
        if batch.refused:
            raise next(iter(batch.refused.values()))
        ledger.adopt(trial)
    return batch


def _place_all(ledger: Ledger, demands: Sequence[Demand], solver: str | None) -> Batch:
    policy, batch = ledger.policy, Batch()
    together = policy.joint or policy.exact
    joined = together and any(book.facts.fabric is not None for book in ledger.books.values())
    most = max((book.facts.shape.count for book in ledger.books.values()), default=0)
    # What no node can hold is larger than what one can, and largest first it is.
    wide = [demand for demand in demands if joined and demand.gpus > most]
    _one_by_one(ledger, sorted(wide, key=lambda demand: -demand.gpus), batch)
    demands = [demand for demand in demands if not (joined and demand.gpus > most)]
    if together:
        plain = [demand for demand in demands if _joint(demand)]
        rest = [demand for demand in demands if not _joint(demand)]
    else:
        plain, rest = [], list(demands)
    plans = None if policy.joint else _greedily(ledger, plain, batch)
    if plans is None:
        plans = _jointly(ledger, plain, batch, solver)
    for demand, planned in plans:
        batch.placed[demand.deployment] = ledger.keep(demand, planned)
    if joined:  # what is free on several nodes together may still be enough
        again = [demand for demand in plain if batch.refused.pop(demand.deployment, None) is not None]
        _one_by_one(ledger, again, batch)
    if policy.decreasing:
        rest.sort(key=lambda demand: (not demand.provider, -demand.gpus))
    _one_by_one(ledger, rest, batch)
    batch.proven = batch.proven and not rest and not (joined and batch.refused)
    return batch


def _one_by_one(ledger: Ledger, demands: Sequence[Demand], batch: Batch) -> None:
    for demand in demands:
        try:
            batch.placed[demand.deployment] = ledger.place(demand)
        except PlacementError as error:
            batch.refused[demand.deployment] = error


def _joint(demand: Demand) -> bool:
    """Whether the integer programme can express a demand."""
    rules = demand.provider or demand.profile or demand.gil or demand.anti_affinity
    return not rules and (demand.spread != "require" or demand.replicas == 1)


def _greedily(ledger: Ledger, demands: list[Demand], batch: Batch) -> list[tuple[Demand, Plan]] | None:
    """Largest replicas first; None where that may place less than could be placed."""
    if not all(is_plain(demand) for demand in demands):
        return None
    greedy, plans = Greedy(ledger.books.values(), ledger.policy), []
    refused: dict[str, PlacementError] = {}
    for demand in sorted(demands, key=lambda demand: -demand.gpus):
        planned = greedy.place(demand)
        if isinstance(planned, PlacementError):
            refused[demand.deployment] = planned
        else:
            plans.append((demand, planned))
    if refused and not _in_halves(demands):
        return None
    batch.refused.update(refused)
    batch.proven, batch.solver = True, "greedy"
    return plans


def _in_halves(demands: list[Demand]) -> bool:
    """Whether largest first is sure to place most GPUs: single replicas that differ in size alone, each size a multiple
    of the next. Wherever such a replica goes, it takes as many places for smaller ones as it would elsewhere."""
    sizes = sorted({demand.gpus for demand in demands})
    alike = {kind_of(demand)[1:] for demand in demands}
    chain = all(large % small == 0 for small, large in pairwise(sizes))
    return chain and len(alike) == 1 and all(demand.replicas == 1 for demand in demands)


def _jointly(ledger: Ledger, demands: list[Demand], batch: Batch, solver: str | None) -> list[tuple[Demand, Plan]]:
    books = list(ledger.books.values())
    made = programme(books, demands)
    solution = solve(made, solver)
    batch.proven, batch.solver = solution.proven, solution.solver
    plans: dict[str, tuple[Demand, Plan]] = {}
    for demand, places in deal(made, solution.chosen, solution.taken, books):
        domains = {books[index].facts.failure_domain for index, _ in places}
        shared = demand.spread == "prefer" and ledger.policy.domains and len(domains) < demand.replicas
        degraded = (f"{demand.replicas} replicas share {len(domains)} failure domains",) if shared else ()
        assignments = (
            NodeAssignment(replica, books[index].facts.name, gpus_of(mask))
            for replica, (index, mask) in enumerate(places)
        )
        plans[demand.deployment] = demand, Plan(tuple(assignments), degraded)
    free = tuple((book.facts.name, book.free) for book in books)
    for demand in demands:
        if demand.deployment not in plans:
            name = demand.deployment
            batch.refused[name] = NotEnoughGpus(demand.gpus, name, demand.replicas, free)
    return [plans[demand.deployment] for demand in demands if demand.deployment in plans]
