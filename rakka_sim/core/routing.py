"""Which replica serves a request: policies that look at loads and choose. No message and no state of a replica here."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from rakka_sim.core.ranking import Ranking
from rakka_sim.errors import InputError, UnknownName
from rakka_sim.values import Content, Load

if TYPE_CHECKING:
    from numpy.random import Generator


@dataclass(slots=True)
class ReplicaView:
    """A replica as the coordinator sees it: the load it last reported, and how many requests it has been given.

    `assigned` are those it reported and those on their way to it.
    """

    replica: int
    load: Load
    assigned: int


@dataclass(slots=True)
class RouteHint:
    """What a policy may know of a request."""

    prompt_tokens: int
    session: int = 0
    content: Content = ()


class RoutingPolicy(Protocol):
    """One deployment's policy; it may remember what it chose."""

    def choose(self, replicas: Sequence[ReplicaView], hint: RouteHint, rng: Generator) -> int:
        """An index into `replicas`, which is never empty."""
        ...


@runtime_checkable
class WatchingPolicy(RoutingPolicy, Protocol):
    """A policy that need not look at every replica each time, because it is told what changes."""

    def watch(self, replicas: Sequence[ReplicaView]) -> None:
        """These are the replicas from now on: `choose` is given the same list until this is called again."""
        ...

    def changed(self, place: int) -> None:
        """The replica at that place has another load, or another number of requests assigned."""
        ...


RoutingFunction = Callable[[Sequence[ReplicaView], RouteHint, "Generator"], int]


class RoundRobin:
    """Each in turn."""

    def __init__(self) -> None:
        self._turn = 0

    def choose(self, replicas: Sequence[ReplicaView], hint: RouteHint, rng: Generator) -> int:
        chosen = self._turn % len(replicas)
        self._turn = chosen + 1
        return chosen


class Random:
    """Any."""

    def choose(self, replicas: Sequence[ReplicaView], hint: RouteHint, rng: Generator) -> int:
        return int(rng.integers(len(replicas)))


class _Least:
    """The smallest rank; among equals each in turn, so that idle replicas share the work."""

    def __init__(self) -> None:
        self._turn = 0
        self._watched: Sequence[ReplicaView] | None = None
        self._ranking = Ranking((), self.rank)

    def watch(self, replicas: Sequence[ReplicaView]) -> None:
        self._watched = replicas
        self._ranking = Ranking(replicas, self.rank)

    def changed(self, place: int) -> None:
        self._ranking.changed(place)

    def rank(self, view: ReplicaView) -> tuple[float, int]:
        raise NotImplementedError

    def choose(self, replicas: Sequence[ReplicaView], hint: RouteHint, rng: Generator) -> int:
        count = len(replicas)
        turn = self._turn % count
        if replicas is self._watched:
            chosen = self._ranking.first(turn)
        else:
            order = (at % count for at in range(turn, turn + count))
            chosen = min(order, key=lambda at: self.rank(replicas[at]))
        self._turn = chosen + 1
        return chosen


class LeastLoad(_Least):
    """The fewest requests per place, those on their way among them; then the fewest requests assigned."""

    def rank(self, view: ReplicaView) -> tuple[float, int]:
        load, assigned = view.load, view.assigned
        outstanding = load.running + load.waiting
        if outstanding >= 0 and load.capacity > 0:
            return (outstanding if outstanding > assigned else assigned) / load.capacity, assigned
        return inf, assigned  # a report that makes no sense counts as full, not as empty


class JoinShortestQueue(_Least):
    """The fewest requests assigned."""

    def rank(self, view: ReplicaView) -> tuple[float, int]:
        return view.assigned, 0


class PowerOfTwo:
    """The less assigned one of two taken at random (Mitzenmacher 2001): nearly as good as all, for two looks."""

    def choose(self, replicas: Sequence[ReplicaView], hint: RouteHint, rng: Generator) -> int:
        if len(replicas) == 1:
            return 0
        one = int(rng.integers(len(replicas)))
        other = int(rng.integers(len(replicas) - 1))
        other += other >= one
        return other if replicas[other].assigned < replicas[one].assigned else one


