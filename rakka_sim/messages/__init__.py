"""Every message: a file for each actor that receives, and all names on this page. No behaviour may be here.

Messages are values (`rakka_sim.values.value`). A message that wants an answer has a `reply_to`; what comes back is
named in its docstring. Errors travel as themselves.
"""

from __future__ import annotations

from rakka_sim.messages.coordinator import Deregister, Expect, LeaveRoom, Register, ReportLoad, RouteTo
from rakka_sim.messages.engine import AddRequest, Cancel, Drain, GetLoad, Stay, StepFailed, Stepped, Withdrawn
from rakka_sim.messages.gateway import CancelRequest, RequestEnded, Submit
from rakka_sim.messages.loader import CancelLoad, LoadWeights
from rakka_sim.messages.manager import (
    Apply,
    DeploymentStatus,
    Deregistered,
    Drained,
    GetDeployment,
    ListDeployments,
    Remove,
    ReplicaReady,
    Stays,
)
from rakka_sim.messages.metrics import GetMetrics
from rakka_sim.messages.node_placement import (
    Abort,
    Commit,
    Committed,
    GetQuote,
    ReservationOver,
    Reserve,
    Reserved,
    Vacate,
)
from rakka_sim.messages.placement import (
    GetPlacements,
    NodeLost,
    NodeReturned,
    Place,
    Release,
    Released,
    ReplicasLost,
    Resize,
    RoomAgain,
    TellLosses,
)
from rakka_sim.messages.request import (
    CancelIt,
    DeadlinePassed,
    Finished,
    FrontEndDone,
    Parked,
    Rejected,
    Routed,
    RouteFailed,
    RouteOverdue,
    Scheduled,
)
from rakka_sim.messages.worker import EndRun, Execute, ExecuteNext, WeightsLoaded, WorkerReady

__all__ = [
    "Abort",
    "AddRequest",
    "Apply",
    "Cancel",
    "CancelIt",
    "CancelLoad",
    "CancelRequest",
    "Commit",
    "Committed",
    "DeadlinePassed",
    "DeploymentStatus",
    "Deregister",
    "Deregistered",
    "Drain",
    "Drained",
    "EndRun",
    "Execute",
    "ExecuteNext",
    "Expect",
    "Finished",
    "FrontEndDone",
    "GetDeployment",
    "GetLoad",
    "GetMetrics",
    "GetPlacements",
    "GetQuote",
    "LeaveRoom",
    "ListDeployments",
    "LoadWeights",
    "NodeLost",
    "NodeReturned",
    "Parked",
    "Place",
    "Register",
    "Rejected",
    "Release",
    "Released",
    "Remove",
    "ReplicaReady",
    "ReplicasLost",
    "ReportLoad",
    "RequestEnded",
    "ReservationOver",
    "Reserve",
    "Reserved",
    "Resize",
    "RoomAgain",
    "RouteFailed",
    "RouteOverdue",
    "RouteTo",
    "Routed",
    "Scheduled",
    "Stay",
    "Stays",
    "StepFailed",
    "Stepped",
    "Submit",
    "TellLosses",
    "Vacate",
    "WeightsLoaded",
    "Withdrawn",
    "WorkerReady",
]
