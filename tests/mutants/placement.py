"""One-line faults in the placement code, and the tests that must notice each. Run by `run.py`; none is applied here.

A fault is (what it breaks, file, the text as it is, the text as it should not be). The text must occur exactly once.
"""

from __future__ import annotations

CORE = "rakka_sim/core/placing/"
POLICIES, PLANNING, BOOK, SETS = (f"{CORE}{name}.py" for name in ("policies", "planning", "book", "sets"))
GREEDY, PATTERNS, SOLVERS, BATCH = (f"{CORE}{name}.py" for name in ("greedy", "patterns", "solvers", "batch"))
LEDGER, SLICES, SHAPES = (f"{CORE}{name}.py" for name in ("ledger", "slices", "shapes"))
ACTOR, NODE = "rakka_sim/actors/placement.py", "rakka_sim/actors/node_placement.py"
FLEET, AUDIT = "rakka_sim/core/fleet.py", "rakka_sim/records/audit.py"
ROLL_OUT, REPLICAS = "rakka_sim/actors/roll_out.py", "rakka_sim/actors/replicas.py"
COORDINATOR, REQUEST = "rakka_sim/actors/coordinator.py", "rakka_sim/actors/request.py"

TESTS = "tests/core/test_placing"
BY_FILE = {
    SETS: [f"{TESTS}_sets.py"],
    SHAPES: [f"{TESTS}_sets.py"],
    BOOK: [f"{TESTS}_machine.py", f"{TESTS}_slices.py", f"{TESTS}.py"],
    SLICES: [f"{TESTS}_slices.py"],
    PLANNING: [f"{TESTS}.py"],
    LEDGER: [f"{TESTS}_machine.py", f"{TESTS}.py"],
    GREEDY: [f"{TESTS}_batch.py"],
    PATTERNS: [f"{TESTS}_batch.py"],
    SOLVERS: [f"{TESTS}_batch.py"],
    BATCH: [f"{TESTS}_batch.py"],
    ACTOR: ["tests/actors/test_placement_protocol.py"],
    NODE: ["tests/actors/test_placement_protocol.py"],
}
SCALE_TESTS = ["tests/core/test_fleet.py", "tests/actors/test_scaling.py"]
BY_FILE |= {FLEET: SCALE_TESTS, ROLL_OUT: SCALE_TESTS, REPLICAS: SCALE_TESTS}
BY_FILE |= {COORDINATOR: ["tests/actors/test_coordinator.py"], REQUEST: ["tests/actors/test_request.py"]}
BY_FILE |= {AUDIT: ["tests/scenarios/test_scale_schedule.py"]}
# Of the tests on placing one deployment, those that say something of every policy or of one; others say nothing of it.
ON_POLICIES = "failure_domains or goes_round or are_even or pays_least or equally_empty or (goes_where and {0}) or {0}"


def tests_for(group: str, file: str) -> list[str]:
    """What pytest is asked to run against a fault of that group in that file."""
    if group in ("optimal", "pack", "topology"):
        batch = "most_gpus or cheapest or one_after_another or keeps_replicas_apart"
        return [f"{TESTS}.py", f"{TESTS}_batch.py", "-k", f"{ON_POLICIES.format(group)} or {batch}"]
    if group in BY_POLICY:
        return [f"{TESTS}.py", "-k", ON_POLICIES.format(group)]
    if group == "scaling":
        return BY_FILE[file]
    return [f"{TESTS}_faults.py", *BY_FILE[file]]


