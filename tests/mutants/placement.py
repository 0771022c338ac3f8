"""One-line faults in the placement code, and the tests that must notice each. Run by `run.py`; none is applied here.

A fault is (what it breaks, file, the text as it is, the text as it should not be). The text must occur exactly once.
"""

from __future__ import annotations

CORE = "rakka_sim/core/placing/"
POLICIES, PLANNING, BOOK, SETS = (f"{CORE}{name}.py" for name in ("policies", "planning", "book", "sets"))
GREEDY, PATTERNS, SOLVERS, BATCH = (f"{CORE}{name}.py" for name in ("greedy", "patterns", "solvers", "batch"))
LEDGER, SLICES, SHAPES, SPANNING = (f"{CORE}{name}.py" for name in ("ledger", "slices", "shapes", "spanning"))
SIZED = f"{CORE}sized.py"
HARDWARE = "rakka_sim/hardware/"
NCCL_XML, TOPO_READ, NVLINKS, BETWEEN = (
    f"{HARDWARE}{name}.py" for name in ("nccl_xml", "topo_read", "nvlinks", "between")
)
SUBSETS, PACKING, SET_COSTS, GROUPS = (f"{HARDWARE}{name}.py" for name in ("subsets", "packing", "set_costs", "groups"))
ACTOR, NODE = "rakka_sim/actors/placement.py", "rakka_sim/actors/node_placement.py"
FLEET, AUDIT = "rakka_sim/core/fleet.py", "rakka_sim/records/audit.py"
ROLL_OUT, REPLICAS = "rakka_sim/actors/roll_out.py", "rakka_sim/actors/replicas.py"
COORDINATOR, REQUEST = "rakka_sim/actors/coordinator.py", "rakka_sim/actors/request.py"
ENGINE = "rakka_sim/actors/engine.py"

