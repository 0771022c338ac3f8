"""What a workload is: who arrives when, with how many tokens; nothing is drawn or read here (that is `workload/`)."""

from __future__ import annotations

from collections.abc import Iterator
from math import log1p, sqrt
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from rakka_sim.config.base import PositiveSeconds, Rate, Seconds, Table

MAX_TOKENS = 2**31 - 1
TokenCount = Annotated[int, Field(ge=1, le=MAX_TOKENS)]

TraceFormat = Literal["azure", "mooncake", "vllm", "sharegpt", "burstgpt"]

# A key of the table, the value found there, and what may stand there instead.
Conflict = tuple[tuple[str, ...], object, str]


class _Checked(Table):
    """A table whose keys may contradict each other; every contradiction is reported under its own key."""

    @model_validator(mode="after")
    def _no_conflicts(self) -> Self:
        found = [
            InitErrorDetails(
                type=PydanticCustomError("conflict", "{allowed}", {"allowed": allowed}), loc=loc, input=value
            )
            for loc, value, allowed in self._conflicts()
        ]
        if found:
            raise ValidationError.from_exception_data(type(self).__name__, found)
        return self

    def _conflicts(self) -> Iterator[Conflict]:
        yield from ()


# --- arrivals ---------------------------------------------------------------------------------------------------


class Poisson(Table):
    """Open loop: independent arrivals."""

    kind: Literal["poisson"] = "poisson"
    rate: Rate = Field(description="arrivals per second")


class Gamma(Table):
    """Open loop: gaps between arrivals are Gamma with mean 1/rate."""

    kind: Literal["gamma"] = "gamma"
    rate: Rate = Field(description="arrivals per second")
    burstiness: float = Field(
        gt=0,
        allow_inf_nan=True,
        description="Gamma's shape, as in vLLM: 1 is Poisson, below is burstier, inf is constant",
    )


class Constant(Table):
    """Open loop: arrivals at equal distances, the first one after the first gap."""

    kind: Literal["constant"] = "constant"
    rate: Rate = Field(description="arrivals per second")


class Closed(Table):
    """Closed loop: each of so many users sends a request, waits for its end, thinks, and sends the next one."""

    kind: Literal["closed"] = "closed"
    concurrency: PositiveInt = Field(description="users; never more requests than that are under way")
    think_time_s: Seconds = Field(default=0.0, description="mean time from an end to the user's next request")
    think_cv: NonNegativeFloat = Field(
        default=0.0, description="its coefficient of variation: 0 constant, 1 exponential"
    )
    ramp_s: Seconds = Field(default=0.0, description="users start evenly over that time, not all at once")


class TraceArrivals(Table):
    """Open loop: the arrival times of `trace`."""

    kind: Literal["trace"] = "trace"
    speedup: PositiveFloat = Field(default=1.0, description="2 makes the trace run in half its time")


Arrivals = Annotated[Poisson | Gamma | Constant | Closed | TraceArrivals, Field(discriminator="kind")]


# --- lengths ----------------------------------------------------------------------------------------------------


class FixedLengths(Table):
    """The same for every request."""

    kind: Literal["fixed"] = "fixed"
    prompt: TokenCount
    output: TokenCount


class Spread(_Checked):
    """A log-normal number of tokens, by median and sigma (of the logarithm) or by mean and cv, rounded and clipped.

    The mean and cv are those of the distribution before it is clipped.
    """

    median: PositiveFloat | None = None
    sigma: Annotated[float, Field(ge=0, le=10)] | None = None
    mean: PositiveFloat | None = None
    cv: NonNegativeFloat | None = None
    min: TokenCount = 1
    max: TokenCount = MAX_TOKENS

    def _conflicts(self) -> Iterator[Conflict]:
        given = {name for name in ("median", "sigma", "mean", "cv") if getattr(self, name) is not None}
        if given not in ({"median", "sigma"}, {"mean", "cv"}):
            yield (), " and ".join(sorted(given)) or "neither", "median and sigma, or mean and cv"
        if self.max < self.min:
            yield ("max",), self.max, f"at least min ({self.min})"

    @property
    def log_sigma(self) -> float:
        """The standard deviation of the logarithm."""
        return self.sigma if self.sigma is not None else sqrt(log1p((self.cv or 0.0) ** 2))

    @property
    def middle(self) -> float:
        """The median before clipping, in tokens."""
        return self.median if self.median is not None else (self.mean or 1.0) / sqrt(1.0 + (self.cv or 0.0) ** 2)