# Each policy's own lines: its score, how GPUs are picked, and what else is declared of it.
BY_POLICY: dict[str, list[tuple[str, str, str]]] = {
    "naive": [
        (POLICIES, 'NAIVE = Policy("naive", _least(_here)', 'NAIVE = Policy("naive", _least(_best_fit)'),
        (POLICIES, '_least(_here), sets="blind"', '_least(_here), sets="lowest"'),
        (
            BOOK,
            "gpus = () if demand.provider else tuple(range(demand.gpus))",
            "gpus = gpus_of(self._free)[: demand.gpus]",
        ),
        (BOOK, "(count if there else 0)", "count"),
        (BOOK, "there = self.facts.egress if demand.provider else", "there = demand.provider or"),
        (BOOK, 'refusal = "" if pick == "blind" else self.refusal(demand)', "refusal = self.refusal(demand)"),
        (BOOK, "elif not overbook and (len(set", "elif (len(set"),
        (PLANNING, "if self._demand.provider and not self._policy.overbooks:", "if self._demand.provider:"),
    ],
    "exclusive": [
        (
            POLICIES,
            'EXCLUSIVE = Policy("exclusive", _least(_emptiest)',
            'EXCLUSIVE = Policy("exclusive", _least(_here)',
        ),
        (POLICIES, "return (offer.here, -offer.free)\n", "return (offer.here, offer.free)\n"),
        (POLICIES, "return (offer.here, -offer.free)\n", "return (-offer.free,)\n"),
        (POLICIES, '_least(_emptiest), sets="lowest")', '_least(_emptiest), sets="best")'),
        (POLICIES, '_least(_emptiest), sets="lowest")', '_least(_emptiest), sets="lowest", domains=True)'),
    ],
    "round_robin": [
        (POLICIES, "return (offer.turn,)", "return (-offer.turn,)"),
        (POLICIES, "return (offer.turn,)", "return (offer.here,)"),
        (POLICIES, '_least(_longest_ago), sets="lowest")', '_least(_longest_ago), sets="best")'),
        (POLICIES, '_least(_longest_ago), sets="lowest")', '_least(_longest_ago), sets="lowest", domains=True)'),
        (PLANNING, "turn=self._turn if taken else quote.turn", "turn=quote.turn"),
        (PLANNING, "self._turn += 1", "self._turn += 0"),
        (BOOK, "self.turn = max(self.turn, claim.turn)", "self.turn = self.turn"),
    ],
    "least_loaded": [
        (
            POLICIES,
            "((offer.total - offer.free) / offer.total, offer.hosted)",
            "(offer.free / offer.total, offer.hosted)",
        ),
        (
            POLICIES,
            "((offer.total - offer.free) / offer.total, offer.hosted)",
            "(offer.total - offer.free, offer.hosted)",
        ),
        (POLICIES, "((offer.total - offer.free) / offer.total, offer.hosted)", "(offer.hosted,)"),
        (POLICIES, '_least(_share_in_use), sets="lowest")', '_least(_share_in_use), sets="best")'),
        (POLICIES, '_least(_share_in_use), sets="lowest")', '_least(_share_in_use), sets="lowest", domains=True)'),
    ],
    "pack": [
        (POLICIES, "return (offer.free,)", "return (-offer.free,)"),
        (POLICIES, "return (offer.free,)", "return (offer.index,)"),
        (POLICIES, "return (offer.free,)", "return (offer.total,)"),
        (POLICIES, '_least(_best_fit), sets="lowest", decreasing', '_least(_best_fit), sets="best", decreasing'),
        (POLICIES, 'sets="lowest", decreasing=True, exact=True', 'sets="lowest", decreasing=True, exact=False'),
        (POLICIES, "decreasing=True, exact=True, rank=_best_fit)", "decreasing=True, exact=True, rank=_emptiest)"),
    ],
    "spread": [
        (POLICIES, "return (offer.here, -offer.free, offer.cost_s)", "return (offer.here, offer.free, offer.cost_s)"),
        (POLICIES, "return (offer.here, -offer.free, offer.cost_s)", "return (offer.here, offer.cost_s)"),
        (POLICIES, "return (offer.here, -offer.free, offer.cost_s)", "return (offer.here, -offer.free, -offer.cost_s)"),
        (POLICIES, 'Policy("spread", _least(_spread), domains=True)', 'Policy("spread", _least(_spread))'),
        (POLICIES, "_least(_spread), domains=True)", '_least(_spread), sets="lowest", domains=True)'),
        (POLICIES, "return (offer.here, -offer.free, offer.cost_s)", "return (-offer.here, -offer.free, offer.cost_s)"),
    ],
    "topology": [
        (POLICIES, "return (offer.cost_s, offer.loss, offer.waste)", "return (offer.loss, offer.cost_s, offer.waste)"),
        (POLICIES, "return (offer.cost_s, offer.loss, offer.waste)", "return (offer.cost_s, offer.waste)"),
        (POLICIES, "return (offer.cost_s, offer.loss, offer.waste)", "return (offer.cost_s, offer.loss, -offer.waste)"),
        (POLICIES, "return (offer.cost_s, offer.loss, offer.waste)", "return (-offer.cost_s, offer.loss, offer.waste)"),
        (POLICIES, "return (offer.cost_s, offer.loss, offer.waste)", "return (offer.cost_s, -offer.loss, offer.waste)"),
        (
            POLICIES,
            'TOPOLOGY = Policy("topology", _least(_topology), domains=True',
            'TOPOLOGY = Policy("topology", _least(_topology)',
        ),
        (
            POLICIES,
            'TOPOLOGY = Policy("topology", _least(_topology), domains',
            'TOPOLOGY = Policy("topology", _least(_best_fit), domains',
        ),
    ],
    "optimal": [
        (
            POLICIES,
            'OPTIMAL = Policy("optimal", _least(_topology), domains=True',
            'OPTIMAL = Policy("optimal", _least(_topology)',
        ),
        (POLICIES, "exact=True, joint=True", "exact=True, joint=False"),
        (SOLVERS, "if made.cost_matters:", "if False:"),
        (SOLVERS, "run(flat, -flat.costs, most)", "run(flat, flat.costs, most)"),
        (
            PATTERNS,
            "best is None or left + table.cost(mask) < best[0]",
            "best is None or left + table.cost(mask) > best[0]",
        ),
        (SOLVERS, "self.balance[kind, column] = -replicas", "self.balance[kind, column] = -1"),
        (SOLVERS, "LinearConstraint(flat.nodes, -np.inf, flat.count)", "LinearConstraint(flat.nodes, -np.inf, 1)"),
        (PATTERNS, "range(min(replicas - len(given), len(self._fullest)))", "range(min(1, len(self._fullest)))"),
    ],
}

