"""The batcher against a naive one that knows nothing of runs, keys or counts, step by step, block by block."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rakka_sim.core.batching import Batcher, BatchingLimits, Event, Preempted, Sampled, SequenceSpec, Started
from rakka_sim.core.kv import KvCache
from rakka_sim.values import Content, FinishReason, StepPlan

CANCELLED = FinishReason.CANCELLED


@dataclass
class Request:
    """Tokens are written out: each says what stands before it."""

    number: int
    priority: int
    content: Content
    prompt: int
    end: int
    reason: FinishReason
    tokens: list[object] = field(default_factory=list)
    table: list[int] = field(default_factory=list)
    computed: int = 0
    preemptions: int = 0
    started: bool = False
    share: int = 0  # tokens in the step in flight

    def __post_init__(self) -> None:
        self.chain: tuple[object, ...] = ()
        for source, length in self.content:
            self.chain = (*self.chain, source)
            self.tokens += [(self.chain, place) for place in range(length)]
            self.last = length
            self.chain = (*self.chain, length)

    def extend(self, count: int) -> None:
        for _ in range(count):
            self.tokens.append((self.chain[:-1], self.last))
            self.last += 1


class NaiveBatcher:
    """One step at a time."""

    def __init__(self, limits: BatchingLimits, blocks: int, size: int, caching: bool) -> None:
        self.limits, self.blocks, self.size, self.caching = limits, blocks, size, caching
        self.waiting: list[Request] = []
        self.running: list[Request] = []
        self.flight: list[Request] = []
        self.doomed: list[int] = []
        self.events: list[Event] = []
        self.new_context()

    def new_context(self) -> None:
        self.free = list(range(self.blocks))
        self.registered: list[tuple[int, list[object]]] = []

    def add(self, request: Request, front: bool = False) -> None:
        def goes_after(other: Request) -> bool:
            return other.priority < request.priority or (not front and other.priority == request.priority)

        self.waiting.insert(sum(goes_after(other) for other in self.waiting), request)

    # --- blocks -------------------------------------------------------------------------------------------------

    def lookup(self, request: Request) -> list[int]:
        hits: list[int] = []
        while (len(hits) + 1) * self.size < len(request.tokens):
            text = request.tokens[: (len(hits) + 1) * self.size]
            found = [block for block, held in self.registered if held == text]
            if not found:
                break
            hits.append(found[0])
        return hits

    def missing(self, request: Request, tokens: int) -> int:
        return max(0, -(-tokens // self.size) - len(request.table))

    def extend_table(self, request: Request, tokens: int) -> None:
        for _ in range(self.missing(request, tokens)):
            block = self.free.pop(0)
            self.registered = [entry for entry in self.registered if entry[0] != block]
            request.table.append(block)
        for full in range(tokens // self.size if self.caching else 0):
            if all(block != request.table[full] for block, _ in self.registered):
                self.registered.append((request.table[full], request.tokens[: (full + 1) * self.size]))

    def give_back(self, request: Request) -> None:
        table, request.table = request.table, []
        held = {block for other in self.running for block in other.table}
        self.free += [block for block in reversed(table) if block not in held]

    # --- a step -------------------------------------------------------------------------------------------------

    def plan(self) -> list[tuple[int, int, int, bool]]:
        self.flight = []
        budget = self.limits.max_num_batched_tokens
        cap = self.limits.long_prefill_token_threshold or budget
        preempted = False
        for request in list(self.running):
            if request not in self.running or budget == 0:
                break
            share = min(len(request.tokens) - request.computed, budget, cap)
            while request in self.running and self.missing(request, request.computed + share) > len(self.free):
                preempted = True
                self.preempt(self.running[-1])
            if request not in self.running:
                break
            self.extend_table(request, request.computed + share)
            request.share = share
            self.flight.append(request)
            budget -= share
        while not preempted and self.waiting and budget and len(self.running) < self.limits.max_num_seqs:
            share = self.seat(self.waiting[0], budget)
            if not share:
                break
            budget -= share
        return [(r.number, r.share, r.computed, r.computed + r.share == len(r.tokens)) for r in self.flight]

    def seat(self, request: Request, budget: int) -> int:
        hits = self.lookup(request)
        cached = len(hits) * self.size
        wanted = min(len(request.tokens) - cached, self.limits.long_prefill_token_threshold or 10**9)
        if wanted > budget and not self.limits.chunked_prefill:
            return 0
        share = min(wanted, budget)
        must_fit = len(request.tokens) if self.limits.scheduler_reserve_full_isl else cached + share
        rest = [block for block in self.free if block not in hits]
        if -(-must_fit // self.size) - len(hits) > len(rest):
            return 0
        self.waiting.remove(request)
        self.running.append(request)
        self.running.sort(key=lambda other: other.priority)
        self.free = rest
        request.table = hits
        self.extend_table(request, cached + share)
        request.computed, request.share = cached, share
        self.flight.append(request)
        if not request.started:
            request.started = True
            self.events.append(Started(request.number, cached))
        return share

    def preempt(self, request: Request) -> None:
        self.running.remove(request)
        self.give_back(request)
        request.computed = 0
        request.preemptions += 1
        self.add(request, front=True)
        self.events.append(Preempted(request.number))

    def commit(self) -> None:
        for request in self.flight:
            request.computed += request.share
            samples = request.computed == len(request.tokens)
            first = len(request.tokens) - request.prompt
            if request.number in self.doomed:
                self.end(request, Sampled(request.number, first, 0, CANCELLED, request.preemptions))
            elif samples:
                request.extend(1)
                finish = request.reason if len(request.tokens) == request.end else None
                event = Sampled(request.number, first, 1, finish, request.preemptions)
                if finish:
                    self.end(request, event)
                else:
                    self.events.append(event)
        self.flight, self.doomed = [], []

    def end(self, request: Request, event: Sampled) -> None:
        self.events.append(event)
        if request in self.waiting:
            self.waiting.remove(request)
        else:
            self.running.remove(request)
            self.give_back(request)

    def cancel(self, number: int) -> None:
        if any(request.number == number for request in self.flight):
            self.doomed.append(number)
            return
        for request in [*self.running, *self.waiting]:
            if request.number == number:
                first = len(request.tokens) - request.prompt
                self.end(request, Sampled(number, first, 0, CANCELLED, request.preemptions))

    def fail(self) -> None:
        for request in [request for request in self.running if request.number in self.doomed]:
            first = len(request.tokens) - request.prompt
            self.end(request, Sampled(request.number, first, 0, CANCELLED, request.preemptions))
        for request in reversed(self.running):
            request.computed, request.table = 0, []
            self.add(request, front=True)
        self.running, self.flight, self.doomed = [], [], []
        self.new_context()


def one_by_one(events: list[Event]) -> dict[int, list[Event]]:
    """Each request's events, with tokens one at a time."""
    split: dict[int, list[Event]] = {}
    for event in events:
        mine = split.setdefault(event.request_id, [])
        if not isinstance(event, Sampled):
            mine.append(event)
            continue
        last = event.first + event.count - 1
        for index in range(event.first, last + 1):
            finish = event.finish if index == last and event.finish is not CANCELLED else None
            mine.append(Sampled(event.request_id, index, 1, finish, event.preemptions))
        if event.finish is CANCELLED:
            mine.append(Sampled(event.request_id, last + 1, 0, CANCELLED, event.preemptions))
    return split