def _assigned(view: ReplicaView) -> int:
    return view.assigned


class PrefixAffinity:
    """Where the session, else the first span of the content, was served last; least load if that one is overloaded.

    Overloaded: more than `factor` times the fewest requests assigned to a replica, plus `slack`. At most `remembered`
    sessions and spans are kept, the latest ones.
    """

    def __init__(self, factor: float = 1.5, slack: int = 8, remembered: int = 100_000) -> None:
        self._factor = factor
        self._slack = slack
        self._remembered = remembered
        self._served: OrderedDict[tuple[str, int], int] = OrderedDict()
        self._otherwise = LeastLoad()
        self._watched: Sequence[ReplicaView] | None = None
        self._assigned = Ranking((), _assigned)
        self._place: dict[int, int] = {}

    def watch(self, replicas: Sequence[ReplicaView]) -> None:
        self._otherwise.watch(replicas)
        self._watched = replicas
        self._assigned = Ranking(replicas, _assigned)
        self._place = {view.replica: at for at, view in enumerate(replicas)}

    def changed(self, place: int) -> None:
        self._otherwise.changed(place)
        self._assigned.changed(place)

    def choose(self, replicas: Sequence[ReplicaView], hint: RouteHint, rng: Generator) -> int:
        marks = [("session", hint.session)] if hint.session else []
        marks += [("span", source) for source, _ in hint.content[:1]]
        if replicas is not self._watched:
            self.watch(replicas)
            self._watched = self._otherwise._watched = None  # nobody says what changes: look again each time
        most = self._factor * self._assigned.lowest + self._slack
        known = [self._place.get(self._served.get(mark, -1)) for mark in marks]
        chosen = next((at for at in known if at is not None and replicas[at].assigned <= most), None)
        if chosen is None:
            chosen = self._otherwise.choose(replicas, hint, rng)
        for mark in marks:
            self._served[mark] = replicas[chosen].replica
            self._served.move_to_end(mark)
        while len(self._served) > self._remembered:
            self._served.popitem(last=False)
        return chosen


def chosen_index(policy: object, chosen: Any, count: int) -> int:
    """What a policy has chosen, as an index below `count`; numpy's integers are taken. Raises InputError for others."""
    if type(chosen) is int and 0 <= chosen < count:
        return chosen
    index: int | None
    try:
        index = range(count)[chosen]
    except (IndexError, TypeError):
        index = None
    if index is None or index != chosen:
        name = getattr(policy, "__name__", type(policy).__name__)
        raise InputError(f"routing policy {name}", chosen, f"an index from 0 to {count - 1}")
    return index


class _Function:
    """A user's function as a policy; what it returns is checked."""

    def __init__(self, function: RoutingFunction) -> None:
        self._function = function

    def choose(self, replicas: Sequence[ReplicaView], hint: RouteHint, rng: Generator) -> int:
        return chosen_index(self._function, self._function(replicas, hint, rng), len(replicas))


POLICIES: dict[str, Callable[[], RoutingPolicy]] = {
    "round_robin": RoundRobin,
    "random": Random,
    "least_load": LeastLoad,
    "join_shortest_queue": JoinShortestQueue,
    "power_of_two": PowerOfTwo,
    "prefix_affinity": PrefixAffinity,
}


def make_policy(policy: str | RoutingPolicy | type[RoutingPolicy] | RoutingFunction) -> RoutingPolicy:
    """A policy by its name in `POLICIES`, of a class, of a function, or as it is; raises UnknownName."""
    if isinstance(policy, str) and policy in POLICIES:
        return POLICIES[policy]()
    if isinstance(policy, type):
        made: RoutingPolicy = policy()
        return made
    if isinstance(policy, str) or not (hasattr(policy, "choose") or callable(policy)):
        raise UnknownName("routing policy", policy, f"{', '.join(POLICIES)}; a function; an object with `choose`")
    return policy if hasattr(policy, "choose") else _Function(policy)
