"""Solving the placement programme: CP-SAT where `ortools` is installed, else HiGHS through scipy. No model is here.

HiGHS stops by default when it is within 0.01 % of the optimum and calls that optimal: here the gap is zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from rakka_sim.core.placing.patterns import Programme
from rakka_sim.errors import InvariantBroken

TIME_LIMIT_S = 60.0
# Costs enter CP-SAT as whole numbers of this many seconds.
COST_UNIT_S = 1e-10


@dataclass(frozen=True, slots=True)
class Solution:
    """Nodes per class and pattern, deployments per group, and whether nothing places more GPUs."""

    chosen: list[list[int]]
    taken: list[int]
    proven: bool
    solver: str


def solver_name() -> str:
    """The solver that `solve` uses here."""
    return "CP-SAT" if find_spec("ortools") is not None else "HiGHS"


def solve(made: Programme, solver: str | None = None) -> Solution:
    """Most GPUs placed, then least collective cost; `solver` names one of the two."""
    name = solver or solver_name()
    if not made.classes or not made.groups:
        return Solution([[0] * len(cls.patterns) for cls in made.classes], [0] * len(made.groups), True, name)
    flat = _Flat(made)
    run = _cp_sat if name == "CP-SAT" else _highs
    values, proven = run(flat, flat.gpus, None)
    if made.cost_matters:
        most = round(float(flat.gpus @ values))
        values, cheapest = run(flat, -flat.costs, most)
        proven = proven and cheapest
    at, chosen = 0, []
    for cls in made.classes:
        chosen.append([int(value) for value in values[at : at + len(cls.patterns)]])
        at += len(cls.patterns)
    return Solution(chosen, [int(value) for value in values[at:]], proven, name)


class _Flat:
    """The programme as vectors: first a variable per class and pattern, then one per group."""

    def __init__(self, made: Programme) -> None:
        patterns = [(index, *pattern) for index, cls in enumerate(made.classes) for pattern in cls.patterns]
        size = len(patterns) + len(made.groups)
        self.upper = np.zeros(size)
        self.gpus, self.costs = np.zeros(size), np.zeros(size)
        # A class has so many nodes; what the patterns hold of a kind is what the groups take of it.
        self.nodes = np.zeros((len(made.classes), size))
        self.balance = np.zeros((len(made.kinds), size))
        self.count = np.array([len(cls.nodes) for cls in made.classes], dtype=float)
        for column, (cls, counts, cost) in enumerate(patterns):
            self.upper[column] = self.count[cls]
            self.nodes[cls, column] = 1
            self.balance[:, column] = counts
            self.costs[column] = cost
        for number, (kind, replicas, members) in enumerate(made.groups):
            column = len(patterns) + number
            self.upper[column] = len(members)
            self.balance[kind, column] = -replicas
            self.gpus[column] = made.kinds[kind].gpus * replicas


Vector = np.ndarray[Any, Any]


def _highs(flat: _Flat, objective: Vector, gpus: int | None) -> tuple[Vector, bool]:
    """Maximise `objective`, with exactly `gpus` placed where that is given."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    constraints = [LinearConstraint(flat.nodes, -np.inf, flat.count), LinearConstraint(flat.balance, 0, 0)]
    if gpus is not None:
        constraints.append(LinearConstraint(flat.gpus[None, :], gpus, gpus))
    scale = float(np.abs(objective).max()) or 1.0  # costs of microseconds would vanish in the solver's tolerances
    found = milp(
        -objective / scale,
        integrality=np.ones(len(objective), dtype=np.int64),
        bounds=Bounds(0, flat.upper),
        constraints=constraints,
        options={"mip_rel_gap": 0, "time_limit": TIME_LIMIT_S},
    )
    if found.x is None:
        raise InvariantBroken("placement programme", f"HiGHS found nothing: {found.message}")
    return np.round(found.x), found.status == 0


def _cp_sat(flat: _Flat, objective: Vector, gpus: int | None) -> tuple[Vector, bool]:
    """The same with CP-SAT, on one thread and from a fixed seed: the same answer every time."""
    from ortools.sat.python import cp_model

    whole = objective if gpus is None else objective / COST_UNIT_S
    model = cp_model.CpModel()
    variables = [model.new_int_var(0, int(upper), f"x{i}") for i, upper in enumerate(flat.upper)]

    def total(weights: Vector) -> Any:
        used = np.flatnonzero(weights)
        return cp_model.LinearExpr.weighted_sum([variables[i] for i in used], [round(float(weights[i])) for i in used])

    for row, count in zip(flat.nodes, flat.count, strict=True):
        model.add(total(row) <= int(count))
    for row in flat.balance:
        model.add(total(row) == 0)
    if gpus is not None:
        model.add(total(flat.gpus) == gpus)
    model.maximize(total(whole))
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 0
    solver.parameters.max_time_in_seconds = TIME_LIMIT_S
    status = solver.solve(model)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        raise InvariantBroken("placement programme", f"CP-SAT found nothing: {solver.status_name(status)}")
    return np.array([solver.value(variable) for variable in variables], dtype=float), status == cp_model.OPTIMAL