TESTS = "tests/core/test_placing"
BY_FILE = {
    SETS: [f"{TESTS}_sets.py"],
    SIZED: [f"{TESTS}_sets.py"],
    SHAPES: [f"{TESTS}_sets.py"],
    BOOK: [f"{TESTS}_machine.py", f"{TESTS}_slices.py", f"{TESTS}.py"],
    SLICES: [f"{TESTS}_slices.py"],
    SPANNING: [f"{TESTS}_spanning.py"],
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
BY_FILE |= {COORDINATOR: ["tests/actors/test_coordinator.py", *SCALE_TESTS], ENGINE: SCALE_TESTS}
BY_FILE |= {REQUEST: ["tests/actors/test_request.py"]}
BY_FILE |= {AUDIT: ["tests/scenarios/test_scale_schedule.py"]}
# Of the tests on placing one deployment, those that say something of every policy or of one; others say nothing of it.
ON_POLICIES = "failure_domains or goes_round or are_even or pays_least or equally_empty or (goes_where and {0}) or {0}"


def tests_for(group: str, file: str) -> list[str]:
    """What pytest is asked to run against a fault of that group in that file."""
    if group in ("optimal", "pack", "topology"):
        batch = "most_gpus or cheapest or one_after_another or keeps_replicas_apart"
        return [f"{TESTS}.py", f"{TESTS}_batch.py", "-k", f"{ON_POLICIES.format(group)} or {batch}"]
    if group == "spanning":
        return ["tests/actors/test_placement_protocol.py"] if file == ACTOR else [f"{TESTS}_spanning.py"]
    if group == "faulty":
        return [f"{TESTS}_faulty_machines.py"]
    if group == "costs":
        return ["tests/hardware/test_subsets.py", "tests/hardware/test_set_costs.py"]
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
        (BOOK, "elif not overbook and (gpu_count(", "elif (gpu_count("),
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
    (SETS, "if alike else self._table(size).cheapest(slice(None))[1]] = 1", "if True else None] = 1"),
    (SETS, "left = self._flexibilities()[free & ~masks]", "left = self._flexibilities()[free & masks]"),
    (SETS, "at = int(left.argmax())", "at = int(left.argmin())"),
    (SIZED, "        least = costs.min()", "        least = costs.max()"),
    (SETS, "np.flatnonzero((table.masks & ~free) == 0)", "np.flatnonzero((table.masks & ~free) >= 0)"),
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
    (PLANNING, "strict=True) if others == fewest]", "strict=True) if others >= fewest]"),
    (PLANNING, "self._in_domain[domain] += 1", "self._in_domain[domain] += 0"),
    (PLANNING, 'if fewest and self._demand.spread == "require":', 'if fewest and self._demand.spread == "never":'),
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


# Replicas over several nodes: never across fabrics, no part twice, all parts given back, and the best of the ways.
ACROSS: list[tuple[str, str, str]] = [
    (PLANNING, "setdefault((quote.spare.fabric, quote.gpu_model), [])", 'setdefault(("", quote.gpu_model), [])'),
    (PLANNING, "setdefault((quote.spare.fabric, quote.gpu_model), [])", 'setdefault((quote.spare.fabric, ""), [])'),
    (PLANNING, "self._cut.setdefault(of[node], []).extend(gpus)", "self._cut.setdefault(of[node], [])"),
    (PLANNING, "if len(offer.nodes) == fewest]", "if len(offer.nodes) >= fewest]"),
    (PLANNING, "spans = [] if offers and not self._too_near(offers) else self._spans()", "spans = self._spans()"),
    (PLANNING, "if quote.node in offer.nodes}", "if quote.node == offer.node}"),
    (PLANNING, "there.setdefault(quote.domain, set()).update(quote.replicas)", "there.setdefault(quote.domain, set())"),
    (SPANNING, "if gpu not in taken))", "if gpu >= 0))"),
    (SPANNING, "if cost is not None]", "if cost != 0]"),
    (SPANNING, "if other <= cost)", "if other >= 0)"),
    (SPANNING, "if key not in longer or found < longer[key]:", "if key not in longer or found > longer[key]:"),
    (SPANNING, "return _sets(room, room.free) - _sets(room, room.free - take)", "return take"),
    (SPANNING, "for level in sorted({room.level for room in rooms}) if apart else (None,):", "for level in (None,):"),
    (SPANNING, "return NodeAssignment(assignment.replica_index, *own, assignment.slice, others)", "return assignment"),
    (BOOK, "or not wanted or wanted & ~self._free):", "or not wanted):"),
    (LEDGER, "for each in gone:\n                self._give_back(deployment, each)", "pass"),
    (
        LEDGER,
        "if node in self.books:\n                self.books[node].release",
        "if node == assignment.node and node in self.books:\n                self.books[node].release",
    ),
    (BATCH, "demand.gpus > most)]", "False)]"),
    (BATCH, "if joined:  # what", "if False:  # what"),
    (ACTOR, "for each in gone:\n                    self._vacate(ctx, name, each)", "pass"),
    (ACTOR, "if node in dict(each.parts)]", "if node == each.node]"),
    (ACTOR, "for node, _ in assignment.parts:", "for node, _ in assignment.parts[:1]:"),
    (
        ACTOR,
        "dict.fromkeys(node for each in going for node, _ in each.parts)",
        "dict.fromkeys(each.node for each in going)",
    ),
]


DRAIN_IT = "ctx.tell(self._around.coordinator, Deregister(name, number, ctx.self))"
GO_ON = "ctx.tell(wish.reply_to, error)  # and all goes on as before"
SCALING: list[tuple[str, str, str]] = [
    # GPUs are given back when their engine has been drained, and not before; and the drain loses nobody.
    (REPLICAS, DRAIN_IT, f"{DRAIN_IT}; ctx.tell(self._around.placement, Release(name, replicas=(number,)))"),
    (REPLICAS, "ctx.tell(replica.engine, Drain(ctx.self, msg.routed))", "ctx.stop(replica.engine)"),
    (FLEET, "return Due.START if needed else Due.GIVE_BACK", "return Due.START"),
    # The last wish wins.
    (ROLL_OUT, "wish = self._wishes.popleft()", "wish = self._wishes.pop()"),
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
    # A drain can be called off: in time, with the counts of before; else it goes on.
    (FLEET, "return Due.RECALL if stage is Stage.DRAINING and needed else None", "return None"),
    (REPLICAS, "replica.routed is not None and not replica.asked:", "not replica.asked:"),
    (REPLICAS, "if self.fleet.due(number) is not Due.RECALL:", "if False:"),
    (REPLICAS, "self._register(ctx, number, msg.engine, routed)", "self._register(ctx, number, msg.engine, 0)"),
    (REPLICAS, "if replica.ready:", "if True:"),
    (REPLICAS, "self._held[number].ready = True", "self._held[number].ready = False"),
    (COORDINATOR, "if msg.routed:", "if False:"),
    (COORDINATOR, "self.routed = routed", "self.routed = 0"),
    (ENGINE, "self._drain = None\n                ctx", "ctx"),
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

# Reports of machines that are broken, between a loader and a placement.
FAULTY: list[tuple[str, str, str]] = [
    (NVLINKS, "NvLink(a, b, min(here, there))", "NvLink(a, b, max(here, there))"),
    (NVLINKS, "if min(here, there) > 0:", "if max(here, there) > 0:"),
    (BETWEEN, "count, rate = 0, rate * nccl.HOST_SHARE", "count, rate = count, rate"),
    (GROUPS, "any(a in gpus and b in gpus for a, b in pairs.no_peer)", "any(False for a, b in pairs.no_peer)"),
    (NCCL_XML, "if 0 <= number <= most:", "if True:"),
    (NCCL_XML, "if abs(number) >= _NO_NUMBER:", "if False:"),
    (NCCL_XML, "if len(set(addresses)) < len(addresses):", "if False:"),
    (TOPO_READ, "if len(cell) > 4 or int(cell[2:]) > MOST_LINKS:", "if False:"),
    (BOOK, " & ~mask_of(tuple(facts.sliced))", ""),
    (BOOK, "boards[gpu] = boards[gpu].add(place.slice.profile, place.slice.start)", "pass"),
]

# What all sets of a size cost at once.
COSTS: list[tuple[str, str, str]] = [
    (SIZED, "unsure = first[~self._sure[first]]", "unsure = first[:0]"),
    (SIZED, "self._sure[unsure] = True", "self._sure[:] = True"),
    (SETS, "state = state * (members.bit_count() + 1) + np", "state = state + np"),
    (SET_COSTS, "size <= 4 or size > packing.EXACT", "True"),
    (SET_COSTS, "near = (gb_s >= rate) & (steps <= most)", "near = gb_s >= rate"),
    (SET_COSTS, "links[subsets.holding(pairs.no_peer, len(pairs.models))[masks]] = 0", "pass"),
    (SUBSETS, "np.minimum(total, 2 * widest, out=total)", "pass"),
    (SUBSETS, "for top in others[v] if top > v)", "for top in others[v] if top > v + 1)"),
    (SUBSETS, "_HALF if size <= _HALF else MOST", "_HALF"),
    (PACKING, "min(a + b + c, 2 * (a + b), 2 * (a + c), 2 * (b + c))", "a + b + c"),
    (PACKING, ">= enough - _NOTHING", ">= enough - 1"),
]


def all_mutants() -> list[tuple[str, str, str, str]]:
    """(group, file, text, fault) of every mutant."""
    found = [(policy, *fault) for policy, faults in BY_POLICY.items() for fault in faults]
    found += [("shared", *fault) for fault in SHARED]
    found += [("spanning", *fault) for fault in ACROSS]
    found += [("scaling", *fault) for fault in SCALING]
    found += [("faulty", *fault) for fault in FAULTY] + [("costs", *fault) for fault in COSTS]
    return found + [("actors", *fault) for fault in ACTORS]
