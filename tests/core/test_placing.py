"""Placing one deployment: what every policy must hold, and what each policy is, against plain enumeration."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from core.placing_oracle import PRESETS, Links, best_sets, cost, fits, flexibility, nodes, occupy, wasted
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rakka_sim.core.placing import POLICIES, Alike, Demand, Ledger, NodeFacts, Offer, make_policy
from rakka_sim.errors import (
    BadPolicy,
    InputError,
    InvariantBroken,
    NoEgressNodes,
    NoGpuNodes,
    NoSuitableNodes,
    NotEnoughDomains,
    NotEnoughGpus,
    PlacementError,
    UnknownName,
    UnknownPlacement,
)
from rakka_sim.values import NodeAssignment, PlacementConstraints, PlacementResult

TWO_NODES = PlacementConstraints(gpu_nodes={"a": 8, "b": 8}, egress_nodes=("x", "y", "z"))
HONEST = sorted(POLICIES.keys() - {"naive"})
DOMAINS = ("optimal", "spread", "topology")
honest = st.sampled_from(HONEST)


def places(result: PlacementResult) -> list[tuple[str, tuple[int, ...]]]:
    assert [each.replica_index for each in result.assignments] == list(range(len(result.assignments)))
    return [(each.node, each.gpus) for each in result.assignments]


@st.composite
def clusters(draw: st.DrawFn, linked: bool = True, max_nodes: int = 3) -> Ledger:
    """A ledger with some GPUs taken."""
    ledger = Ledger(draw(nodes(max_nodes, linked=linked)), draw(honest))
    for book in ledger.books.values():
        count = book.facts.shape.count
        occupy(book, sorted(draw(st.sets(st.integers(0, count - 1)))) if count else [])
    return ledger


def free_of(ledger: Ledger) -> dict[str, list[int]]:
    return {
        name: [gpu for gpu in range(book.facts.shape.count) if not book.holders(gpu)]
        for name, book in ledger.books.items()
    }


def state(ledger: Ledger) -> Any:
    """All that a placement may change but the epochs."""
    held = {name: [book.holders(g) for g in range(book.facts.shape.count)] for name, book in ledger.books.items()}
    hosted = {name: (book.hosted, book.deployments) for name, book in ledger.books.items()}
    return held, hosted, ledger.placed


def outcome(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except PlacementError as error:
        return type(error).__name__, str(error)


# --- every policy -----------------------------------------------------------------------------------------------


@settings(max_examples=2 * settings.default.max_examples)
@given(clusters(), st.integers(1, 4), st.integers(1, 4), st.sampled_from(["", "H100"]), st.sampled_from([0.0, 60.0]))
def test_whatever_fits_is_placed_and_nothing_else(
    ledger: Ledger, replicas: int, gpus: int, model: str, memory: float
) -> None:
    demand = Demand("d", replicas, gpus, gpu_model=model, min_gpu_memory_gib=memory)
    free, before = free_of(ledger), state(ledger)
    able = [
        name
        for name, book in ledger.books.items()
        if (not model or book.facts.gpu_model == model) and book.facts.memory_gib >= memory
    ]
    if fits([len(free[name]) for name in able], [gpus] * replicas):
        result = ledger.place(demand)
        taken = [(node, gpu) for node, found in places(result) for gpu in found]
        assert len(set(taken)) == len(taken) == replicas * gpus
        assert all(node in able and gpu in free[node] for node, gpu in taken)
        assert all(ledger.holders(node, gpu) == ("d",) for node, gpu in taken)
    else:
        with pytest.raises((NotEnoughGpus, NoSuitableNodes)) as refused:
            ledger.place(demand)
        assert state(ledger) == before
        if isinstance(refused.value, NotEnoughGpus):
            assert (refused.value.requested, refused.value.deployment) == (gpus, "d")
            assert refused.value.free == tuple((name, len(free[name])) for name in able)
        else:
            assert able == []
    ledger.check()


@given(clusters(), st.integers(1, 4), st.integers(1, 3))
def test_placing_and_releasing_is_as_if_nothing_had_been(ledger: Ledger, replicas: int, gpus: int) -> None:
    before = state(ledger)
    epochs = {name: book.epoch for name, book in ledger.books.items()}
    result = outcome(lambda: ledger.place(Demand("d", replicas, gpus)))
    assume(isinstance(result, PlacementResult))
    changed = {each.node for each in result.assignments}
    assert all(ledger.books[name].epoch > epochs[name] for name in changed)
    ledger.release("d")
    assert state(ledger) == before
    ledger.check()


@given(clusters(), st.integers(1, 4), st.integers(1, 3))
def test_the_same_state_and_demand_give_the_same_places(ledger: Ledger, replicas: int, gpus: int) -> None:
    twin = ledger.copy()
    demand = Demand("d", replicas, gpus)
    assert outcome(lambda: ledger.place(demand)) == outcome(lambda: twin.place(demand))


@given(clusters(), st.data())
def test_a_node_more_never_makes_a_placement_fail(ledger: Ledger, data: st.DataObject) -> None:
    demand = Demand("d", data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3)))
    placed = outcome(lambda: ledger.copy().place(demand))
    assume(isinstance(placed, PlacementResult))
    more = Ledger([*(b.facts for b in ledger.books.values()), NodeFacts("more", Alike(4))], ledger.policy)
    for name, gpus in free_of(ledger).items():
        occupy(more.books[name], sorted(set(range(more.books[name].facts.shape.count)) - set(gpus)))
    more.place(demand)
    relaxed = dataclasses.replace(demand, replicas=1)
    ledger.place(relaxed)


@pytest.mark.parametrize("policy", HONEST)
@given(st.integers(1, 5), st.lists(st.tuples(st.integers(0, 4), st.sampled_from("pqrs")), min_size=1))
def test_replicas_go_to_different_failure_domains(policy: str, replicas: int, sizes: list[tuple[int, str]]) -> None:
    facts = [NodeFacts(f"n{i}", Alike(size), domain=domain) for i, (size, domain) in enumerate(sizes)]
    domains = {domain for size, domain in sizes if size}
    for spread in ("prefer", "require", "ignore"):
        ledger = Ledger(facts, policy)
        demand = Demand("d", replicas, 1, spread=spread)  # type: ignore[arg-type]
        result = outcome(lambda ledger=ledger, demand=demand: ledger.place(demand))
        if spread == "require" and len(domains) < replicas and domains:
            error = result[0]
            assert error == "NotEnoughDomains" or (error == "NotEnoughGpus" and sum(s for s, _ in sizes) < replicas)
            continue
        if not isinstance(result, PlacementResult):
            continue
        used = {ledger.books[each.node].facts.domain for each in result.assignments}
        apart = spread == "require" or (spread == "prefer" and policy in DOMAINS)
        if apart:
            assert len(used) == min(replicas, len(domains))
        assert bool(result.degraded) == (apart and len(domains) < replicas)


def test_a_domain_for_each_replica_is_required() -> None:
    ledger = Ledger([NodeFacts("a", Alike(8), domain="p"), NodeFacts("b", Alike(8), domain="p")])
    with pytest.raises(NotEnoughDomains) as refused:
        ledger.place(Demand("d", 2, spread="require"))
    assert (refused.value.replicas, refused.value.domains) == (2, 1)


@given(st.data(), honest)
def test_remote_replicas_join_those_of_their_account(data: st.DataObject, policy: str) -> None:
    facts = data.draw(nodes(4, linked=False))
    ledger = Ledger(facts, policy)
    account = st.tuples(st.sampled_from(["openai", "gemini"]), st.sampled_from(["k1", "k2"]))
    hosts: dict[tuple[str, str], set[str]] = {}
    load = dict.fromkeys(ledger.books, 0)
    for number in range(data.draw(st.integers(1, 5))):
        (provider, key), region = data.draw(account), data.draw(st.sampled_from(["", "eu"]))
        demand = Demand(f"d{number}", data.draw(st.integers(1, 3)), 0, provider, key, region=region)
        able = {f.name: f for f in facts if f.egress and region in ("", f.region)}
        room = {name: (f.egress_slots or 99) - load[name] for name, f in able.items()}
        known = hosts.get((provider, key), set()) & able.keys()
        result = outcome(lambda demand=demand: ledger.place(demand))
        if sum(room.values()) < demand.replicas:
            assert result[0] == ("NoSuitableNodes" if able else "NoEgressNodes")
            continue
        for node, gpus in places(result):
            assert gpus == ()
            assert room[node] > 0
            assert node in known or not any(room[host] > 0 for host in known)
            room[node] -= 1
            load[node] += 1
        hosts.setdefault((provider, key), set()).update(each.node for each in result.assignments)
    ledger.check()


@given(st.data(), honest)
def test_neighbours_that_must_not_be_are_not(data: st.DataObject, policy: str) -> None:
    ledger = Ledger(data.draw(nodes(3, linked=False)), policy)
    names = [f"d{number}" for number in range(data.draw(st.integers(2, 4)))]
    against = {name: tuple(data.draw(st.sets(st.sampled_from(names), max_size=2)) - {name}) for name in names}
    for name in names:
        remote = data.draw(st.booleans())
        demand = Demand(name, data.draw(st.integers(1, 2)), 0 if remote else 1, "openai" if remote else "")
        demand = dataclasses.replace(demand, anti_affinity=against[name])
        outcome(lambda demand=demand: ledger.place(demand))
        for book in ledger.books.values():
            assert not any(b in against[a] for a in book.deployments for b in book.deployments)


# --- each policy, one replica -----------------------------------------------------------------------------------


def _lowest(shape: Any, free: list[int], gpus: int) -> tuple[int, ...]:
    return tuple(free[:gpus])


def _best(shape: Any, free: list[int], gpus: int) -> tuple[int, ...]:
    return best_sets(shape, free, gpus, NBYTES)[0]


NBYTES = Demand("d", 1).message_bytes


def _spec(policy: str, ledger: Ledger, node: str, free: list[int], gpus: int) -> tuple[Any, tuple[int, ...]]:
    """What the policy minimises over nodes, and the GPUs that it would take of this one: written down once more."""
    book = ledger.books[node]
    shape, total = book.facts.shape, book.facts.shape.count
    chosen = _best(shape, free, gpus) if policy in DOMAINS else _lowest(shape, free, gpus)
    left = sorted(set(free) - set(chosen))
    score = {
        "exclusive": (-len(free),),
        "round_robin": (book.turn,),
        "least_loaded": ((total - len(free)) / total, total - len(free)),
        "pack": (len(free),),
        "spread": (-len(free), cost(shape, chosen, NBYTES)),
        "topology": (
            cost(shape, chosen, NBYTES),
            flexibility(shape, free, NBYTES) - flexibility(shape, left, NBYTES),
            wasted(len(left), total) - wasted(len(free), total),
        ),
    }
    return score["topology" if policy == "optimal" else policy], chosen


@pytest.mark.parametrize("policy", HONEST)
@given(clusters(), st.integers(1, 3), st.integers(1, 3))
def test_one_replica_goes_where_the_policy_says(policy: str, ledger: Ledger, gpus: int, before: int) -> None:
    """The node's best set, then the best node, is the best of all sets of all nodes."""
    ledger.policy = make_policy(policy)
    for number in range(before):
        outcome(lambda number=number: ledger.place(Demand(f"earlier-{number}", 1, 1)))
    free = {name: gpus_ for name, gpus_ in free_of(ledger).items() if len(gpus_) >= gpus}
    assume(free)
    specs = {name: _spec(ledger.policy.name, ledger, name, free[name], gpus) for name in free}
    expected = min(specs, key=lambda name: specs[name][0])  # ties: in order of the nodes
    assert places(ledger.place(Demand("d", 1, gpus))) == [(expected, specs[expected][1])]