class Arrival(NamedTuple):
    prompt: int
    shared: int
    source: int
    output: int
    limit: int | None
    generated: int
    priority: int


ARRIVAL = st.builds(
    Arrival,
    prompt=st.integers(1, 8) | st.integers(1, 30),
    shared=st.integers(0, 9),
    source=st.integers(0, 2),
    output=st.integers(1, 25),
    limit=st.none() | st.integers(1, 12),
    generated=st.sampled_from([0, 0, 2]),
    priority=st.sampled_from([0, 0, 0, 1]),
)


class BatcherMachine(RuleBasedStateMachine):
    """Requests come, are cancelled and lose their context at any time; a run may be cut at any boundary."""

    @initialize(
        blocks=st.integers(3, 12),
        size=st.integers(1, 4),
        caching=st.sampled_from([True, True, False]),
        seqs=st.sampled_from([4, 3, 6, 2, 1]),
        budget=st.sampled_from([8, 12, 4, 30, 2, 1]),
        threshold=st.sampled_from([0, 0, 3]),
        reserve=st.booleans(),
        chunked=st.sampled_from([True, True, True, False]),
    )
    def start(
        self,
        blocks: int,
        size: int,
        caching: bool,
        seqs: int,
        budget: int,
        threshold: int,
        reserve: bool,
        chunked: bool,
    ) -> None:
        longest = 30 if chunked else max(3, budget)
        limits = BatchingLimits(seqs, budget if chunked else longest, longest, threshold, chunked, reserve)
        self.max_len = min(longest, blocks * size)
        self.batcher = Batcher(limits, KvCache(blocks, size, caching))
        self.naive = NaiveBatcher(limits, blocks, size, caching)
        self.plan_in_flight: StepPlan | None = None
        self.late: list[tuple[str, object]] = []  # came while the plan was in flight: in its last step
        self.events: list[Event] = []
        self.history: dict[int, list[Event]] = {}
        self.generated: dict[int, int] = {}
        self.next_id = 0

    def also(self, what: str, given: object) -> None:
        if self.plan_in_flight is None:
            getattr(self.naive, what)(given)
        else:
            self.late.append((what, given))

    @rule(arrivals=st.lists(ARRIVAL, min_size=1, max_size=4))
    def add(self, arrivals: list[Arrival]) -> None:
        for arrival in arrivals:
            self.add_one(arrival)

    def add_one(self, arrival: Arrival) -> None:
        prompt = min(arrival.prompt, self.max_len - 1)
        shared = min(arrival.shared, prompt)
        content: Content = ((9, shared), (arrival.source, prompt - shared)) if shared else ((arrival.source, prompt),)
        generated = min(arrival.generated, self.max_len - 1 - prompt)
        output = generated + arrival.output
        limit = arrival.limit and generated + arrival.limit
        number, self.next_id = self.next_id, self.next_id + 1
        self.batcher.add(SequenceSpec(number, prompt, output, content, limit, generated, arrival.priority))
        cap = min(self.max_len, prompt + limit if limit else self.max_len)
        reason = FinishReason.STOP if prompt + output < cap else FinishReason.LENGTH
        request = Request(number, arrival.priority, content, prompt, min(prompt + output, cap), reason)
        request.extend(generated)
        self.generated[number] = generated
        self.also("add", request)

    @precondition(lambda self: self.generated)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.cancel_one(data.draw(st.sampled_from(list(self.generated))))

    def cancel_one(self, number: int) -> None:
        self.events += self.batcher.cancel(number)
        self.also("cancel", number)

    @precondition(lambda self: self.plan_in_flight is None)
    @rule()
    def plan(self) -> None:
        plan = self.batcher.plan()
        self.events += self.batcher.take_events()
        rows = self.naive.plan()
        if plan is not None:
            self.plan_in_flight = plan
            self.compare_step(rows, 0)
        else:
            assert not rows
            assert not self.naive.waiting

    @precondition(lambda self: self.plan_in_flight is None)
    @rule(cuts=st.lists(st.integers(1, 12), min_size=1, max_size=8))
    def go_on(self, cuts: list[int]) -> None:
        for cut in cuts:
            self.plan()
            if self.plan_in_flight is None:
                break
            self.finish_plan(min(cut, self.plan_in_flight.steps))

    @precondition(lambda self: self.plan_in_flight is None)
    @rule(cut=st.integers(1, 12), arrivals=st.lists(ARRIVAL, max_size=2), data=st.data())
    def interrupt(self, cut: int, arrivals: list[Arrival], data: st.DataObject) -> None:
        self.plan()
        if self.plan_in_flight is None:
            return
        for arrival in arrivals:
            self.add_one(arrival)
        rows = [row.request_id for row in self.plan_in_flight.rows]
        for number in data.draw(st.lists(st.sampled_from(rows), max_size=2), "cancelled"):
            self.cancel_one(number)
        self.finish_plan(min(cut, self.plan_in_flight.steps))

    def compare_step(self, rows: list[tuple[int, int, int, bool]], step: int) -> None:
        plan = self.plan_in_flight
        assert plan is not None
        expected = [(row.request_id, row.tokens, row.context + step, row.samples) for row in plan.rows]
        assert rows == expected
        assert rows
        assert (plan.running, plan.waiting) == (len(self.naive.running), len(self.naive.waiting))
        decode = [row for row in rows if row[1] == 1 and row[3]]
        assert plan.decode_seqs == len(decode)
        assert plan.prefill_tokens == sum(row[1] for row in rows if row not in decode)
        assert plan.context_tokens + step * len(decode) == sum(row[2] for row in decode)
        assert plan.max_context + (step if decode else 0) == max((row[2] for row in decode), default=0)
        taken = sum(plan.crossings[later % len(plan.crossings)] for later in range(1, step + 1))
        assert plan.kv_blocks + taken == len({block for r in self.naive.running for block in r.table})
        limits = self.naive.limits
        assert sum(row[1] for row in rows) <= limits.max_num_batched_tokens
        assert len(rows) <= plan.running <= limits.max_num_seqs

    @precondition(lambda self: self.plan_in_flight is not None)
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        assert self.plan_in_flight is not None
        self.finish_plan(data.draw(st.integers(1, self.plan_in_flight.steps), "steps done"))

    def finish_plan(self, done: int) -> None:
        plan = self.plan_in_flight
        assert plan is not None
        promised = self.batcher.promised_blocks(plan)
        before = {row.request_id: list(self.batcher._kv.table(row.request_id)) for row in plan.rows}
        self.events += self.batcher.commit(done)
        for step in range(1, done):
            self.naive.commit()
            self.compare_step(self.naive.plan(), step)
        for request in self.naive.flight:
            blocks = before[request.number] + promised.get(request.number, [])
            assert request.table == blocks[: len(request.table)]
        self.catch_up()
        self.naive.commit()

    def catch_up(self) -> None:
        for what, given in self.late:
            getattr(self.naive, what)(given)
        self.late, self.plan_in_flight = [], None

    @rule()
    def fail(self) -> None:
        self.events += self.batcher.fail()
        self.catch_up()
        self.naive.fail()

    @invariant()
    def they_agree(self) -> None:
        if not hasattr(self, "batcher") or self.plan_in_flight is not None:
            return
        assert one_by_one(self.events) == one_by_one(self.naive.events)
        for number, events in one_by_one(self.events).items():
            self.history.setdefault(number, []).extend(events)
        self.events, self.naive.events = [], []
        kv = self.batcher._kv
        assert kv.next_free(kv.num_blocks) == self.naive.free
        running = [(r.number, len(r.tokens), r.computed, r.table) for r in self.naive.running]
        assert running == [
            (seq.request_id, seq.total, seq.computed, list(kv.table(seq.request_id))) for seq in self.batcher._running
        ]
        assert [r.number for r in self.naive.waiting] == [seq.request_id for seq in self.batcher._waiting]
        load = self.batcher.load
        assert (load.running, load.waiting) == (len(running), len(self.naive.waiting))

    @invariant()
    def it_holds_together(self) -> None:
        if hasattr(self, "batcher"):
            self.batcher.check()

    def teardown(self) -> None:
        """Whatever was asked for comes to its end, and each request has had one life."""
        if not hasattr(self, "batcher"):
            return
        for _ in range(3000):
            if self.plan_in_flight is None:
                self.plan()
            if self.plan_in_flight is None:
                break
            self.finish_plan(self.plan_in_flight.steps)
            self.they_agree()
        self.they_agree()
        assert self.batcher._kv.blocks_in_use == 0
        assert self.batcher.load.queued_tokens == 0
        assert sorted(self.history) == sorted(self.generated)
        for number, events in self.history.items():
            self.had_one_life(events, self.generated[number])

    def had_one_life(self, events: list[Event], generated: int) -> None:
        *body, last = events
        assert isinstance(last, Sampled)
        assert last.finish is not None
        tokens = [event for event in events if isinstance(event, Sampled)]
        assert [event.first for event in tokens] == list(range(generated, generated + len(tokens)))
        assert all(event.finish is None for event in body if isinstance(event, Sampled))
        starts = [at for at, event in enumerate(events) if isinstance(event, Started)]
        assert starts in ([0], [])
        if not starts:
            assert events == [last]  # cancelled while it waited
        assert last.preemptions == sum(isinstance(event, Preempted) for event in events)


# Preemption, cut runs and cancels in flight meet too seldom for the usual number.
BatcherMachine.TestCase.settings = settings(max_examples=2 * settings.default.max_examples)
TestBatcherMachine = BatcherMachine.TestCase
