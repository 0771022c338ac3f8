"""The placement actors, on both clocks: quotes, reservations, commits; nodes that change, die and come back between."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from rakka_sim.actors import placement as placement_module
from rakka_sim.actors.demands import demand_of
from rakka_sim.actors.node_placement import PlacementActor
from rakka_sim.actors.placement import DeploymentPlacementActor
from rakka_sim.config.base import parse
from rakka_sim.config.deployment import Deployment
from rakka_sim.core.placing import Alike, Claim, Demand, Ledger, NodeFacts, Offer, Tables
from rakka_sim.errors import (
    AskTimeout,
    InputError,
    NodeChanged,
    NotEnoughGpus,
    PlacementContested,
    PlacementError,
    UnknownNode,
    UnknownPlacement,
)
from rakka_sim.hardware.presets import preset
from rakka_sim.hardware.shape import MachineShape
from rakka_sim.messages import (
    Commit,
    Committed,
    GetPlacements,
    GetQuote,
    NodeLost,
    NodeReturned,
    Place,
    Release,
    Released,
    ReplicasLost,
    Reserve,
    Reserved,
    Resize,
    RoomAgain,
    TellLosses,
    Vacate,
)
from rakka_sim.runtime.api import Actor, Context
from rakka_sim.runtime.base import ActorSystem
from rakka_sim.runtime.encoding import encode
from rakka_sim.runtime.live import LiveRuntime
from rakka_sim.runtime.sim import SimRuntime
from rakka_sim.values import NodeAssignment, PlacementConstraints, PlacementResult

WAIT_S = 60.0


@pytest.fixture(params=["sim", "live"])
def system(request: pytest.FixtureRequest) -> Iterator[ActorSystem]:
    made: ActorSystem = SimRuntime(0) if request.param == "sim" else LiveRuntime(0)
    yield made
    made.stop()


def deployment(name: str, replicas: int = 1, gpus: int | None = 1, **fields: Any) -> Deployment:
    fields.setdefault("model", "Qwen3-0.6B")
    return parse(Deployment, {"name": name, "replicas": replicas, "gpus": gpus, **fields}, "test")


def remote(name: str, model: str, replicas: int = 1, **fields: Any) -> Deployment:
    return deployment(name, replicas, None, model=model, **fields)


class Asking:
    """A placement of some nodes, asked from outside."""

    def __init__(self, system: ActorSystem, nodes: Any, policy: Any = "topology") -> None:
        self.system = system
        self.actor = DeploymentPlacementActor(policy, nodes)
        self.ref = system.spawn("placement", lambda: self.actor)

    def ask(self, message: Any) -> Any:
        return self.system.ask(self.ref, message, WAIT_S)

    def place(self, *args: Any, **fields: Any) -> PlacementResult:
        return self.ask(Place(deployment(*args, **fields)))  # type: ignore[no-any-return]

    def node(self, name: str) -> Any:
        return self.actor._members[name].ref


HGX = MachineShape(preset("hgx-h100"))
CLUSTER = [
    NodeFacts("h100-a", HGX, "H100", 79.2, "r1"),
    NodeFacts("h100-b", HGX, "H100", 79.2, "r2"),
    NodeFacts("egress-a", domain="r1", egress=True),
    NodeFacts("egress-b", domain="r2", egress=True),
]


def test_the_worked_placement(system: ActorSystem) -> None:
    """A TP=4 replica on one island of each node, four small ones on the rest, remote ones on the egress nodes."""
    asking = Asking(system, CLUSTER)
    llama = asking.ask(Place(deployment("llama-70b", 2, 4, model="meta-llama/Llama-3.1-70B")))
    assert [each.node for each in llama.assignments] == ["h100-a", "h100-b"]
    islands = [set(island) for island in HGX.islands]
    for each in llama.assignments:
        assert len(set(each.gpus)) == 4
        assert any(set(each.gpus) <= island for island in islands)
    taken = {(each.node, gpu) for each in llama.assignments for gpu in each.gpus}
    whisper = asking.place("whisper", 4, 1)
    held = [(each.node, gpu) for each in whisper.assignments for gpu in each.gpus]
    assert len(set(held)) == 4
    assert not set(held) & taken
    assert sorted(node for node, _ in held) == ["h100-a", "h100-a", "h100-b", "h100-b"]
    assert all(gpu in range(4, 8) for _, gpu in held)
    gpt = asking.ask(Place(remote("gpt-4o", "gpt-4o", 2)))
    claude = asking.ask(Place(remote("claude", "claude-sonnet-4", placement={"anti_affinity": []})))
    assert sorted(each.node for each in gpt.assignments) == ["egress-a", "egress-b"]
    assert claude.assignments[0].node in ("egress-a", "egress-b")
    with pytest.raises(PlacementError, match="anti-affinity with gpt-4o"):
        asking.ask(Place(remote("shy", "claude-sonnet-4", placement={"anti_affinity": ["gpt-4o"]})))
    assert [each.deployment for each in asking.ask(GetPlacements())] == ["llama-70b", "whisper", "gpt-4o", "claude"]


def test_the_actors_place_what_the_ledger_places(system: ActorSystem) -> None:
    asking, ledger = Asking(system, CLUSTER), Ledger(CLUSTER)
    wanted = [("a", 2, 4), ("b", 3, 2), ("c", 1, 8), ("d", 4, 1), ("e", 1, 2)]
    for name, replicas, gpus in wanted:
        by_actors, by_ledger = [], []
        for found, work in (
            (by_actors, lambda: asking.place(name, replicas, gpus)),  # noqa: B023
            (by_ledger, lambda: ledger.place(demand_of(deployment(name, replicas, gpus)))),  # noqa: B023
        ):
            try:
                found.append(work())
            except PlacementError as error:
                found.append(str(error))  # type: ignore[arg-type]
        assert by_actors == by_ledger


def test_a_refusal_changes_nothing_and_a_release_frees(system: ActorSystem) -> None:
    asking = Asking(system, PlacementConstraints({"a": 4}))
    asking.place("one", 1, 3)
    with pytest.raises(NotEnoughGpus, match="free: a 1"):
        asking.place("two", 1, 2)
    assert asking.place("three", 1, 1).assignments[0].gpus == (3,)
    with pytest.raises(InputError, match="not placed yet"):
        asking.place("one")
    assert asking.ask(Release("one")) == Released("one")
    assert asking.place("two", 1, 3).assignments[0].gpus == (0, 1, 2)
    for message in (Release("nobody"), Resize(deployment("nobody"))):
        with pytest.raises(UnknownPlacement):
            asking.ask(message)


def test_several_at_one_instant_never_share_a_gpu(system: ActorSystem) -> None:
    """All are quoted the same state; who reserves second finds that it has changed, and asks again."""
    asking = Asking(system, PlacementConstraints({"a": 4, "b": 4}))
    promises = []
    for number in range(10):
        promises.append(system.promise(f"p{number}"))
        system.tell(asking.ref, Place(deployment(f"d{number}", 1, 1), promises[-1].ref))
    placed, refused = [], 0
    for promise in promises:
        try:
            placed.append(system.wait(promise, WAIT_S))
        except NotEnoughGpus:
            refused += 1
    gpus = [(each.node, gpu) for result in placed for each in result.assignments for gpu in each.gpus]
    assert len(set(gpus)) == len(gpus) == 8
    assert refused == 2


def test_resizing_moves_nothing(system: ActorSystem) -> None:
    asking = Asking(system, PlacementConstraints({"a": 4, "b": 4}))
    before = asking.place("d", 2, 2).assignments
    more = asking.ask(Resize(deployment("d", 3, 2))).assignments
    assert more[:2] == before
    with pytest.raises(NotEnoughGpus):
        asking.ask(Resize(deployment("d", 9, 2)))
    assert asking.ask(Resize(deployment("d", 1, 2))).assignments == more, "they go by Release: something may run there"
    assert asking.ask(Release("d", replicas=(1, 2))) == Released("d")
    assert asking.ask(GetPlacements())[0].assignments == before[:1]
    assert len(asking.place("rest", 3, 2).assignments) == 3
    with pytest.raises(NotEnoughGpus):
        asking.ask(Resize(deployment("d", 2, 2)))


def test_only_the_replicas_named_are_placed(system: ActorSystem) -> None:
    asking = Asking(system, PlacementConstraints({"a": 4, "b": 4}))
    asking.place("d", 4, 2)
    asking.ask(Release("d", replicas=(1, 2)))
    again = asking.ask(Resize(deployment("d", 4, 2), missing=(2,)))
    assert [each.replica_index for each in again.assignments] == [0, 2, 3]


class Listener(Actor):
    def __init__(self) -> None:
        self.heard: list[Any] = []

    def receive(self, ctx: Context, msg: Any) -> None:
        self.heard.append(msg)


def test_a_node_goes_and_comes_back(system: ActorSystem) -> None:
    asking, listener = Asking(system, PlacementConstraints({"a": 2, "b": 2})), Listener()
    system.tell(asking.ref, TellLosses(system.spawn("listener", lambda: listener)))
    asking.place("d", 2, 2)
    asking.ask(NodeLost("a"))
    asking.ask(NodeLost("a"))  # it is not lost twice
    (left,) = asking.ask(GetPlacements())
    assert [each.node for each in left.assignments] == ["b"]
    with pytest.raises(NotEnoughGpus, match="free: b 0"):
        asking.ask(Resize(deployment("d", 2, 2)))
    asking.ask(NodeReturned("a"))
    again = asking.ask(Resize(deployment("d", 2, 2)))
    assert [(each.replica_index, each.node) for each in again.assignments] == [(0, "a"), (1, "b")]
    assert listener.heard == [ReplicasLost("d", (0,)), RoomAgain("a")]
    for message in (NodeLost("x"), NodeReturned("x")):
        with pytest.raises(UnknownNode, match="nodes: a, b"):
            asking.ask(message)


# --- between quote and commit -----------------------------------------------------------------------------------


class Meddling(PlacementActor):
    """A node to which something happens at its n-th message of a kind, before it takes it."""

    def __init__(self, facts: NodeFacts, tables: Tables, life: int, when: dict[type, Callable[..., None]]) -> None:
        super().__init__(facts, tables, life)
        self._when = when

    def receive(self, ctx: Context, msg: Any) -> None:
        happens = self._when.pop(type(msg), None)
        if happens is not None:
            happens(self, ctx)
        super().receive(ctx, msg)


def meddle(monkeypatch: pytest.MonkeyPatch, node: str, when: dict[type, Callable[..., None]]) -> None:
    """What happens to a node, and when."""

    def make(facts: NodeFacts, tables: Tables, life: int) -> PlacementActor:
        return Meddling(facts, tables, life, when) if facts.name == node else PlacementActor(facts, tables, life)

    monkeypatch.setattr(placement_module, "PlacementActor", make)


def taken_by_another(actor: Any, ctx: Context) -> None:
    book = actor._book
    book.reserve("x", book.epoch, Claim(Demand("x", 1, 2), (NodeAssignment(0, book.facts.name, (0, 1)),)))
    book.commit("x")


def dies(actor: Any, ctx: Context) -> None:
    raise RuntimeError("the node has failed")


THREE = PlacementConstraints({"a": 2, "b": 2, "c": 2})


def free_gpus(asking: Asking) -> dict[str, int]:
    """What every node that lives has free."""
    free = {}
    for name, member in asking.actor._members.items():
        if member.ref is not None:
            free[name] = asking.system.ask(member.ref, GetQuote(Demand("probe", 1), 1, "best"), WAIT_S).free
    return free


@pytest.mark.parametrize(("what", "at"), [(taken_by_another, Reserve), (dies, Reserve), (dies, Commit)])
def test_what_happens_on_the_way_never_leaves_half_a_placement(
    system: ActorSystem, monkeypatch: pytest.MonkeyPatch, what: Callable[..., None], at: type
) -> None:
    meddle(monkeypatch, "b", {at: what})
    asking = Asking(system, THREE)
    result = asking.place("d", 2, 2)
    assert [each.node for each in result.assignments] == ["a", "c"]
    assert asking.ask(GetPlacements()) == (result,)
    assert free_gpus(asking) == {"a": 0, "c": 0} if what is dies else {"a": 0, "b": 0, "c": 0}


@pytest.mark.parametrize("at", [Reserve, Commit])
def test_if_there_is_no_other_place_all_is_given_back(
    system: ActorSystem, monkeypatch: pytest.MonkeyPatch, at: type
) -> None:
    meddle(monkeypatch, "b", {at: dies})
    asking = Asking(system, PlacementConstraints({"a": 2, "b": 2}))
    with pytest.raises(NotEnoughGpus):
        asking.place("d", 2, 2)
    assert asking.ask(GetPlacements()) == ()
    assert free_gpus(asking) == {"a": 2}


def test_a_node_that_keeps_changing_ends_in_an_error(system: ActorSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    class Restless(PlacementActor):
        def receive(self, ctx: Context, msg: Any) -> None:
            super().receive(ctx, msg)
            if isinstance(msg, GetQuote):
                self._book.epoch += 1

    monkeypatch.setattr(placement_module, "PlacementActor", Restless)
    asking = Asking(system, PlacementConstraints({"a": 2}))
    with pytest.raises(PlacementContested):
        asking.place("d")
    assert asking.ask(GetPlacements()) == ()


def test_a_quote_of_a_former_life_is_void(system: ActorSystem) -> None:
    asking = Asking(system, PlacementConstraints({"a": 2}))
    demand = Demand("d", 1, 2)
    old = system.ask(asking.node("a"), GetQuote(demand, 1, "best"), WAIT_S)
    asking.ask(NodeLost("a"))
    asking.ask(NodeReturned("a"))
    claim = Claim(demand, (NodeAssignment(0, "a", old.places[0].gpus),))
    with pytest.raises(NodeChanged):
        system.ask(asking.node("a"), Reserve("t", old.epoch, claim), WAIT_S)


def test_what_is_not_committed_in_time_is_given_back() -> None:
    system = SimRuntime(0)
    node = system.spawn("node", lambda: PlacementActor(NodeFacts("a", Alike(2)), Tables()))
    demand = Demand("d", 1, 2)
    quote = system.ask(node, GetQuote(demand, 1, "best"), WAIT_S)
    claim = Claim(demand, (NodeAssignment(0, "a", quote.places[0].gpus),))
    assert system.ask(node, Reserve("t", quote.epoch, claim), WAIT_S) == Reserved("t")
    assert system.ask(node, GetQuote(demand, 1, "best"), WAIT_S).free == 0
    system.env.run(until=system.now + 31.0)
    assert system.ask(node, GetQuote(demand, 1, "best"), WAIT_S).free == 2
    with pytest.raises(NodeChanged):
        system.ask(node, Commit("t"), WAIT_S)
    quote = system.ask(node, GetQuote(demand, 1, "best"), WAIT_S)
    system.ask(node, Reserve("u", quote.epoch, claim), WAIT_S)
    assert system.ask(node, Commit("u"), WAIT_S) == Committed("u")
    system.env.run(until=system.now + 31.0)
    assert system.ask(node, GetQuote(demand, 1, "best"), WAIT_S).free == 0
    system.tell(node, Vacate("d"))
    assert system.ask(node, GetQuote(demand, 1, "best"), WAIT_S).free == 2


def test_a_node_that_is_silent_has_nothing_to_give(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(PlacementActor):
        def receive(self, ctx: Context, msg: Any) -> None: ...

    def make(facts: NodeFacts, tables: Tables, life: int) -> PlacementActor:
        return (Silent if facts.name == "a" else PlacementActor)(facts, tables, life)

    monkeypatch.setattr(placement_module, "PlacementActor", make)
    asking = Asking(SimRuntime(0), THREE)
    with pytest.raises(AskTimeout):
        asking.system.ask(asking.node("a"), GetQuote(Demand("d", 1), 1, "best"), 1.0)
    assert [each.node for each in asking.place("d", 2, 2).assignments] == ["b", "c"]


# --- policies and keys ------------------------------------------------------------------------------------------


def test_a_users_function_places_through_the_actors(system: ActorSystem) -> None:
    def last(offers: Sequence[Offer], demand: Demand) -> Offer:
        return offers[-1]

    asking = Asking(system, PlacementConstraints({"a": 2, "b": 2}), last)
    assert asking.place("d", 1, 2).assignments[0].node == "b"


def test_naive_double_books_through_the_actors_too(system: ActorSystem) -> None:
    asking = Asking(system, PlacementConstraints({"a": 2}), "naive")
    for name in ("one", "two"):
        assert [each.gpus for each in asking.place(name, 2, 4).assignments] == [(0, 1, 2, 3)] * 2


def test_a_key_is_in_no_message() -> None:
    secret = "sk-do-not-show-me"
    made = remote("gpt", "gpt-4o", runtime_config={"api_key": secret})
    assert made.api_key == secret
    demand = demand_of(made)
    texts = [repr(made), str(made), made.model_dump_json(), repr(demand), encode(Place(made)), encode(demand)]
    assert not [text for text in texts if secret in text]
    other = demand_of(remote("gpt-2", "gpt-4o", runtime_config={"api_key": secret}))
    assert demand.account == other.account


# --- real devices -----------------------------------------------------------------------------------------------


def test_replicas_really_hold_the_devices_they_were_given() -> None:
    """The actors and the policy of the simulation, on the wall clock, and memory really taken where they say."""
    torch = pytest.importorskip("torch")
    count = torch.cuda.device_count()
    kind = "cuda" if count else "cpu"
    if not count:
        count = 1
        print("no CUDA device here: the CPU stands in as the one device of this machine")
    facts = NodeFacts("this-machine", Alike(count), gpu_model="" if kind == "cpu" else torch.cuda.get_device_name(0))
    system = LiveRuntime(0)
    try:
        asking = Asking(system, [facts])
        held: dict[str, list[Any]] = {}
        for number in range(count):
            for each in asking.place(f"replica-{number}").assignments:
                for gpu in each.gpus:
                    device = torch.device(kind, gpu) if kind == "cuda" else torch.device("cpu")
                    held.setdefault(f"{kind}:{gpu}", []).append(torch.ones(1 << 10, device=device))
        assert sorted(held) == [f"{kind}:{gpu}" for gpu in range(count)]
        assert all(len(tensors) == 1 and float(tensors[0].sum()) == 1 << 10 for tensors in held.values())
        with pytest.raises(NotEnoughGpus):
            asking.place("one-too-many")
    finally:
        system.stop()
