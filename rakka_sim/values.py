"""The values that travel between actors; no behaviour beyond arithmetic on their own fields may be here.

Names are upstream's (rakka-inference) where it has them. A request may carry text, or only lengths and the
identity of its tokens: what a simulation needs.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, dataclass_transform

if TYPE_CHECKING:
    import numpy as np

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def value(cls: type[T]) -> type[T]:
    """Declare a value: frozen to type checkers, a plain slots dataclass at run time (a third of the cost to make)."""
    made: Callable[[type[T]], type[T]] = dataclass(slots=True)
    return made(cls)


# Consecutive steps as the event log has them: the replica's number there, the first step's, and how many.
Stretch = tuple[int, int, int]

# Which tokens a sequence holds, without the tokens: spans of (source, tokens). The n-th token of a source is the
# same token wherever it occurs behind the same spans, so two contents share exactly their common prefix. What is
# generated continues the last span.
Content = tuple[tuple[int, int], ...]

# What a replica has of one node: the node, and GPUs by ordinal.
Part = tuple[str, tuple[int, ...]]


class RuntimeKind(enum.StrEnum):
    """What executes a deployment. `python:<name>` is carried by the config as text."""

    TORCH = "torch"
    VLLM = "vllm"
    TENSORRT = "tensorrt"
    ORT = "ort"
    CANDLE = "candle"
    CUDARC = "cudarc"
    MISTRALRS = "mistralrs"
    PYTHON = "python"
    CUSTOM = "custom"
    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    GEMINI = "gemini"
    LITELLM = "litellm"


class TransportKind(enum.StrEnum):
    """Where a deployment runs: on GPUs of this cluster, or at a provider."""

    LOCAL_GPU = "local_gpu"
    REMOTE_NETWORK = "remote_network"


class FinishReason(enum.StrEnum):
    """Why a request's tokens ended."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    CONTENT_FILTER = "content_filter"
    ERROR = "error"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)  # hashable: it is a default of other values
class Sampling:
    """How tokens are drawn; `max_tokens` None means up to the model's context.

    One of `stop_ids` (token ids; a model's end-of-sequence ids stand there too) ends the output and is its last token;
    one of the strings `stop` ends it too, and the text before it.
    `seed` None: each request has its own, which depends on its id alone. Penalties as in the field: `presence` and
    `frequency` are taken from the logit of an id that has been generated, the latter once for each time; the logit of
    an id in the prompt or generated is divided by `repetition`, or multiplied if it is negative.
    """

    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    stop: tuple[str, ...] = ()
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    stop_ids: tuple[int, ...] = ()
    repetition_penalty: float = 1.0

    @property
    def penalises(self) -> bool:
        """Whether what is drawn depends on which ids are there already."""
        return bool(self.presence_penalty or self.frequency_penalty) or self.repetition_penalty != 1.0


GREEDY_TO_THE_END = Sampling(temperature=0.0)

# The `output_tokens` of a request of which nobody knows where the model will stop.
UNKNOWN_LENGTH = 2**31 - 1


@value
class ExecuteBatch:
    """One request to a deployment.

    `output_tokens` is where the model would stop by itself, known to a workload and to nobody else: a modelled
    runner needs it, a policy must not read it. `session` groups turns of one conversation (0: none).
    `timeout_s` is counted from arrival. `token_ids` is the prompt itself; only engines with real tokens need it.
    """

    request_id: int
    model: str
    prompt_tokens: int
    output_tokens: int
    content: Content
    sampling: Sampling = GREEDY_TO_THE_END
    messages: tuple[tuple[str, str], ...] = ()
    stream: bool = True
    session: int = 0
    priority: int = 0
    timeout_s: float | None = None
    token_ids: tuple[int, ...] = ()


@value
class TokenUsage:
    """What a request consumed, in tokens."""

    input: int = 0
    output: int = 0
    reasoning: int = 0
    cached: int = 0


@value
class TokenChunk:
    """Tokens of one request, as they became ready: one time (s) per token.

    `times` may be shared by all rows of a run of steps: never write to it. A chunk with `finish` is the last one.
    `steps` says which steps of the event log they came from, where they did. Of real ones, `tokens` are the ids and
    `text` what they add to the text.
    """

    request_id: int
    times: np.ndarray[Any, Any]
    text: str = ""
    finish: FinishReason | None = None
    usage: TokenUsage | None = None
    steps: tuple[Stretch, ...] = ()
    tokens: tuple[int, ...] = ()