@given(clusters(linked=False), st.integers(1, 6), st.integers(1, 3))
def test_round_robin_goes_round(ledger: Ledger, replicas: int, gpus: int) -> None:
    ledger = Ledger([book.facts for book in ledger.books.values()], "round_robin")
    result = outcome(lambda: ledger.place(Demand("d", replicas, gpus)))
    assume(isinstance(result, PlacementResult))
    room = {name: book.facts.shape.count // gpus for name, book in ledger.books.items()}
    queue = [name for name in room if room[name]]
    for node, _ in places(result):
        assert node == queue.pop(0)
        room[node] -= 1
        if room[node]:
            queue.append(node)


def test_round_robin_goes_round_over_deployments_too() -> None:
    ledger = Ledger(TWO_NODES, "round_robin")
    assert [places(ledger.place(Demand(f"d{i}", 1)))[0][0] for i in range(4)] == ["a", "b", "a", "b"]


@given(clusters(linked=False), st.integers(1, 6))
def test_spread_and_exclusive_are_even_and_pack_is_not(ledger: Ledger, replicas: int) -> None:
    facts = [dataclasses.replace(book.facts, domain="") for book in ledger.books.values()]
    per_node: dict[str, list[int]] = {}
    for policy in ("spread", "exclusive", "pack"):
        demand = Demand("d", replicas, spread="ignore")  # so that it is the policy that keeps them even
        result = outcome(lambda policy=policy, demand=demand: Ledger(facts, policy).place(demand))
        assume(isinstance(result, PlacementResult))
        nodes_used = [node for node, _ in places(result)]
        per_node[policy] = [nodes_used.count(fact.name) for fact in facts]
    room = [fact.shape.count for fact in facts]
    for policy in ("spread", "exclusive"):
        counts = per_node[policy]
        assert all(
            counts[i] <= counts[j] + 1 or counts[j] == room[j] for i in range(len(room)) for j in range(len(room))
        )
    partly = [count for count, most in zip(per_node["pack"], room, strict=True) if 0 < count < most]
    assert len(partly) <= 1


@pytest.mark.parametrize("policy", ["optimal", "topology"])
def test_topology_pays_least_then_keeps_most_open_then_wastes_least(policy: str) -> None:
    slow, fast = PRESETS["pcie"], PRESETS["hgx-h100"]

    def where(gpus: int, *facts: NodeFacts, taken: dict[str, list[int]]) -> str:
        ledger = Ledger(facts, policy)
        for name, gone in taken.items():
            occupy(ledger.books[name], gone)
        return ledger.place(Demand("d", 1, gpus)).assignments[0].node

    # The slow box would lose fewer sets, and is asked first: what counts is what the collective takes.
    assert where(4, NodeFacts("slow", slow), NodeFacts("fast", fast), taken={}) == "fast"
    # Of equally fast ones the fuller: fewer sets go with it.
    half = {"b": [0, 1, 2, 3]}
    assert where(2, NodeFacts("a", fast), NodeFacts("b", fast), taken=half) == "b"
    # Both lose one set, a single GPU; the one of the larger node was of no use to more sizes of request.
    assert (
        where(1, NodeFacts("a", Alike(8)), NodeFacts("b", Alike(4)), taken={"a": [*range(7)], "b": [*range(3)]}) == "a"
    )


def test_spread_takes_the_faster_of_two_that_are_equally_empty() -> None:
    nodes_ = [NodeFacts("slow", PRESETS["pcie"]), NodeFacts("fast", PRESETS["hgx-h100"])]
    assert places(Ledger(nodes_, "spread").place(Demand("d", 1, 4))) == [("fast", (0, 1, 2, 3))]


# --- the seed's policy ------------------------------------------------------------------------------------------


def test_naive_is_upstreams_policy() -> None:
    assert places(Ledger(TWO_NODES, "naive").place(Demand("d", 3, 2))) == [("a", (0, 1)), ("b", (0, 1)), ("a", (0, 1))]
    assert places(Ledger(TWO_NODES, "naive").place(Demand("d", 1, 99))) == [("a", tuple(range(99)))]
    chosen = PlacementConstraints({}, ("x", "y", "z"), {("openai", "k"): ("z",)})
    remote = Demand("r", 4, 0, provider="openai", api_key="k")
    assert places(Ledger(chosen, "naive").place(remote)) == [("x", ()), ("y", ()), ("z", ()), ("x", ())]


def test_naive_books_a_gpu_twice_and_the_ledger_says_so() -> None:
    ledger = Ledger(TWO_NODES, "naive")
    ledger.place(Demand("one", 3, 2))
    ledger.place(Demand("two", 1, 1))
    assert ledger.holders("a", 0) == ("one", "one", "two")
    assert ledger.double_booked() == {("a", 0): ("one", "one", "two"), ("a", 1): ("one", "one")}
    with pytest.raises(InvariantBroken, match="GPU 0 has 3 holders"):
        ledger.check()
    ledger.release("two")
    ledger.release("one")
    assert ledger.holders("a", 0) == ()
    ledger.check()


def test_naive_gives_away_gpus_that_do_not_exist() -> None:
    ledger = Ledger(TWO_NODES, "naive")
    ledger.place(Demand("big", 1, 16))
    with pytest.raises(InvariantBroken, match="no GPUs"):
        ledger.check()


def test_naive_knows_which_nodes_have_a_way_out() -> None:
    ledger = Ledger([NodeFacts("gpu", Alike(2)), NodeFacts("x", egress=True), NodeFacts("y", egress=True)], "naive")
    assert places(ledger.place(Demand("r", 3, 0, "openai"))) == [("x", ()), ("y", ()), ("x", ())]


def test_naive_does_not_ask_what_a_node_is() -> None:
    ledger = Ledger([NodeFacts("cpu"), NodeFacts("gpu", Alike(2), gpu_model="A40")], "naive")
    assert places(ledger.place(Demand("d", 2, 1, gpu_model="H100"))) == [("gpu", (0,)), ("gpu", (0,))]


# --- one by one -------------------------------------------------------------------------------------------------


def test_exclusive_spreads_from_the_emptiest_node_on() -> None:
    ledger = Ledger(PlacementConstraints({"a": 4, "b": 8}), "exclusive")
    assert places(ledger.place(Demand("d", 3, 2))) == [("b", (0, 1)), ("a", (0, 1)), ("b", (2, 3))]


def test_egress_preference_is_read() -> None:
    remote = Demand("r", 3, 0, provider="openai", api_key="k")
    known = PlacementConstraints({}, ("x", "y", "z"), {("openai", "k"): ("z", "gone", "y")})
    for policy in HONEST:
        nodes_used = {node for node, _ in places(Ledger(known, policy).place(remote))}
        assert nodes_used <= {"y", "z"}
    assert places(Ledger(TWO_NODES, "exclusive").place(remote)) == [("x", ()), ("y", ()), ("z", ())]
    gone = PlacementConstraints({}, ("x",), {("openai", "k"): ("gone",)})
    assert places(Ledger(gone).place(remote)) == [("x", ())] * 3


def test_a_key_shows_nowhere() -> None:
    demand = Demand("r", 1, 0, provider="openai", api_key="sk-very-secret")
    constraints = PlacementConstraints({}, ("x",), {("openai", "sk-very-secret"): ("x",)})
    ledger = Ledger(constraints)
    ledger.place(demand)
    assert "secret" not in repr((demand, demand.account, constraints, ledger.books["x"].quote(demand)))
    assert dataclasses.replace(demand, replicas=2).account == demand.account


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_without_nodes_there_is_no_place(policy: str) -> None:
    ledger = Ledger(PlacementConstraints(), policy)
    with pytest.raises(NoGpuNodes):
        ledger.place(Demand("d", 1))
    with pytest.raises(NoEgressNodes) as refused:
        ledger.place(Demand("d", 1, 0, provider="gemini"))
    assert refused.value.provider == "gemini"


def test_who_may_not_serve_says_why() -> None:
    ledger = Ledger([NodeFacts("a", Alike(8), "A40", 44.0, region="us"), NodeFacts("b", egress=True, region="us")])
    with pytest.raises(NoSuitableNodes, match="a: GPU A40, not H100"):
        ledger.place(Demand("d", 1, gpu_model="H100"))
    with pytest.raises(NoSuitableNodes, match="44 GiB per GPU, less than 60"):
        ledger.place(Demand("d", 1, min_gpu_memory_gib=60))
    with pytest.raises(NoSuitableNodes, match="region us, not eu"):
        ledger.place(Demand("d", 1, region="eu"))
    with pytest.raises(NoEgressNodes, match="in region 'eu'"):
        ledger.place(Demand("d", 1, 0, provider="openai", region="eu"))


def test_what_was_free_is_said() -> None:
    with pytest.raises(NotEnoughGpus, match="free: a 8, b 8"):
        Ledger(TWO_NODES).place(Demand("d", 3, 6))


def test_an_island_can_be_required() -> None:
    pairs = Links(((0, 1, 0, 0), (1, 0, 0, 0), (0, 0, 0, 1), (0, 0, 1, 0)))
    for policy in HONEST:
        ledger = Ledger([NodeFacts("a", pairs)], policy)
        assert places(ledger.place(Demand("d", 2, 2, island="require"))) == [("a", (0, 1)), ("a", (2, 3))]
        with pytest.raises(NotEnoughGpus):
            Ledger([NodeFacts("a", pairs)], policy).place(Demand("d", 1, 3, island="require"))
        assert len(Ledger([NodeFacts("a", pairs)], policy).place(Demand("d", 1, 3)).assignments[0].gpus) == 3


def test_constraints_narrow_the_cluster_for_one_demand() -> None:
    ledger = Ledger(TWO_NODES)
    narrow = PlacementConstraints({"b": 2}, ("z",))
    assert places(ledger.place(Demand("d", 2, 1), narrow)) == [("b", (0,)), ("b", (1,))]
    with pytest.raises(NotEnoughGpus):
        ledger.place(Demand("e", 1, 1), narrow)
    assert places(ledger.place(Demand("r", 1, 0, provider="openai"), narrow)) == [("z", ())]


def test_names_are_placed_once_and_released_once() -> None:
    ledger = Ledger(TWO_NODES)
    ledger.place(Demand("d", 1))
    with pytest.raises(InputError, match="not placed yet"):
        ledger.place(Demand("d", 1))
    ledger.release("d")
    for call in (lambda: ledger.release("d"), lambda: ledger.resize(Demand("d", 2)), lambda: ledger.demand("d")):
        with pytest.raises(UnknownPlacement):
            call()


# --- a user's own -----------------------------------------------------------------------------------------------


def test_a_function_is_a_policy() -> None:
    def last(offers: Sequence[Offer], demand: Demand) -> Offer:
        return offers[-1]

    ledger = Ledger(TWO_NODES, last)
    assert ledger.policy.name == "last"
    assert places(ledger.place(Demand("d", 1, 2))) == [("b", (0, 1))]


def test_an_object_is_a_policy_and_says_how_gpus_are_picked() -> None:
    class Cautious:
        name = "cautious"
        sets = "lowest"
        domains = False

        def __call__(self, offers: Sequence[Offer], demand: Demand) -> Offer:
            return max(offers, key=lambda offer: offer.free)

    ledger = Ledger(TWO_NODES, Cautious())
    assert (ledger.policy.name, ledger.policy.sets, ledger.policy.domains) == ("cautious", "lowest", False)
    assert places(ledger.place(Demand("d", 2, 5))) == [("a", (0, 1, 2, 3, 4)), ("b", (0, 1, 2, 3, 4))]


def test_a_policy_cannot_book_a_gpu_twice() -> None:
    def greedy(offers: Sequence[Offer], demand: Demand) -> Offer:
        return dataclasses.replace(offers[0], place=dataclasses.replace(offers[0].place, gpus=(0,)))

    def broken(offers: Sequence[Offer], demand: Demand) -> Offer:
        return offers[99]

    for policy, what in ((greedy, "none of the 2 offers"), (broken, "IndexError")):
        ledger = Ledger(TWO_NODES, policy)
        with pytest.raises(BadPolicy, match=what):
            ledger.place(Demand("d", 1))
        assert ledger.placed == {}


def test_an_unknown_name_is_told_what_there_is() -> None:
    with pytest.raises(UnknownName, match="naive, exclusive"):
        make_policy("best")
    with pytest.raises(InputError, match="a function"):
        make_policy(7)

    class Odd:
        sets = "blind"

        def __call__(self, offers: Sequence[Offer], demand: Demand) -> Offer:
            return offers[0]

    with pytest.raises(InputError, match="best, lowest"):
        make_policy(Odd())


def test_a_reservation_of_what_is_taken_takes_nothing() -> None:
    from rakka_sim.core.placing import Claim

    ledger = Ledger(TWO_NODES)
    ledger.place(Demand("d", 1, 4))
    book = ledger.books["a"]
    assignments = (NodeAssignment(0, "a", (4, 5)), NodeAssignment(1, "a", (0, 5)))
    before = state(ledger)
    with pytest.raises(InputError, match="of the free GPUs"):
        book.reserve("t", book.epoch, Claim(Demand("e", 2, 2), assignments))
    assert state(ledger) == before
