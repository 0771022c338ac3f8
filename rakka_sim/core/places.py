"""The requests of one engine: where each of them is, and what they add up to. What a step computes is not here."""

from __future__ import annotations

from bisect import insort

from rakka_sim.core.decoding import Decoding
from rakka_sim.core.kv import KvCache
from rakka_sim.core.sequence import BatchingLimits, Event, Preempted, Sequence, Started, by_priority
from rakka_sim.core.waiting import WaitingQueue
from rakka_sim.values import FinishReason, Load


class Places:
    """Each request waits or runs; those that run have a seat and blocks, and mostly decode."""

    def __init__(self, limits: BatchingLimits, kv: KvCache) -> None:
        self.limits = limits
        self._kv = kv
        self._sequences: dict[int, Sequence] = {}
        self._waiting = WaitingQueue()
        self._running: list[Sequence] = []  # by priority, then in order of their seating
        self._decoding = Decoding(kv)  # those of them that do
        self._seated = 0  # how often somebody has been
        self._events: list[Event] = []
        self._uncomputed = 0  # the sum of total - computed
        self._clock = 0  # steps committed so far: the number of the next one

    def _preempt_last(self) -> Sequence:
        seq = self._running.pop()
        self._unseat(seq)
        self._kv.free(seq.request_id)
        seq.preemptions += 1
        self._events.append(Preempted(seq.request_id))
        return seq

    def _unseat(self, seq: Sequence) -> None:
        seq.running = False
        seq.pause(self._clock)
        self._uncomputed += seq.computed
        seq.restart(0)
        self._waiting.push_front(seq)

    def _seat(self, seq: Sequence, cached: int) -> None:
        seq.running = True
        self._seated += 1
        seq.place = (seq.priority, self._seated)
        seq.restart(cached)
        self._uncomputed -= cached
        insort(self._running, seq, key=by_priority)
        if not seq.started:
            seq.started = True
            self._events.append(Started(seq.request_id, cached))

    def _end(self, seq: Sequence, count: int, finish: FinishReason, step: int) -> None:
        self._events.append(seq.ends(step, count, finish))
        self._uncomputed += count - (seq.total - seq.computed)
        del self._sequences[seq.request_id]
        if seq.running:
            seq.running = False
            self._give_back(seq)

    def _give_back(self, seq: Sequence) -> None:
        self._kv.free(seq.request_id)

    def _tell(self, event: Event | None) -> None:
        if event is not None:
            self._events.append(event)

    def take_events(self) -> list[Event]:
        """What has happened since this was last called, in order; `commit`, `cancel` and `fail` end with it."""
        events, self._events = self._events, []
        return events

    # --- what there is ------------------------------------------------------------------------------------------

    @property
    def load(self) -> Load:
        """What the engine carries. Of a running sequence, the token it computes next is not queued work."""
        return self.load_with(self.limits.max_num_seqs)

    def load_with(self, capacity: int, waiting: int = 0, tokens: int = 0) -> Load:
        """The same, with another `capacity` and with what waits outside, `tokens` together."""
        running, waiting = len(self._running), waiting + self._waiting.count
        return Load(running, waiting, capacity, self._kv.usage, max(0, self._uncomputed - running) + tokens)

    @property
    def steps_done(self) -> int:
        """Steps committed so far."""
        return self._clock

    @property
    def waiting(self) -> int:
        """How many sequences have no seat."""
        return self._waiting.count

    def state(self) -> tuple[object, ...]:
        """All that the future depends on, comparable; only between steps."""
        rows = [(seq.request_id, seq.total, seq.computed, seq.preemptions, seq.started) for seq in self._running]
        queue = [(seq.request_id, seq.total, seq.preemptions, seq.started) for seq in self._waiting]
        return rows, queue, self._uncomputed, self._kv.state()