class LognormalLengths(Table):
    """Prompt and output each log-normal."""

    kind: Literal["lognormal"] = "lognormal"
    prompt: Spread
    output: Spread
    correlation: float = Field(
        default=0.0, ge=-1, le=1, description="between the logarithms of the two, before clipping"
    )


class EmpiricalLengths(Table):
    """Pairs drawn with replacement from a file; a ShareGPT file's tokens are estimated from its text."""

    kind: Literal["empirical"] = "empirical"
    file: str = Field(min_length=1, description="relative to the scenario: .csv, .jsonl, or .json for ShareGPT")
    prompt: str = Field(default="prompt_tokens", description="the column of prompt tokens")
    output: str = Field(default="output_tokens", description="the column of output tokens")


class TraceLengths(Table):
    """The lengths of `trace`, row by row; where it says which prompts share prefixes, they do."""

    kind: Literal["trace"] = "trace"


Lengths = Annotated[FixedLengths | LognormalLengths | EmpiricalLengths | TraceLengths, Field(discriminator="kind")]


# --- what requests have in common -------------------------------------------------------------------------------


class Prefix(Table):
    """System prompts: each request, or each conversation, begins with one of them, in front of its own tokens."""

    groups: int = Field(default=1, ge=1, le=1_000_000, description="how many different ones")
    tokens: TokenCount = Field(description="tokens of each, added to the prompt")
    zipf: NonNegativeFloat = Field(default=0.0, description="the n-th is drawn with weight n**-zipf: 0 is uniform")


class FixedTurns(Table):
    """The same number of turns in every conversation."""

    kind: Literal["fixed"] = "fixed"
    turns: PositiveInt


class UniformTurns(_Checked):
    """Any number of turns from min to max, all equally likely."""

    kind: Literal["uniform"] = "uniform"
    min: PositiveInt = 1
    max: PositiveInt

    def _conflicts(self) -> Iterator[Conflict]:
        if self.max < self.min:
            yield ("max",), self.max, f"at least min ({self.min})"


class GeometricTurns(Table):
    """After each turn there is another one with the same probability."""

    kind: Literal["geometric"] = "geometric"
    mean: float = Field(ge=1, description="turns, before `max`")
    max: PositiveInt = 1000


class Sessions(Table):
    """Conversations: arrivals start them, and each turn's prompt is all that was said so far plus new tokens.

    `lengths.prompt` are then the new tokens of a turn. A turn that fails is followed by the next one all the same.
    """

    turns: Annotated[FixedTurns | UniformTurns | GeometricTurns, Field(discriminator="kind")]
    think_time_s: Seconds = Field(default=0.0, description="mean time from the end of a turn to the next")
    think_cv: NonNegativeFloat = Field(
        default=0.0, description="its coefficient of variation: 0 constant, 1 exponential"
    )
    max_context_tokens: PositiveInt | None = Field(default=None, description="a turn that would not fit is not begun")


# --- traces -----------------------------------------------------------------------------------------------------