SHARED: list[tuple[str, str, str]] = [
    (SETS, "table[masks[costs == costs.min()]] = 1", "table[masks] = 1"),
    (SETS, "left = self._flexibilities()[free & ~masks]", "left = self._flexibilities()[free & masks]"),
    (SETS, "at = int(left.argmax())", "at = int(left.argmin())"),
    (SETS, "cheapest = costs.min()", "cheapest = costs.max()"),
    (SETS, "fitting = (masks & ~free) == 0", "fitting = (masks & ~free) >= 0"),
    (SETS, "return sum(free for size in sizes if free < size)", "return sum(free for size in sizes if free <= size)"),
    (SETS, "ways = [mask for mask in ways if self.packed(free & ~mask, size) >= wanted]", "ways = list(ways)"),
    (SETS, "any(mask & ~island == 0 for island in self._islands)", "any(mask & island for island in self._islands)"),
    (BOOK, "if epoch != self.epoch:", "if epoch > self.epoch:"),
    (
        BOOK,
        "self._tickets[ticket] = claim\n        self.turn = max(self.turn, claim.turn)\n        self.epoch += 1",
        "self._tickets[ticket] = claim\n        self.turn = max(self.turn, claim.turn)\n        self.epoch += 0",
    ),
    (BOOK, "if freed:\n            self.epoch += 1", "if not freed:\n            self.epoch += 1"),
    (BOOK, "self._free &= ~wanted", "self._free &= self._free"),
    (BOOK, "self._free |= 1 << gpu", "self._free |= 0"),
    (BOOK, "demand.gpu_model != facts.gpu_model", "demand.gpu_model == facts.gpu_model"),
    (BOOK, "facts.memory_gib < demand.min_gpu_memory_gib", "facts.memory_gib <= demand.min_gpu_memory_gib"),
    (BOOK, "name in demand.anti_affinity or demand.deployment in other.anti_affinity", "name in demand.anti_affinity"),
    (BOOK, "return demand.gil and any(", "return False and any("),
    (BOOK, "min(ways, key=lambda way: (way.loss, way.gpus))", "max(ways, key=lambda way: (way.loss, way.gpus))"),
    (SLICES, 'min(starts) if pick == "lowest" else board.best_start(profile)', "min(starts)"),
    (BOOK, "places = (Place(),) * min(count, self._egress_room())", "places = (Place(),) * count"),
    (
        BOOK,
        'if demand.provider and not facts.egress:\n            return "no egress"',
        'if False:\n            return "no egress"',
    ),
    (PLANNING, "[offer for offer in offers if offer.index in self._known] or offers", "offers"),
    (PLANNING, "if self._in_domain[offer.domain] == fewest]", "if self._in_domain[offer.domain] >= fewest]"),
    (PLANNING, "self._in_domain[chosen.domain] += 1", "self._in_domain[chosen.domain] += 0"),
    (PLANNING, 'if fewest and spread == "require":', 'if fewest and spread == "never":'),
    (PLANNING, "if not any(chosen is offer for offer in offers):", "if False:"),
    (PLANNING, "self._shared = self._shared or fewest > 0", "self._shared = False"),
    (GREEDY, "if self._lowest(name) == index:", "if True:"),
    (GREEDY, "for index, mask in reversed(found):", "for index, mask in ():"),
    (
        GREEDY,
        "self._books[index].facts.failure_domain, 0) > level:",
        "self._books[index].facts.failure_domain, 0) > 99:",
    ),
    (BATCH, "if refused and not _in_halves(demands):", "if False:"),
    (BATCH, "large % small == 0", "True"),
    (BATCH, "trial = ledger.copy() if gang else ledger", "trial = ledger"),
    (LEDGER, "if each.replica_index < demand.replicas)", "if each.replica_index <= demand.replicas)"),
    (LEDGER, "self._lives[node] += 1", "self._lives[node] += 0"),
    (
        LEDGER,
        "for book in self.books.values():\n            book.release(deployment)",
        "for book in ():\n            book.release(deployment)",
    ),
]