@value
class Load:
    """What a replica carries, as it last said. `kv_usage` in 0..1; `queued_tokens` is prompt work not yet computed."""

    running: int = 0
    waiting: int = 0
    capacity: int = 1
    kv_usage: float = 0.0
    queued_tokens: int = 0

    @property
    def outstanding(self) -> int:
        return self.running + self.waiting


@value
class StepRow:
    """One sequence's share of a step: `tokens` computed on top of `context` already in the KV cache.

    `samples` says whether this row yields a token (its chunk reaches the end of what is known of the sequence).
    """

    request_id: int
    tokens: int
    context: int
    samples: bool


@value
class StepPlan:
    """What one step computes; `steps` > 1 is a run: that many identical decode steps in a row.

    `kv_blocks` are the blocks in use when the (first) step runs; `crossings[r]` is how many rows take a new block
    at every step j of a run with j % block_size == r. A plan without them is a step that has its blocks already.
    """

    rows: Sequence[StepRow]
    steps: int
    prefill_tokens: int
    decode_seqs: int
    context_tokens: int
    max_context: int
    running: int
    waiting: int
    kv_blocks: int
    crossings: tuple[int, ...] = ()


@value
class FedSequence:
    """A sequence as a runner with real tokens must know it: every id known so far, and how to draw the next ones.

    The first `prompt` of the ids are the prompt's; those after them have been generated.
    """

    request_id: int
    tokens: tuple[int, ...]
    sampling: Sampling
    seed: int
    prompt: int


@value
class StepFeed:
    """What a runner with real tokens must be told before a plan; it remembers the rest.

    `new`: sequences that it does not know, or is to know afresh. `blocks[request_id]` = (at, blocks): from entry `at`
    on, the sequence's block table is this. For a run that includes the blocks that it will take. `gone`: forget them.
    """

    new: tuple[FedSequence, ...]
    blocks: dict[int, tuple[int, tuple[int, ...]]]
    gone: tuple[int, ...]


@value
class StepOutcome:
    """What a runner made of a plan: the end time (s) of each step that ran, and the tokens where they are real.

    `tokens[request_id]` has one id per step that ran; modelled runners leave it empty. A sequence in `broken` got
    logits that are no numbers at the last of these steps, which has no token for it. `goes_on`: the plan has ended as
    planned, and the runner is at the one that was to follow it.
    """

    plan: StepPlan
    started: float
    times: np.ndarray[Any, Any]
    tokens: dict[int, list[int]] = field(default_factory=dict)
    broken: tuple[int, ...] = ()
    goes_on: bool = False


class StepJob(Protocol):
    """A plan under way that can be looked into."""

    def done_by(self, now: float) -> StepOutcome | None:
        """What a runner has made of its plan before `now` (s); None for nothing."""
        ...


class Progress:
    """A plan under way: if what runs it is lost, the steps that had ended by then stand."""

    __slots__ = ("job",)

    def __init__(self) -> None:
        self.job: StepJob | None = None  # None: not begun, or it cannot be looked into

    def look_into(self, job: object) -> None:
        """This job computes the plan."""
        if hasattr(job, "done_by"):
            self.job = job  # called for every plan: `cast` would be a call

    def done_by(self, now: float) -> StepOutcome | None:
        """The steps that ended before `now` (s), if any."""
        return self.job.done_by(now) if self.job is not None else None


@dataclass(frozen=True, slots=True)
class MigSlice:
    """A slice of a GPU: its profile, and the memory slice that it starts at."""

    profile: str
    start: int


@value
class NodeAssignment:
    """Where one replica runs: a node and, for a local deployment, its GPUs by ordinal, or a slice of the one.

    `others`: its parts on further nodes, where it spans nodes of one NVLink fabric.
    """

    replica_index: int
    node: str
    gpus: tuple[int, ...] = ()
    slice: MigSlice | None = None
    others: tuple[Part, ...] = ()

    @property
    def parts(self) -> tuple[Part, ...]:
        """What it has of each node that it needs."""
        return (self.node, self.gpus), *self.others


@value
class PlacementResult:
    """Where all replicas of a deployment run; `degraded` says what was wished for and could not be had."""

    deployment: str
    assignments: tuple[NodeAssignment, ...] = ()
    degraded: tuple[str, ...] = ()


@value
class PlacementConstraints:
    """What the cluster offers: GPUs per GPU node, egress nodes, and who already serves a (provider, api_key)."""

    gpu_nodes: dict[str, int] = field(default_factory=dict)
    egress_nodes: tuple[str, ...] = ()
    egress_preference: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict, repr=False)  # holds keys
