"""What the deployment manager receives and answers: wishes, and what becomes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rakka_sim.values import PlacementResult, value

if TYPE_CHECKING:
    from rakka_sim.config.deployment import Deployment
    from rakka_sim.runtime.api import Ref


@value
class Apply:
    """Bring a deployment up, or one that is up to another number of replicas. The last wish that is accepted holds.

    Wishes are decided in the order in which they come: one for which there are not places enough is answered by a
    `PlacementError`, and nothing changes; one with fewer replicas is always accepted, and the highest numbers go. Who
    is accepted is answered by a `DeploymentStatus` as soon as nothing is under way any more: what is wanted is ready,
    what is not has been drained and is gone (who is wanted again while it drains serves on); or when the deployment has
    failed or has been removed. By then a later wish may hold: `wanted` is the number that does. `ready` may be less,
    where replicas were lost or given up; `error` says why.

    If anything but `replicas` differs, the answer is `NotBuilt`, which names the fields. To a deployment that is being
    removed: it is brought up anew when it is gone. To one that lacks replicas, as it is: they are tried again.
    `placed` is told its `DeploymentStatus` too, as soon as it has its places, or has none.
    """

    deployment: Deployment
    reply_to: Ref[Any] | None = None
    placed: Ref[Any] | None = None


@value
class Remove:
    """Drain a deployment and take it down; answered by its last `DeploymentStatus`."""

    name: str
    reply_to: Ref[Any] | None = None


@value
class ListDeployments:
    """Answered by a tuple of `DeploymentStatus`, in order of Apply."""

    reply_to: Ref[Any] | None = None


@value
class GetDeployment:
    """Answered by a `DeploymentStatus`, or by `NotFound`."""

    name: str
    reply_to: Ref[Any] | None = None


@value
class DeploymentStatus:
    """A deployment's state (pending, serving, draining, stopped, failed) and where it runs.

    Of `wanted` replicas so many are `ready`. It is degraded where some were `given_up` (they cannot serve where they
    were, and their GPUs were given back) or find no place; the `error` is the last reason. The others go on.
    """

    name: str
    state: str
    placement: PlacementResult | None = None
    ready: int = 0
    error: Exception | None = None
    wanted: int = 0
    given_up: tuple[int, ...] = ()


@value
class Deregistered:
    """The coordinator's answer to `Deregister`: it has routed so many requests to the replica, and routes no more."""

    deployment: str
    replica: int
    routed: int


@value
class ReplicaReady:
    """An engine can serve: it may be registered."""

    deployment: str
    replica: int
    engine: Ref[Any]


@value
class Stays:
    """An engine's answer to `Stay`: it takes requests again, and may be registered."""

    deployment: str
    engine: Ref[Any]


@value
class Drained:
    """An engine has finished what it had and stops."""

    deployment: str
    replica: int
