"""A deployment, in upstream's schema: what to serve, on what, how much at once; no placement and no state.

A `[[deployment]]` table of a rakka project file loads as it is. Two fields are ours: `runtime = "torch"` (the default
for local models) and the keys of `runtime_config` for local runtimes, which are the engine's own settings.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from rakka_sim.config.base import Seconds, Table
from rakka_sim.config.gpus import gpu
from rakka_sim.errors import NotBuilt, UnknownName
from rakka_sim.values import RuntimeKind, TransportKind

MAX_REPLICAS = 100_000

REMOTE = {RuntimeKind.OPENAI, RuntimeKind.ANTHROPIC, RuntimeKind.GEMINI, RuntimeKind.LITELLM}

# First match wins; the last word is upstream's: anything else is local.
_INFERRED = (
    (re.compile(r"(gpt-4|gpt-3\.5|o1-|o3-|chatgpt-)"), RuntimeKind.OPENAI),
    (re.compile(r"(claude-|anthropic/)"), RuntimeKind.ANTHROPIC),
    (re.compile(r"(gemini-|google/gemini)"), RuntimeKind.GEMINI),
    (re.compile(r"(litellm/|.*via-litellm)"), RuntimeKind.LITELLM),
)


def infer_runtime(model: str) -> RuntimeKind:
    """The runtime that a model's name stands for; an explicit `runtime` always wins over it."""
    for pattern, kind in _INFERRED:
        if pattern.match(model):
            return kind
    return RuntimeKind.TORCH


def _runtime_text(given: Any) -> Any:
    """Upstream's spellings: `open_ai`, and `{python = "xtts"}` for what has a name of its own."""
    if isinstance(given, dict) and len(given) == 1:
        (kind, name), *_ = given.items()
        return f"{str(kind).lower()}:{name}"
    if isinstance(given, str):
        kind, colon, name = given.partition(":")
        return kind.lower().replace("_", "") + colon + name
    return given


def _effective(runtime: str | None, model: str) -> RuntimeKind:
    return RuntimeKind(runtime.partition(":")[0]) if runtime else infer_runtime(model)


class Serving(Table):
    """How many requests a replica serves at once, and what becomes of the next one."""

    max_concurrent: PositiveInt = Field(32, description="requests in the engine of one replica at once")
    on_capacity_exhausted: Literal["reject", "queue", "fallback"] = "queue"
    queue_capacity: PositiveInt = Field(100_000, description="places in the queue before the engine, per replica")
    fallback: str | None = Field(None, description="the deployment that serves instead, for `fallback`")
    replica_wait_s: Seconds = Field(
        60.0, description="how long a request waits for a replica while none is up and some are coming; 0: not at all"
    )

    @model_validator(mode="after")
    def _fallback_has_a_name(self) -> Self:
        if self.on_capacity_exhausted == "fallback" and self.fallback is None:
            raise ValueError('on_capacity_exhausted = "fallback" needs fallback = "<another deployment>"')
        return self


class Budget(Table):
    """What a deployment may spend."""

    max_spend_per_hour_usd: PositiveFloat | None = None
    max_spend_per_day_usd: PositiveFloat | None = None
    on_exceeded: Literal["reject", "warn", "throttle"] = "reject"


class EngineConfig(Table):
    """The settings of a local engine: vLLM's names and defaults where it has them.

    `host_overhead_us` is what the host adds to every step, `frontend_overhead_us` what it adds to every request before
    the engine sees it (HTTP, tokenizing). Zero must be asked for: a simulator without them is wrong near saturation.

    `async_scheduling`: the engine plans a step while the one before it is computed. A modelled engine does so only if
    asked (true), and then as vLLM does: who comes or goes is noticed one step late, and the host's work is hidden in
    steps of no more tokens than the largest CUDA graph (twice `max_num_seqs`, at most 512). A real one does so unless
    it is not to (false), where that does not change the schedule.
    """

    max_num_seqs: PositiveInt = 256
    max_num_batched_tokens: PositiveInt = 2048
    max_model_len: PositiveInt | None = Field(None, description="default: what the model was trained for")
    block_size: PositiveInt = 16
    num_gpu_blocks: int | None = Field(None, ge=1, le=1 << 24, description="default: derived from GPU memory")
    gpu_memory_utilization: float = Field(0.9, gt=0.0, le=1.0)
    enable_prefix_caching: bool = True
    enable_chunked_prefill: bool = True
    async_scheduling: bool | None = Field(
        None, description="plan before the last step has ended; none: where it is real"
    )
    long_prefill_token_threshold: int = Field(0, ge=0, description="0: no limit of its own")
    dtype: Literal["bfloat16", "float16", "float32", "fp8"] = "bfloat16"
    kv_cache_dtype: Literal["auto", "bfloat16", "float16", "float32", "fp8"] = "auto"
    host_overhead_us: float | None = Field(None, ge=0.0, le=1e9, description="default: the time model's constant")
    frontend_overhead_us: float = Field(1000.0, ge=0.0, le=1e9)
    startup_s: Seconds = Field(
        0.0,
        description="process, context, graphs: from placement to the first request, and after a rebuild; to load the "
        "weights takes time on top where the cluster says how fast they are read",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="of real tensors; auto: CUDA if there is any")
    load_format: Literal["auto", "dummy"] = Field("auto", description="dummy: random weights, whatever the folder has")
    cpu_threads: int = Field(0, ge=0, description="of real tensors on a CPU; 0: as PyTorch chooses")
    watchdog_s: PositiveFloat = Field(60.0, description="a real step that takes longer hangs: its process is killed")
    stream_interval_s: float = Field(0.05, ge=0.0, description="a real run of steps gives out its tokens as often")
    runs_of_steps: bool = Field(True, description="false: one decode step at a time; the records are the same")

    @model_validator(mode="after")
    def _a_step_fits(self) -> Self:
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ValueError(
                f"max_num_batched_tokens ({self.max_num_batched_tokens}) must be at least "
                f"max_num_seqs ({self.max_num_seqs})"
            )
        if not self.enable_chunked_prefill and (self.max_model_len or 1 << 62) > self.max_num_batched_tokens:
            raise ValueError(
                "without chunked prefill, max_num_batched_tokens must be at least max_model_len (set both)"
            )
        return self


