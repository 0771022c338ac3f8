"""Routing policies: a valid choice always, a fair one among equals, the same one for the same seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rakka_sim.core.routing import (
    POLICIES,
    LeastLoad,
    PrefixAffinity,
    ReplicaView,
    RouteHint,
    RoutingPolicy,
    make_policy,
)
from rakka_sim.errors import InputError, UnknownName
from rakka_sim.values import Load

LOADS = st.builds(
    Load,
    running=st.integers(0, 50),
    waiting=st.integers(0, 50),
    capacity=st.integers(0, 64),
    kv_usage=st.floats(0, 1) | st.just(nan),
    queued_tokens=st.integers(0, 10_000),
)
VIEWS = st.lists(st.tuples(LOADS, st.integers(0, 100)), min_size=1, max_size=8).map(
    lambda given: [ReplicaView(10 + at, load, assigned) for at, (load, assigned) in enumerate(given)]
)
HINTS = st.builds(
    RouteHint,
    prompt_tokens=st.integers(1, 9999),
    session=st.integers(0, 3),
    content=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 99)), max_size=3).map(tuple),
)
HINT = RouteHint(100)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def idle(count: int) -> list[ReplicaView]:
    return [ReplicaView(replica, Load(capacity=8), 0) for replica in range(count)]


def view(replica: int, running: float, assigned: int, capacity: int = 10) -> ReplicaView:
    return ReplicaView(replica, Load(running=running, capacity=capacity), assigned)  # type: ignore[arg-type]


@given(st.sampled_from(sorted(POLICIES)), VIEWS, st.lists(HINTS, max_size=20), st.integers(0, 99))
def test_every_policy_chooses_a_replica_and_the_same_again(
    name: str, views: list[ReplicaView], hints: list[RouteHint], seed: int
) -> None:
    def choices() -> list[int]:
        policy, draws = make_policy(name), rng(seed)
        return [policy.choose(views, hint, draws) for hint in hints]

    chosen = choices()
    assert all(type(index) is int and 0 <= index < len(views) for index in chosen)
    assert choices() == chosen


@given(st.sampled_from(["round_robin", "least_load", "join_shortest_queue"]), st.integers(1, 7), st.integers(0, 40))
def test_equal_replicas_get_equal_shares(name: str, count: int, requests: int) -> None:
    policy, views = make_policy(name), idle(count)
    shares = Counter(policy.choose(views, HINT, rng()) for _ in range(requests))
    assert max(shares.values(), default=0) - min((shares[at] for at in range(count)), default=0) <= 1


@pytest.mark.parametrize(("name", "most_apart"), [("join_shortest_queue", 1), ("power_of_two", 6)])
def test_queues_stay_level_when_nobody_leaves(name: str, most_apart: int) -> None:
    policy, views, draws = make_policy(name), idle(8), rng(3)
    for _ in range(2000):
        views[policy.choose(views, HINT, draws)].assigned += 1
    counts = [each.assigned for each in views]
    assert max(counts) - min(counts) <= most_apart


def test_random_reaches_everyone_about_equally() -> None:
    policy, views, draws = make_policy("random"), idle(4), rng(1)
    shares = Counter(policy.choose(views, HINT, draws) for _ in range(4000))
    assert sorted(shares) == [0, 1, 2, 3]
    assert all(900 < share < 1100 for share in shares.values())


def test_two_choices_never_take_the_longest_queue() -> None:
    policy, draws = make_policy("power_of_two"), rng(5)
    views = [view(0, 0, 5), view(1, 0, 9), view(2, 0, 7)]
    assert {policy.choose(views, HINT, draws) for _ in range(200)} == {0, 2}


def test_least_load_is_a_share_of_capacity_then_what_is_assigned() -> None:
    assert make_policy("least_load").choose([view(0, 4, 0), view(1, 5, 0, capacity=20)], HINT, rng()) == 1
    assert make_policy("least_load").choose([view(0, 4, 7), view(1, 4, 6), view(2, 4, 9)], HINT, rng()) == 1


@pytest.mark.parametrize("nonsense", [view(0, nan, 0), view(0, -5, 0), view(0, 0, 0, capacity=0)])
def test_a_load_that_makes_no_sense_never_wins(nonsense: ReplicaView) -> None:
    sound = view(1, 9, 50)
    for views in ([nonsense, sound], [sound, nonsense], [nonsense, sound, nonsense]):
        for _ in range(3):
            assert views[make_policy("least_load").choose(views, HINT, rng())] is sound
    assert LeastLoad().rank(nonsense)[0] == float("inf")


def test_where_no_load_makes_sense_all_share() -> None:
    policy, views = LeastLoad(), [view(replica, nan, 0) for replica in range(3)]
    assert [policy.choose(views, HINT, rng()) for _ in range(4)] == [0, 1, 2, 0]


def test_affinity_sticks_to_a_session() -> None:
    policy, views = PrefixAffinity(), idle(4)
    for session in range(1, 9):
        homes = {policy.choose(views, RouteHint(100, session, ((session, 50),)), rng()) for _ in range(5)}
        assert len(homes) == 1


def test_affinity_goes_by_session_before_the_prompt_that_all_share() -> None:
    policy, views = PrefixAffinity(), idle(3)
    home = policy.choose(views, RouteHint(100, 1, ((7, 50),)), rng())
    views[home].assigned = 20  # too much for a second one
    other = policy.choose(views, RouteHint(100, 2, ((7, 50),)), rng())
    views[home].assigned = 0
    assert other != home
    assert policy.choose(views, RouteHint(100, 1, ((7, 50),)), rng()) == home
    assert policy.choose(views, RouteHint(100, 2, ((7, 50),)), rng()) == other


@given(st.integers(1, 6), st.lists(st.integers(0, 2), min_size=1, max_size=200))
def test_affinity_is_bounded(count: int, spans: list[int]) -> None:
    policy, views = PrefixAffinity(factor=1.5, slack=4), idle(count)
    for span in spans:
        least = min(each.assigned for each in views)
        chosen = views[policy.choose(views, RouteHint(100, 0, ((span, 50),)), rng())]
        assert chosen.assigned <= 1.5 * least + 4
        chosen.assigned += 1


def test_affinity_survives_the_loss_of_a_replica() -> None:
    policy, views = PrefixAffinity(), idle(3)
    hint = RouteHint(100, 1)
    home = policy.choose(views, hint, rng())
    left = [each for each in views if each.replica != home]
    assert left[policy.choose(left, hint, rng())] in left


def test_affinity_forgets_the_oldest() -> None:
    policy, views = PrefixAffinity(remembered=2), idle(3)
    first = [policy.choose(views, RouteHint(100, session), rng()) for session in (1, 2, 3)]
    assert first == [0, 1, 2]
    assert policy.choose(views, RouteHint(100, 3), rng()) == 2
    assert policy.choose(views, RouteHint(100, 1), rng()) == 0  # forgotten: just the next in turn
    views[0].assigned = 1
    assert policy.choose(views, RouteHint(100, 2), rng()) == 1


def test_a_users_function_object_or_class_is_a_policy() -> None:
    def last(replicas: Sequence[ReplicaView], hint: RouteHint, draws: np.random.Generator) -> int:
        return len(replicas) - 1

    class First:
        def choose(self, replicas: Sequence[ReplicaView], hint: RouteHint, rng: np.random.Generator) -> int:
            return 0

    assert make_policy(last).choose(idle(4), HINT, rng()) == 3
    assert make_policy(First).choose(idle(4), HINT, rng()) == 0
    first: RoutingPolicy = First()
    assert make_policy(first) is first


@pytest.mark.parametrize("chosen", [4, -1, -1.0, 1.5, nan, None, "0"])
def test_a_users_function_that_chooses_nobody_is_told_so(chosen: object) -> None:
    def broken(replicas: Sequence[ReplicaView], hint: RouteHint, draws: np.random.Generator) -> int:
        return chosen  # type: ignore[return-value]

    with pytest.raises(InputError, match="an index from 0 to 3") as told:
        make_policy(broken).choose(idle(4), HINT, rng())
    assert told.value.where == "routing policy broken"


@pytest.mark.parametrize("name", ["least_loaded", "", 7])
def test_an_unknown_name_is_told_what_there_is(name: object) -> None:
    with pytest.raises(UnknownName, match="round_robin, random, least_load"):
        make_policy(name)  # type: ignore[arg-type]


@given(
    st.sampled_from(["least_load", "join_shortest_queue", "prefix_affinity"]),
    VIEWS,
    st.lists(st.tuples(HINTS, st.integers(0, 7), LOADS, st.integers(0, 100), st.booleans()), max_size=30),
)
def test_a_policy_that_is_told_what_changes_chooses_as_one_that_looks_at_all(
    name: str, views: list[ReplicaView], moves: list[tuple[RouteHint, int, Load, int, bool]]
) -> None:
    told, looking = make_policy(name), make_policy(name)
    told.watch(views)  # type: ignore[attr-defined]
    for hint, at, load, assigned, joined in moves:
        at %= len(views)
        views[at].load, views[at].assigned = load, assigned
        told.changed(at)  # type: ignore[attr-defined]
        if joined:
            views = [*views, ReplicaView(max(view.replica for view in views) + 1, load, assigned)]
            told.watch(views)  # type: ignore[attr-defined]
        chosen = told.choose(views, hint, rng())
        assert chosen == looking.choose(list(views), hint, rng())
        views[chosen].assigned += 1
        told.changed(chosen)  # type: ignore[attr-defined]
