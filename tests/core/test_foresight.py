"""Views of what will be, against others of the same history that go the same way; and their originals stay."""

from __future__ import annotations

from hypothesis import event, given, settings
from hypothesis import strategies as st

from rakka_sim.core.content import BlockKeys
from rakka_sim.core.foresight import FreeAhead, KvAhead, WaitingAhead
from rakka_sim.core.free_queue import FreeQueue
from rakka_sim.core.kv import KvCache
from rakka_sim.core.sequence import SequenceSpec, make_sequence
from rakka_sim.core.waiting import WaitingQueue

SIZE = 2
CONTENTS = [((0, 30),), ((0, 6), (1, 30)), ((0, 6), (2, 30)), ((3, 5), (4, 30))]
DOINGS = st.sampled_from(["start", "grow", "join", "leave", "step", "free"])
ACTS = st.lists(st.tuples(DOINGS, st.integers(0, 7), st.integers(1, 14)))


class Used:
    """A cache, and what whoever uses it knows of its tables."""

    def __init__(self, kv: KvCache) -> None:
        self.kv = kv
        self.tokens: dict[int, int] = {}
        self.decoding: set[int] = set()

    def ahead(self) -> Used:
        """The same of a view of it."""
        made = Used(KvAhead(self.kv))
        made.tokens, made.decoding = self.tokens.copy(), self.decoding.copy()
        return made

    def act(self, what: str, request: int, more: int) -> object:
        """One thing done to it, if it can be; what came of it."""
        kv, keys, has = self.kv, BlockKeys(CONTENTS[request % len(CONTENTS)], SIZE), self.tokens.get(request, 0)
        rests = has > 0 and request not in self.decoding
        came: object = None
        if what == "start" and not has:
            hits = kv.lookup(keys, more)
            came = hits, kv.shortage(more, hits), kv.allocate(request, keys, more, hits)
            if kv.table(request):
                self.tokens[request] = more
        elif what == "grow" and rests:
            came = kv.grow(request, has + more)
            self.tokens[request] += more if came else 0
        elif what == "join" and rests and has >= keys.final * SIZE:
            kv.join(request, has, (0, request))
            self.decoding.add(request)
        elif what == "step":
            came = kv.step(more)
            for one in self.decoding if came else ():
                self.tokens[one] += more
        elif what in ("leave", "free") and has:
            if not rests:
                kv.leave(request)
                self.decoding.remove(request)
            if what == "free":
                kv.free(request)
                del self.tokens[request]
        return came


@given(st.sampled_from([6, 12, 20]), st.booleans(), ACTS, ACTS)
@settings(max_examples=600)
def test_a_view_of_a_cache_is_what_a_copy_of_it_would_be(
    blocks: int, caching: bool, before: list[tuple[str, int, int]], after: list[tuple[str, int, int]]
) -> None:
    now, same, copy = (Used(KvCache(blocks, SIZE, caching)) for _ in range(3))
    for one in before:
        assert now.act(*one) == same.act(*one) == copy.act(*one)
    view, hits = now.ahead(), 0
    for one in after:
        assert view.act(*one) == copy.act(*one)
        here, there = view.kv, copy.kv
        assert (here.free_blocks, here.blocks_in_use, here.usage) == (
            there.free_blocks,
            there.blocks_in_use,
            there.usage,
        )
        assert here.next_free(here.free_blocks) == there.next_free(there.free_blocks)
        for request in range(8):
            assert list(here.table(request)) == list(there.table(request))
            keys = BlockKeys(CONTENTS[request % len(CONTENTS)], SIZE)
            found = there.lookup(keys, 20)
            assert here.lookup(keys, 20) == found
            assert here.shortage(20, found) == there.shortage(20, found)
            hits += found != now.kv.lookup(keys, 20)
    assert now.kv.state() == same.kv.state()
    now.kv.check()
    event(f"hits differ from those of now: {hits > 0}")


def test_of_several_blocks_with_one_key_the_first_is_found_and_the_next_when_that_is_reused() -> None:
    keys, others = BlockKeys(CONTENTS[0], SIZE), BlockKeys(CONTENTS[3], SIZE)
    kv = KvCache(6, SIZE)
    for request in (0, 1):
        assert kv.allocate(request, keys, 4)  # each computes for itself what the other one has, too
    view = KvAhead(kv)
    assert view.allocate(2, keys, 4)
    assert view.lookup(keys, 5) == [0, 1]
    for first, left in ((0, [2, 3]), (1, [4, 5]), (2, [])):
        view.free(first)
        assert view.allocate(10 + first, others, 4)
        assert view.lookup(keys, 5) == left
    assert kv.lookup(keys, 5) == [0, 1]


FREE = st.lists(st.tuples(st.sampled_from(["take", "claim", "give"]), st.integers(0, 9)), max_size=30)


def use(queue: FreeQueue, what: str, number: int, held: list[int]) -> object:
    if what == "take" and number <= len(queue):
        taken = queue.take(number)
        held += taken
        return list(taken)
    if what == "claim" and number not in held:
        queue.claim(number)
        held.append(number)
    elif what == "give":
        given, held[:] = held[:number], held[number:]
        queue.give(given)
    return None


@given(FREE, FREE)
def test_a_view_of_free_blocks_is_what_a_copy_of_them_would_be(
    before: list[tuple[str, int]], after: list[tuple[str, int]]
) -> None:
    queue, copy, held, held_there = FreeQueue(10), FreeQueue(10), list[int](), list[int]()
    for one in before:
        assert use(queue, *one, held) == use(copy, *one, held_there)
    left, view, held_here = queue.first(10), FreeAhead(queue), held.copy()
    for one in after:
        assert use(view, *one, held_here) == use(copy, *one, held_there)
        assert view.first(10) == copy.first(10)
        assert len(view) == len(copy)
        taken = [view.was_taken(block) for block in range(10)]
        was = [block in held if one is None else one for block, one in enumerate(taken)]
        assert was == [block in held_here for block in range(10)]
    assert queue.first(10) == left


@given(st.lists(st.integers(-1, 1), max_size=8), st.lists(st.sampled_from(["call", "call", -1, 0, 1]), max_size=12))
def test_a_view_of_a_queue_calls_as_the_queue_would(priorities: list[int], acts: list[str | int]) -> None:
    def waiting(number: int, priority: int) -> object:
        return make_sequence(SequenceSpec(number, 5, 5, ((0, 5),), priority=priority), 4, 100)

    queue, other = WaitingQueue(), WaitingQueue()
    for number, priority in enumerate(priorities):
        queue.push(waiting(number, priority))
        other.push(waiting(number, priority))
    view, before = WaitingAhead(queue), list(queue)
    for number, one in enumerate(acts, 100):
        heads = [each.head() for each in (view, other)]
        assert len({seq and seq.request_id for seq in heads}) == 1
        if one != "call":  # somebody is preempted
            view.push_front(waiting(number, one))
            other.push_front(waiting(number, one))
        elif heads[0] is not None:
            assert heads[0] not in before
            view.remove(heads[0])
            other.remove(heads[1])
        assert view.count == other.count
    assert list(queue) == before
    assert queue.count == len(before)