class Trace(_Checked):
    """A file of requests, by its path or as a dataset of the catalogue."""

    format: TraceFormat | None = Field(default=None, description="required with path; a dataset brings its own")
    path: str | None = Field(default=None, min_length=1, description="relative to the scenario file")
    dataset: str | None = Field(default=None, min_length=1, description="a name such as azure-2023-conv")
    data_dirs: tuple[str, ...] = Field(default=(), description="where a dataset may lie, relative to the scenario file")
    offset_s: Seconds = Field(default=0.0, description="leave out what comes before, in the trace's own time")
    limit: PositiveInt | None = Field(default=None, description="use at most that many rows")
    hashed_tokens: TokenCount | None = Field(
        default=None, description="how many tokens of a prompt one hash of a mooncake trace stands for; default: 512"
    )

    def _conflicts(self) -> Iterator[Conflict]:
        if self.hashed_tokens is not None and "mooncake" not in (self.format, (self.dataset or "").partition("-")[0]):
            yield ("hashed_tokens",), self.hashed_tokens, 'only with format "mooncake"'
        if (self.path is None) == (self.dataset is None):
            yield (), "neither" if self.path is None else "path and dataset", "one of: path, dataset"
        elif self.path is not None and self.format is None:
            yield ("format",), None, "a format, where a path is given"
        if self.format == "sharegpt" and self.offset_s:
            yield ("offset_s",), self.offset_s, 'no offset: format "sharegpt" has no times'


class SamplingConfig(Table):
    """How tokens are drawn, and who ends a request.

    `max_tokens` is "none" by default: nobody but the model ends it, after its output length (finish reason stop).
    "output" asks for exactly that length (finish reason length), as a load generator with ``ignore_eos`` does. A number
    cuts longer outputs short.
    """

    max_tokens: Literal["none", "output"] | PositiveInt = "none"
    temperature: NonNegativeFloat = 0.0
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: NonNegativeInt = 0
    presence_penalty: float = Field(default=0.0, ge=-2, le=2)
    frequency_penalty: float = Field(default=0.0, ge=-2, le=2)
    repetition_penalty: float = Field(default=1.0, gt=0, allow_inf_nan=False)


class WorkloadConfig(_Checked):
    """One stream of requests to one deployment. With a trace, arrivals and lengths are the trace's unless given."""

    deployment: str | None = Field(
        default=None, description="whom it addresses; the first deployment where none is named"
    )
    requests: PositiveInt | None = Field(default=None, description="at most that many")
    duration_s: PositiveSeconds | None = Field(default=None, description="no arrivals from then on")
    arrivals: Arrivals
    lengths: Lengths
    prefix: Prefix | None = None
    sessions: Sessions | None = None
    trace: Trace | None = None
    sampling: SamplingConfig = SamplingConfig()
    timeout_s: PositiveSeconds | None = Field(
        default=None, description="each request's deadline, counted from its arrival"
    )

    @model_validator(mode="before")
    @classmethod
    def _a_trace_brings_both(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("trace") is not None:
            return {"arrivals": {"kind": "trace"}, "lengths": {"kind": "trace"}, **given}
        return given

    def _conflicts(self) -> Iterator[Conflict]:
        yield from self._trace_conflicts()
        if self.lengths.kind == "trace":
            if self.sessions is not None:
                yield ("lengths", "kind"), "trace", "another kind with sessions: a trace's prompts are whole already"
            if self.prefix is not None:
                yield ("lengths", "kind"), "trace", "another kind with prefix: a trace's prompts are whole already"
        elif self.arrivals.kind != "trace" and self.requests is None and self.duration_s is None:
            yield ("requests",), None, f"requests or duration_s: {self.arrivals.kind} arrivals never end by themselves"
        room = self.sessions.max_context_tokens if self.sessions is not None else None
        if self.prefix is not None and room is not None and self.prefix.tokens >= room:
            yield ("prefix", "tokens"), self.prefix.tokens, f"less than sessions.max_context_tokens ({room})"

    def _trace_conflicts(self) -> Iterator[Conflict]:
        users = [name for name in ("arrivals", "lengths") if getattr(self, name).kind == "trace"]
        if self.trace is None:
            for name in users:
                yield (name, "kind"), "trace", "another kind, or a [workload.trace] table beside it"
            return
        if not users:
            yield ("trace",), self.trace.path or self.trace.dataset, 'no trace, or arrivals or lengths of kind "trace"'
        if self.trace.format == "sharegpt" and self.arrivals.kind == "trace":
            yield ("arrivals", "kind"), "trace", 'another kind: format "sharegpt" has no times'
