"""A scenario: everything a run depends on, in one immutable object; reading files is in `loading`."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, NonNegativeInt, field_validator, model_validator
from pydantic.config import JsonDict

from rakka_sim.config.base import PositiveSeconds, Table
from rakka_sim.config.cluster import Cluster
from rakka_sim.config.deployment import Deployment
from rakka_sim.config.slo import Slo
from rakka_sim.config.workload import WorkloadConfig

MODES = ("simulate", "lockstep", "emulate", "live")
Mode = Literal["simulate", "lockstep", "emulate", "live"]


class Routing(Table):
    """How the coordinator chooses among replicas."""

    policy: str = "least_load"


class Placing(Table):
    """How replicas find their GPUs."""

    policy: str = "exclusive"


class TimeModel(Table):
    """Where a modelled step's time comes from."""

    kind: Literal["roofline"] = "roofline"


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
        return self

    def target(self, load: WorkloadConfig) -> Deployment:
        """The deployment that a workload addresses: the first one where it does not say."""
        return next((d for d in self.deployment if d.name == load.deployment), self.deployment[0])