class PlacementWishes(Table):
    """What a deployment asks of its places, beyond a number of GPUs. All of it is ours; upstream has no such table."""

    gpu_model: str = Field("", description="a GPU of the catalogue; none: any")
    min_gpu_memory_gib: float = Field(0.0, ge=0.0, description="of each GPU, whole ones only")
    island: Literal["prefer", "require"] = Field(
        "prefer", description='"require": the fast link between any two GPUs of a replica, or no placement'
    )
    mig: str = Field("", description="a MIG profile, such as 1g.18gb: each replica gets one slice of it")
    spread: Literal["prefer", "require", "ignore"] = Field(
        "prefer", description="replicas in different failure domains"
    )
    region: str = Field("", description="where the nodes must be")
    anti_affinity: tuple[str, ...] = Field((), description="deployments that no node may share with this one")

    @field_validator("gpu_model")
    @classmethod
    def _in_the_catalogue(cls, name: str) -> str:
        try:
            return gpu(name).name if name else name
        except UnknownName as error:
            raise ValueError(error.allowed) from None


class Deployment(Table):
    """A model, what executes it, and how many replicas."""

    name: str = Field(min_length=1, pattern="^[^/]*$", description="any text without '/'")
    model: str = Field(min_length=1)
    runtime: Annotated[str | None, BeforeValidator(_runtime_text)] = None
    runtime_config: EngineConfig | dict[str, Any] = Field(default_factory=dict, validate_default=True)
    gpus: PositiveInt | None = Field(None, description="GPUs per replica, local only")
    replicas: PositiveInt = Field(1, le=MAX_REPLICAS)
    serving: Serving = Serving()
    budget: Budget | None = None
    idempotent: bool = True
    placement: PlacementWishes = PlacementWishes()

    @model_validator(mode="before")
    @classmethod
    def _tagged(cls, given: Any) -> Any:
        """Upstream also tags the runtime inside `runtime_config`; from here on it stands in one place."""
        config = given.get("runtime_config") if isinstance(given, dict) else None
        if not isinstance(config, dict) or "runtime" not in config:
            return given
        rest = {key: value for key, value in config.items() if key != "runtime"}
        explicit = given.get("runtime")
        return {**given, "runtime": config["runtime"] if explicit is None else explicit, "runtime_config": rest}

    @field_validator("runtime")
    @classmethod
    def _known(cls, runtime: str | None) -> str | None:
        if runtime is None:
            return None
        kind, colon, _ = runtime.partition(":")
        if kind not in RuntimeKind.__members__.values() or (colon and kind not in {"python", "custom"}):
            raise ValueError(f"one of {', '.join(RuntimeKind)}; python:<name> and custom:<name> too")
        return runtime

    @field_validator("runtime_config", mode="before")
    @classmethod
    def _of_its_runtime(cls, given: Any, info: ValidationInfo) -> Any:
        """Local: the engine's settings, so that a misspelt key is an error. Remote: the provider's own business."""
        if not isinstance(given, dict):
            return given
        kind = _effective(info.data.get("runtime"), info.data.get("model", ""))
        if kind not in REMOTE:
            return EngineConfig.model_validate(given)
        key = given.get("api_key")
        return {**given, "api_key": SecretStr(key)} if isinstance(key, str) else given

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        if self.transport is TransportKind.REMOTE_NETWORK and self.gpus is not None:
            raise ValueError(f"gpus is for local deployments; {self.model!r} runs at {self.runtime_kind}: leave it out")
        if self.placement.mig and (self.gpus or 1) > 1:
            raise ValueError(f"a replica on a MIG slice has one: slices have no way to each other; gpus = {self.gpus}")
        return self

    @property
    def runtime_kind(self) -> RuntimeKind:
        """The effective runtime: explicit, else inferred from the model's name."""
        return _effective(self.runtime, self.model)

    @property
    def transport(self) -> TransportKind:
        """Where it runs: a function of the runtime."""
        return TransportKind.REMOTE_NETWORK if self.runtime_kind in REMOTE else TransportKind.LOCAL_GPU

    @property
    def gpus_per_replica(self) -> int:
        """GPUs of one replica: 1 for a local deployment that does not say; 0 for a remote one."""
        return 0 if self.transport is TransportKind.REMOTE_NETWORK else self.gpus or 1

    @property
    def api_key(self) -> str:
        """The key that a remote deployment uses, as it stands in its `runtime_config`; '' without one."""
        key = self.runtime_config.get("api_key") if isinstance(self.runtime_config, dict) else None
        return key.get_secret_value() if isinstance(key, SecretStr) else ""

    @property
    def engine(self) -> EngineConfig:
        """The engine's settings of a local deployment."""
        if isinstance(self.runtime_config, EngineConfig):
            return self.runtime_config
        raise NotBuilt(f"the remote tier ({self.runtime_kind}, deployment {self.name!r})")
