"""Random trees of actors with random failures: what must hold whatever happens."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from rakka_sim.core.supervision import Directive, Supervision
from rakka_sim.errors import Stalled
from rakka_sim.runtime.api import Actor, Context, Ref, Terminated
from rakka_sim.runtime.refs import Letterbox
from rakka_sim.runtime.sim import SimRuntime
from tests.runtime.support import Boom, Say

DIRECTIVES = list(Directive)


@dataclass
class Node:
    """One actor of a tree: how it is supervised, how often it fails to start or to stop, and its children."""

    most: int
    within: float
    directives: tuple[Directive, Directive]  # for two kinds of failure
    bad_starts: int
    bad_stops: int
    children: list[Node] = field(default_factory=list)

    @property
    def strategy(self) -> Supervision:
        return Supervision(self.most, self.within, lambda error: self.directives[error.args[0] % 2])


nodes = st.recursive(
    st.builds(
        Node,
        st.integers(0, 3),
        st.sampled_from([1.0, 4.0]),
        st.tuples(st.sampled_from(DIRECTIVES), st.sampled_from(DIRECTIVES)),
        st.integers(0, 2),
        st.integers(0, 1),
    ),
    lambda inner: st.builds(
        Node,
        st.integers(0, 3),
        st.just(4.0),
        st.tuples(st.sampled_from(DIRECTIVES), st.sampled_from(DIRECTIVES)),
        st.just(0),
        st.just(0),
        st.lists(inner, max_size=3),
    ),
    max_leaves=8,
)

# When (s), which of the actors alive or dead by then (modulo), and what it is to do.
orders = st.lists(
    st.tuples(
        st.integers(0, 6).map(float),
        st.integers(0, 20),
        st.sampled_from(
            ["fail 0", "fail 1", "stop", "stop child", "spawn", "timer", "ask", "hold", "answer and fail 0"]
        ),
    ),
    max_size=25,
).map(lambda given: sorted(given, key=lambda order: order[0]))


class World:
    """A system, everything that happens in it in order, and the questions asked from outside."""

    def __init__(self, seed: int | None) -> None:
        self.system = SimRuntime(shuffle_ties=seed)
        self.log: list[tuple[str, Any, float]] = []
        self.refs: list[Ref[Any]] = []
        self.parents: dict[Ref[Any], Ref[Any] | None] = {}
        self.nodes: dict[Ref[Any], Node] = {}
        self.ended: Counter[tuple[Any, Any]] = Counter()
        self.questions: list[Letterbox] = []

    def note(self, what: str, ref: Any) -> None:
        self.log.append((what, ref, self.system.now))

    def maker(self, node: Node, parent: Ref[Any] | None) -> Callable[[], Member]:
        trouble = Counter(start=node.bad_starts, stop=node.bad_stops)
        return lambda: Member(self, node, parent, trouble)

    def play(self, orders: list[tuple[float, int, str]]) -> None:
        for at, which, what in orders:
            self.until(at)
            if not self.refs or self.system.failure is not None:
                continue
            ref = self.refs[which % len(self.refs)]
            if what in ("ask", "hold", "answer and fail 0"):
                self.questions.append(self.system.question(ref, Say(what), 3.0))
            else:
                self.system.tell(ref, Say(what))
        with contextlib.suppress(Stalled, Boom):
            self.system.wait(self.system.promise("the end"))
        with contextlib.suppress(Boom):
            self.system.stop()

    def until(self, at: float) -> None:
        if at > self.system.now:
            with contextlib.suppress(Boom):
                self.system.env.run(until=at)


class Member(Actor):
    """Does as it is told, and notes what happens to it."""

    def __init__(self, world: World, node: Node, parent: Ref[Any] | None, trouble: Counter[str]) -> None:
        self.world = world
        self.node = node
        self.parent = parent
        self.trouble = trouble
        self.children: list[Ref[Any]] = []

    def started(self, ctx: Context) -> None:
        world = self.world
        if ctx.self not in world.parents:
            world.refs.append(ctx.self)
            world.parents[ctx.self] = self.parent
            world.nodes[ctx.self] = self.node
        world.note("started", ctx.self)
        for number, child in enumerate(self.node.children):
            self.spawn(ctx, f"{number}", child)
        self.maybe_fail("start")

    def spawn(self, ctx: Context, name: str, node: Node) -> None:
        child = ctx.spawn(name, self.world.maker(node, ctx.self), node.strategy)
        ctx.watch(child)
        self.children.append(child)

    def maybe_fail(self, what: str) -> None:
        if self.trouble[what] > 0:
            self.trouble[what] -= 1
            raise Boom(0)

    def stopped(self, ctx: Context) -> None:
        self.world.note("stopped", ctx.self)
        self.maybe_fail("stop")

    def receive(self, ctx: Context, msg: Any) -> None:
        self.world.note("received", ctx.self)
        if isinstance(msg, Terminated):
            self.world.ended[ctx.self, msg.ref] += 1
            return
        match msg.text.split():
            case ["fail", kind]:
                raise Boom(int(kind))
            case ["stop"]:
                ctx.stop()
            case ["stop", "child"] if self.children:
                ctx.stop(self.children[0])
            case ["spawn"]:
                self.spawn(ctx, f"late{len(self.children)}", Node(1, 4.0, (Directive.RESTART, Directive.STOP), 0, 0))
            case ["timer"]:
                ctx.after(1.0, Say("fail 1"))
            case ["ask"]:
                ctx.tell(msg.reply_to, "answer")
            case ["answer", *_]:
                ctx.tell(msg.reply_to, "answer")
                raise Boom(0)

    def child_failed(self, ctx: Context, child: Ref[Any], error: Exception, directive: Directive) -> None:
        assert directive is not Directive.ESCALATE
        self.world.note("child failed", ctx.self)


def check(world: World) -> None:
    running: set[Ref[Any]] = set()
    starts: dict[Ref[Any], list[float]] = {}
    for what, ref, at in world.log:
        if what == "started":
            assert ref not in running
            parent = world.parents[ref]
            assert parent is None or parent in running
            running.add(ref)
            starts.setdefault(ref, []).append(at)
            continue
        assert ref in running, f"{ref} {what} at {at} while it was not running"
        if what == "stopped":
            assert not [child for child in running if world.parents[child] == ref]
            running.remove(ref)
    assert not running
    for ref, times in starts.items():
        node, restarts = world.nodes[ref], times[1:]
        for at in restarts:
            assert sum(1 for other in restarts if at <= other < at + node.within) <= node.most
    assert all(count == 1 for count in world.ended.values())
    assert all(box.done for box in world.questions)


@given(st.lists(nodes, min_size=1, max_size=3), orders, st.none() | st.integers(0, 1000))
@example([Node(0, 1.0, (Directive.RESUME, Directive.STOP), 1, 1)], [(0.0, 0, "hold")], None)
def test_whatever_fails_the_promises_hold(
    forest: list[Node], orders: list[tuple[float, int, str]], seed: int | None
) -> None:
    """Bounded restarts; nothing received while stopped; children within parents; each end heard once; asks all end."""
    world = World(seed)
    for number, node in enumerate(forest):
        world.system.spawn(f"top{number}", world.maker(node, None), node.strategy)
    world.play(orders)
    check(world)
