"""What the placement of the whole cluster receives, and what it tells of losses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rakka_sim.values import PlacementConstraints, value

if TYPE_CHECKING:
    from rakka_sim.config.deployment import Deployment
    from rakka_sim.runtime.api import Ref


@value
class Place:
    """Find a place for every replica; answered by a `PlacementResult` or a `PlacementError`.

    `constraints` narrow the cluster that the placement was started with.
    """

    deployment: Deployment
    reply_to: Ref[Any] | None = None
    constraints: PlacementConstraints | None = None


@value
class Resize:
    """Place what a placed deployment lacks of the replicas that it says now (`missing`: these of them); nothing moves.

    Answered like `Place`; a refusal leaves everything as it is. With `partial`, as many of the missing replicas as find
    a place are placed; it is a refusal only if none does. Replicas beyond what it says stay until they are released:
    only who has drained them knows when nothing runs there any more.
    """

    deployment: Deployment
    reply_to: Ref[Any] | None = None
    partial: bool = False
    missing: tuple[int, ...] | None = None


@value
class Release:
    """The deployment has gone, or these `replicas` of it; their GPUs are free. Answered by `Released` or an error."""

    deployment: str
    reply_to: Ref[Any] | None = None
    replicas: tuple[int, ...] | None = None


@value
class Released:
    """The answer to `Release`."""

    deployment: str


@value
class GetPlacements:
    """Answered by a tuple of `PlacementResult`, in order of their placement."""

    reply_to: Ref[Any] | None = None


@value
class NodeLost:
    """A node has failed, with all that is on it. Answered by this message, or by `UnknownNode`."""

    node: str
    reply_to: Ref[Any] | None = None


@value
class NodeReturned:
    """A node that had failed is back, empty. Answered like `NodeLost`."""

    node: str
    reply_to: Ref[Any] | None = None


@value
class TellLosses:
    """From now on `to` is told of `ReplicasLost` and `RoomAgain`."""

    to: Ref[Any]


@value
class ReplicasLost:
    """A node went, and these replicas of the deployment with it."""

    deployment: str
    replicas: tuple[int, ...]


@value
class RoomAgain:
    """A node is back, and empty: what found no place may find one now."""

    node: str