ACTORS: list[tuple[str, str, str]] = [
    (ACTOR, "_tell(ctx, ref, Abort(ticket))\n        if not reserved:", "pass\n        if not reserved:"),
    (ACTOR, "if not (committed and alive and all(", "if not (alive and all("),
    (
        ACTOR,
        "_tell(ctx, refs[node], Vacate(demand.deployment, tuple(each.replica_index for each in assignments)))",
        "pass",
    ),
    (ACTOR, "agreed = await _answer_of(question) is not None and agreed", "await _answer_of(question)"),
    (ACTOR, "if name in self._placed or name in self._busy:", "if name in self._busy:"),
    (ACTOR, "member.life += 1", "member.life += 0"),
    (ACTOR, "self._forget(ctx, name)", "pass"),
    (ACTOR, "self._tell(ctx, node, Vacate(name, replicas))", "pass"),
    (ACTOR, "self._tell(ctx, node, Vacate(name, replicas))", "self._tell(ctx, node, Vacate(name))"),
    (
        ACTOR,
        "wanted = range(demand.replicas) if msg.missing is None else msg.missing",
        "wanted = range(demand.replicas)",
    ),
    (NODE, "self._timers[ticket] = ctx.after(RESERVATION_S, ReservationOver(ticket))", "pass"),
    (NODE, "self._in_time(ticket)\n                self._book.abort(ticket)", "self._in_time(ticket)"),
]


DRAIN_IT = "ctx.tell(self._around.coordinator, Deregister(name, number, ctx.self))"
GO_ON = "ctx.tell(wish.reply_to, error)  # and all goes on as before"
SCALING: list[tuple[str, str, str]] = [
    # GPUs are given back when their engine has been drained, and not before; and the drain loses nobody.
    (REPLICAS, DRAIN_IT, f"{DRAIN_IT}; ctx.tell(self._around.placement, Release(name, replicas=(number,)))"),
    (REPLICAS, "ctx.tell(replica.engine, Drain(ctx.self, msg.routed))", "ctx.stop(replica.engine)"),
    (FLEET, "return Due.START if needed else Due.GIVE_BACK", "return Due.START"),
    # The last wish wins.
    (ROLL_OUT, "await self._decide(ctx, self._wishes.popleft())", "await self._decide(ctx, self._wishes.pop())"),
    (
        ROLL_OUT,
        "self._replicas.want(ctx, deployment.replicas)",
        "self._replicas.want(ctx, max(fleet.wanted, deployment.replicas))",
    ),
    (FLEET, "needed = number < self.wanted and number not in self.given_up", "needed = number not in self.given_up"),
    # A refusal changes nothing.
    (ROLL_OUT, GO_ON, f"{GO_ON.partition('  #')[0]}; self._replicas.want(ctx, deployment.replicas)"),
    (ROLL_OUT, GO_ON, f"{GO_ON.partition('  #')[0]}; self._fail(ctx, error)"),
    (ROLL_OUT, "Resize(deployment, missing=lacking)", "Resize(deployment, partial=True, missing=lacking)"),
    # One replica that cannot serve is one replica; who is wanted again starts again; everybody is answered.
    (FLEET, "return self.wanted > 0 and len(self.given_up) == self.wanted", "return bool(self.given_up)"),
    (
        ROLL_OUT,
        "lacking = () if fewer else fleet.lacking(deployment.replicas)",
        "lacking = () if fewer else fleet.lacking()",
    ),
    (ROLL_OUT, "if (fleet.settled or self._remote) and not self._busy:", "if fleet.settled and not self._busy:"),
    (ROLL_OUT, "self._mending = self._mending or bool(self._replicas.fleet.lacking())", "pass"),
    (REPLICAS, "self._around.room_again(ctx)", "pass"),
    # Who waits for a replica is counted once, when it is routed, and leaves when it has no use for one.
    (COORDINATOR, "if len(parked) < room or self._views.get(msg.deployment):", "if room:"),
    (COORDINATOR, "msg = parked.pop(request_id, None)", "msg = parked.get(request_id)"),
    (COORDINATOR, "if not room and not self._views.get(deployment):", "if False:"),
    (
        REQUEST,
        "elif self._parked:\n            self._leave_room(ctx)",
        "elif False:\n            self._leave_room(ctx)",
    ),
    (REQUEST, "if self._life.over:\n            self._leave_room(ctx)", "if False:\n            self._leave_room(ctx)"),
    (AUDIT, 'outside = (span < 0) | (runs["last_end"] >', 'outside = (span < 0) & (runs["last_end"] >'),
]


def all_mutants() -> list[tuple[str, str, str, str]]:
    """(group, file, text, fault) of every mutant."""
    found = [(policy, *fault) for policy, faults in BY_POLICY.items() for fault in faults]
    found += [("shared", *fault) for fault in SHARED]
    found += [("scaling", *fault) for fault in SCALING]
    return found + [("actors", *fault) for fault in ACTORS]
