"""One request as the batcher sees it: what comes in, what it keeps, what it reports. No scheduling may be here."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from operator import attrgetter
from types import MappingProxyType

from rakka_sim.core.content import BlockKeys
from rakka_sim.errors import BadRequest, ContextLengthExceeded, InputError, InvariantBroken
from rakka_sim.values import Content, FinishReason, value

by_priority = attrgetter("priority")
NOBODY: Mapping[int, FinishReason] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class BatchingLimits:
    """What a step and a sequence may hold; vLLM's names.

    `long_prefill_token_threshold` caps one row's share of a step (0: no cap). `scheduler_reserve_full_isl` admits a
    request only if all of its known tokens fit into free blocks, not just its first chunk (vLLM's default since 0.19).
    """

    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048
    max_model_len: int = 8192
    long_prefill_token_threshold: int = 0
    chunked_prefill: bool = True
    scheduler_reserve_full_isl: bool = True

    def __post_init__(self) -> None:
        for name in ("max_num_seqs", "max_num_batched_tokens"):
            if getattr(self, name) < 1:
                raise InputError(name, getattr(self, name), "at least 1")
        if self.max_model_len < 2:
            raise InputError("max_model_len", self.max_model_len, "at least 2: one token in, one out")
        if self.long_prefill_token_threshold < 0:
            raise InputError("long_prefill_token_threshold", self.long_prefill_token_threshold, "0 (no cap) or more")
        if not self.chunked_prefill and self.max_num_batched_tokens < self.max_model_len:
            # Else a sequence could grow, be preempted, and never fit into a step again.
            allowed = f"at least max_model_len ({self.max_model_len}) without chunked prefill"
            raise InputError("max_num_batched_tokens", self.max_num_batched_tokens, allowed)

    def halved(self) -> BatchingLimits:
        """Half as many tokens a step, as far as that goes."""
        least = 1 if self.chunked_prefill else self.max_model_len
        return replace(self, max_num_batched_tokens=max(least, self.max_num_batched_tokens // 2))

    @property
    def seats(self) -> int:
        """Sequences that can run at once: each computes at least one token a step."""
        return min(self.max_num_seqs, self.max_num_batched_tokens)


@value
class SequenceSpec:
    """A request for the batcher.

    `output_tokens` is where it stops by itself, counted like `max_tokens` from the end of the prompt. `generated`
    tokens came from a former engine: they are computed again like a prompt and are not reported again. A lower
    `priority` goes first; among equals, first come, first served. Tokens of a request that is not `streamed` are
    reported all at once, when it ends.
    """

    request_id: int
    prompt_tokens: int
    output_tokens: int
    content: Content
    max_tokens: int | None = None
    generated: int = 0
    priority: int = 0
    streamed: bool = True


@value
class Started:
    """The request is in a step for the first time, with that many tokens found in the cache."""

    request_id: int
    cached_tokens: int


@value
class Preempted:
    """The request has lost its blocks and its seat to others, and will be computed again."""

    request_id: int


@value
class Sampled:
    """Output tokens `first` .. `first` + `count` - 1 of a request are there; the last event of a request has `finish`.

    Tokens are numbered from the end of the prompt. A last event may bring no token. `preemptions` counts all so far.
    Of a request that is not streamed, `steps` says which steps brought them: (the first one's number, how many), as the
    batcher has committed them.
    """

    request_id: int
    first: int
    count: int
    finish: FinishReason | None = None
    preemptions: int = 0
    steps: tuple[tuple[int, int], ...] = ()


Event = Started | Preempted | Sampled


class Beat:
    """How many steps those who decode have done together."""

    __slots__ = ("steps",)

    def __init__(self) -> None:
        self.steps = 0


class Sequence:
    """What the batcher keeps of a request: `computed` tokens chase `total` (known) ones, until `total` is `end`.

    While it decodes, it has a `beat`, and both follow from that: they are not written at every step.
    """

    __slots__ = (
        "_computed",
        "_total",
        "beat",
        "cancelled",
        "end",
        "keys",
        "lead",
        "place",
        "preemptions",
        "priority",
        "prompt",
        "reason",
        "request_id",
        "running",
        "since",
        "started",
        "streamed",
        "stretches",
        "told",
    )

    def __init__(self, spec: SequenceSpec, keys: BlockKeys, end: int, reason: FinishReason) -> None:
        self.request_id = spec.request_id
        self.priority = spec.priority
        self.prompt = spec.prompt_tokens
        self.beat: Beat | None = None  # of those who decode, while it is one of them
        self._total = spec.prompt_tokens + spec.generated
        self._computed = 0
        self.lead = 0  # what it has computed beyond the beat
        self.place = (spec.priority, 0)  # in the order of those who run: its priority, and which seat it was given
        self.end = end
        self.reason = reason
        self.keys = keys
        self.preemptions = 0
        self.started = False  # it has been in a step
        self.running = False  # it has a seat and blocks
        self.cancelled = False  # it ends when the step in flight does
        self.streamed = spec.streamed
        self.told = self._total  # what is known beyond has not been reported
        self.since = -1  # not streamed: each step from this one on has brought a token
        self.stretches: tuple[tuple[int, int], ...] = ()  # the same of earlier times: (first step, how many)

    @property
    def computed(self) -> int:
        """Tokens in the KV cache."""
        return self._computed if self.beat is None else self.lead + self.beat.steps

    @property
    def total(self) -> int:
        """Tokens known."""
        return self._total if self.beat is None else self.lead + self.beat.steps + 1

    def start(self, beat: Beat) -> int:
        """Decode with that beat from now on; the lead."""
        self.beat = beat
        self.lead = lead = self._computed - beat.steps
        return lead

    def stop(self) -> None:
        """Decode no more: what it has now is what it has."""
        if self.beat is not None:
            self._computed = done = self.lead + self.beat.steps
            self._total = done + 1
            self.beat = None

    def copy(self) -> Sequence:
        """One like it in all that a step is planned by; it does not decode, and is reported on to nobody."""
        generated = self.total - self.prompt
        spec = SequenceSpec(self.request_id, self.prompt, 0, (), None, generated, self.priority, streamed=False)
        made = Sequence(spec, self.keys, self.end, self.reason)
        made.place, made.running, made.started = self.place, self.running, self.started
        made.restart(self.computed)
        return made

    def compute(self, tokens: int) -> None:
        """It has computed so many more; only while it does not decode."""
        self._computed += tokens

    def restart(self, computed: int) -> None:
        """It has computed so many in all; only while it does not decode."""
        self._computed = computed

    def sampled(self, count: int, finish: FinishReason | None = None) -> Sampled:
        """The event of its next `count` tokens, which are known from now on, and of those not reported so far."""
        self._total += count
        total = self.total
        first, self.told = self.told, total
        steps, self.stretches = self.stretches, ()
        return Sampled(self.request_id, first - self.prompt, total - first, finish, self.preemptions, steps)

    def goes_on(self, step: int, count: int) -> Sampled | None:
        """Step number `step` and those that follow have brought `count` tokens; the event, if there is to be one."""
        if self.streamed:
            return self.sampled(count)
        self._total += count
        if self.since < 0:
            self.since = step
        return None

    def ends(self, step: int, count: int, finish: FinishReason) -> Sampled:
        """The same, and they were the last ones."""
        if not self.streamed:
            if count and self.since < 0:
                self.since = step
            self.pause(step + count)
        return self.sampled(count, finish)

    def so_far(self, step: int) -> Sampled | None:
        """The event of what has been kept back until step number `step`; None for nothing."""
        if self.total == self.told:
            return None
        if self.since >= 0:
            self.pause(step)
            self.since = step
        return self.sampled(0)

    def check(self, in_flight: bool, blocks: int, block_size: int, taken: bool) -> None:
        """Raise InvariantBroken unless it holds the blocks it needs; `taken`: those of the step in flight already."""
        known = f"request {self.request_id}, {self.computed} of {self.total} tokens computed, end {self.end}"
        if not self.computed < self.total < self.end:
            raise InvariantBroken("batcher", f"{known}: out of order")
        if not taken and blocks != -(-self.computed // block_size):
            raise InvariantBroken("batcher", f"{known}: holds {blocks} blocks")
        if self.running != (blocks > 0) or (self.cancelled and not in_flight):
            raise InvariantBroken("batcher", f"{known}: in the wrong place")

    def pause(self, step: int) -> None:
        """Step number `step` brings it no token."""
        if self.since >= 0:
            if step > self.since:
                self.stretches += ((self.since, step - self.since),)
            self.since = -1


def make_sequence(spec: SequenceSpec, block_size: int, max_len: int) -> Sequence:
    """Check a spec and find where it ends; raises BadRequest or ContextLengthExceeded."""
    fault = _fault(spec)
    if fault:
        raise BadRequest(fault)
    known = spec.prompt_tokens + spec.generated
    if known + 1 > max_len:
        raise ContextLengthExceeded(known + 1, max_len)
    # Even a sequence that stops at once samples the token that says so.
    stop = spec.prompt_tokens + max(spec.output_tokens, 1)
    cap = max_len if spec.max_tokens is None else min(max_len, spec.prompt_tokens + spec.max_tokens)
    reason = FinishReason.STOP if stop < cap else FinishReason.LENGTH
    end = min(stop, cap)
    if end <= known:
        raise BadRequest(f"{spec.generated} tokens were generated: none of {end - spec.prompt_tokens} is left")
    return Sequence(spec, BlockKeys(spec.content, block_size), end, reason)


def _fault(spec: SequenceSpec) -> str:
    if spec.prompt_tokens < 1:
        return f"prompt_tokens is {spec.prompt_tokens}: a prompt needs at least one token"
    if spec.output_tokens < 0 or spec.generated < 0:
        return f"output_tokens {spec.output_tokens} and generated {spec.generated} may not be negative"
    if spec.max_tokens is not None and spec.max_tokens < 1:
        return f"max_tokens is {spec.max_tokens}: at least 1, or none"
    if any(source < 0 or tokens < 0 for source, tokens in spec.content):
        return "the content has a negative source or length"
    held = sum(tokens for _, tokens in spec.content)
    if held != spec.prompt_tokens:
        return f"the content holds {held} tokens, the prompt {spec.prompt_tokens}"
    return ""


def last_tokens(seq: Sequence, count: int, ended: Mapping[int, FinishReason]) -> tuple[int, FinishReason]:
    """How many of the last `count` tokens of a sequence that ends are its own, and why it does.

    Those in `ended` end as that says: of an ERROR the last token is none.
    """
    if seq.cancelled:
        return count - 1, FinishReason.CANCELLED
    finish = ended.get(seq.request_id, seq.reason)
    return count - (finish is FinishReason.ERROR), finish


def check_places(
    known: Collection[Sequence], running: list[Sequence], waiting: Iterable[Sequence], seats: int
) -> list[Sequence]:
    """All of them; raises InvariantBroken unless each that is known is in one place, and who runs is in order."""
    places = [*running, *waiting]
    if {id(seq) for seq in places} != {id(seq) for seq in known} or len(places) != len(known):
        raise InvariantBroken("batcher", "a request is lost, or in two places")
    if len(running) > seats:
        raise InvariantBroken("batcher", f"{len(running)} requests are running")
    if [seq.priority for seq in running] != sorted(seq.priority for seq in running):
        raise InvariantBroken("batcher", "running requests are not in order of priority")
    return places


def pause_others(sequences: list[Sequence], flight: list[Sequence], step: int) -> None:
    """Step number `step` brings no token to those that are not in `flight`."""
    taken = {seq.request_id for seq in flight}
    for seq in sequences:
        if seq.request_id not in taken:
            seq.pause(step)
