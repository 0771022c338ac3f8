"""A scenario: everything a run depends on, in one immutable object; reading files is in `loading`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    NonNegativeInt,
    PlainSerializer,
    PositiveInt,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic.config import JsonDict

from rakka_sim.config.base import PositiveSeconds, Seconds, Table
from rakka_sim.config.cluster import Cluster
from rakka_sim.config.deployment import MAX_REPLICAS, Deployment
from rakka_sim.config.slo import Slo
from rakka_sim.config.workload import WorkloadConfig

MODES = ("simulate", "lockstep", "emulate", "live")
Mode = Literal["simulate", "lockstep", "emulate", "live"]


def _policy_name(policy: Any) -> str:
    return policy if isinstance(policy, str) else str(getattr(policy, "__name__", type(policy).__name__))


# By name, or from a notebook as a function or an object; a scenario written as JSON has its name.
_NAMED = PlainSerializer(_policy_name, when_used="json")
RoutingPolicy = Annotated[Any, _NAMED, WithJsonSchema({"type": "string", "default": "least_load"})]
PlacementPolicy = Annotated[Any, _NAMED, WithJsonSchema({"type": "string", "default": "topology"})]


class Routing(Table):
    """How the coordinator chooses among replicas.

    A function (replicas, hint, rng) -> index serves all deployments; of a class each deployment gets an object of its
    own, anew in each run (`core.routing.RoutingPolicy`).
    """

    policy: RoutingPolicy = "least_load"

    @field_validator("policy")
    @classmethod
    def _name_or_function(cls, policy: Any) -> Any:
        if isinstance(policy, str) or callable(policy) or hasattr(policy, "choose"):
            return policy
        raise ValueError(
            "a policy's name, a function (replicas, hint, rng) -> index, or a class or object with `choose`"
        )


class Placing(Table):
    """How replicas find their GPUs."""

    policy: PlacementPolicy = "topology"

    @field_validator("policy")
    @classmethod
    def _name_or_function(cls, policy: Any) -> Any:
        if isinstance(policy, str) or callable(policy):
            return policy
        raise ValueError("a policy's name, or a function (offers, demand) -> offer")


class TimeModel(Table):
    """Where a modelled step's time comes from.

    `profile`: measured kernels, `path` their folder. `silicon`: the kernel tables of aiconfigurator-core, measured in
    the engine `backend`. `calibrated`: a fit to step records, `path` its JSON file. A relative path counts from the
    scenario file.
    """

    kind: Literal["roofline", "profile", "silicon", "calibrated"] = "roofline"
    path: str | None = Field(None, description="profile: a folder; calibrated: a file")
    backend: Literal["vllm", "sglang", "trtllm"] = Field("vllm", description="silicon: the engine that was measured")
    fp8: Literal["fp8", "fp8_block"] = Field("fp8", description="silicon: FP8 weights scaled by tensor or by block")
    expert_parallel: bool = Field(False, description="experts whole on each GPU instead of each split among all")

    @model_validator(mode="after")
    def _path_where_it_is_needed(self) -> Self:
        needs = self.kind in ("profile", "calibrated")
        if needs and not self.path:
            raise ValueError(f'time_model.kind = "{self.kind}" needs time_model.path')
        if self.expert_parallel and needs:
            raise ValueError(f'time_model.expert_parallel is for the kinds roofline and silicon, not "{self.kind}"')
        if self.path and not needs:
            raise ValueError(f'time_model.path is for the kinds profile and calibrated, not "{self.kind}"')
        return self

    def beside(self, folder: Path) -> TimeModel:
        """The same with a path that counts from `folder`."""
        return self if self.path is None else self.model_copy(update={"path": str(folder / self.path)})


class ScaleStep(Table):
    """From some time on a deployment is to have another number of replicas."""

    deployment: str | None = Field(None, description="the first deployment where none is named")
    at_s: Seconds = Field(description="counted from the start of the workload")
    replicas: PositiveInt = Field(le=MAX_REPLICAS)


def _one_too(schema: JsonDict) -> None:
    """To editors: a single `[workload]` table will do."""
    several = {key: schema.pop(key) for key in ("type", "items")}
    schema["anyOf"] = [several["items"], several]


class Scenario(Table):
    """What to serve, where, and who asks for it."""

    name: str = "scenario"
    description: str = ""
    seed: NonNegativeInt = 0
    cluster: Cluster = Cluster()
    deployment: tuple[Deployment, ...] = Field(min_length=1)
    workload: tuple[WorkloadConfig, ...] = Field((), json_schema_extra=_one_too)
    scale: tuple[ScaleStep, ...] = ()
    routing: Routing = Routing()
    placement: Placing = Placing()
    time_model: TimeModel = TimeModel()
    slo: str | Slo | None = Field(None, description="a preset's name or a table of limits in ms")
    stop_after_s: PositiveSeconds | None = Field(None, description="give up what is unfinished at this time")

    @field_validator("workload", mode="before")
    @classmethod
    def _one_or_many(cls, given: Any) -> Any:
        return [given] if isinstance(given, dict) else given

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        names = [deployment.name for deployment in self.deployment]
        if len(set(names)) < len(names):
            raise ValueError(f"each deployment needs a name of its own; given: {', '.join(names)}")
        for deployment in self.deployment:
            fallback = deployment.serving.fallback
            if fallback is not None and (fallback not in names or fallback == deployment.name):
                raise ValueError(f"deployment {deployment.name!r}: fallback {fallback!r} is not another deployment")
        for load in self.workload:
            if load.deployment is not None and load.deployment not in names:
                raise ValueError(f"workload.deployment {load.deployment!r} is none of: {', '.join(names)}")
        for step in self.scale:
            if step.deployment is not None and step.deployment not in names:
                raise ValueError(f"scale.deployment {step.deployment!r} is none of: {', '.join(names)}")
        return self

    def target(self, load: WorkloadConfig | ScaleStep) -> Deployment:
        """The deployment that a workload addresses or a step resizes: the first one where it does not say."""
        return next((d for d in self.deployment if d.name == load.deployment), self.deployment[0])
