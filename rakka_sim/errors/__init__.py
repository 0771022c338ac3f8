"""Every error the package raises, in one tree; nothing but errors may be in this package.

The name says what went wrong and the fields say where, so that a caller never parses a message::

    RakkaError
    |-- InputError                    the user's input: names the place, the value and what is allowed
    |   |-- ScenarioError             a scenario or deployment file
    |   |-- TraceError                a row of a trace
    |   |-- UnknownName               a model, GPU, policy or dataset that no catalogue lists
    |   `-- DatasetMissing            a dataset that is neither on this machine nor fetched yet
    |-- FetchFailed                   a dataset that could not be downloaded whole and unchanged
    |-- NotBuilt                      a part of the design that this version does not have
    |-- NoDevice                      no GPU on this machine, or none that can be seen
    |-- InferenceError                how a request can end other than well
    |   |-- RateLimited, CircuitOpen, ContentFiltered, ContextLengthExceeded, BadRequest, NotFound,
    |   |   Unauthorized, Forbidden, Backpressure, BudgetExceeded, NetworkError, ServerError, Timeout
    |   |-- ContextPoisoned           supervision: restart
    |   |-- OutOfMemory               supervision: resume
    |   |-- Unrecoverable             supervision: stop
    |   `-- Internal
    |-- PlacementError
    |   |-- NoGpuNodes, NoEgressNodes, NotEnoughGpus, NotEnoughDomains, NoSuitableNodes, UnknownPlacement
    |   |-- NodeChanged, PlacementContested, UnknownNode
    |   |-- BadPolicy                 a user's placement policy chose what it was not offered
    |   |-- NoMigStart, MigNoPeers    a slice that does not fit, slices that cannot work as one
    |-- ActorError                    the runtime: who could not be reached, and why
    |   |-- ActorStopped, ActorRestarted, AskTimeout, MailboxFull, Unhandled, NameTaken, Stalled
    |   |-- NotDeterministic          two runs of the same thing differ: which message, and how
    |-- InvariantBroken               a core's ``check()`` failed: a bug in this package
    `-- RunFailed                     a run that ended early: what failed and how far it had come
"""

from __future__ import annotations

from rakka_sim.errors.actors import (
    ActorError,
    ActorRestarted,
    ActorStopped,
    AskTimeout,
    MailboxFull,
    NameTaken,
    NotDeterministic,
    Stalled,
    Unhandled,
)
from rakka_sim.errors.base import InvariantBroken, NotBuilt, RakkaError, RunFailed
from rakka_sim.errors.inputs import (
    DatasetMissing,
    FetchFailed,
    InputError,
    NoDevice,
    ScenarioError,
    TraceError,
    UnknownName,
)
from rakka_sim.errors.placement import (
    BadPolicy,
    MigNoPeers,
    NodeChanged,
    NoEgressNodes,
    NoGpuNodes,
    NoMigStart,
    NoSuitableNodes,
    NotEnoughDomains,
    NotEnoughGpus,
    PlacementContested,
    PlacementError,
    UnknownNode,
    UnknownPlacement,
)
from rakka_sim.errors.requests import (
    Backpressure,
    BadRequest,
    BudgetExceeded,
    CircuitOpen,
    ContentFiltered,
    ContextLengthExceeded,
    ContextPoisoned,
    Forbidden,
    InferenceError,
    Internal,
    NetworkError,
    NotFound,
    OutOfMemory,
    RateLimited,
    ServerError,
    Timeout,
    Unauthorized,
    Unrecoverable,
)

__all__ = [
    "ActorError",
    "ActorRestarted",
    "ActorStopped",
    "AskTimeout",
    "Backpressure",
    "BadPolicy",
    "BadRequest",
    "BudgetExceeded",
    "CircuitOpen",
    "ContentFiltered",
    "ContextLengthExceeded",
    "ContextPoisoned",
    "DatasetMissing",
    "FetchFailed",
    "Forbidden",
    "InferenceError",
    "InputError",
    "Internal",
    "InvariantBroken",
    "MailboxFull",
    "MigNoPeers",
    "NameTaken",
    "NetworkError",
    "NoDevice",
    "NoEgressNodes",
    "NoGpuNodes",
    "NoMigStart",
    "NoSuitableNodes",
    "NodeChanged",
    "NotBuilt",
    "NotDeterministic",
    "NotEnoughDomains",
    "NotEnoughGpus",
    "NotFound",
    "OutOfMemory",
    "PlacementContested",
    "PlacementError",
    "RakkaError",
    "RateLimited",
    "RunFailed",
    "ScenarioError",
    "ServerError",
    "Stalled",
    "Timeout",
    "TraceError",
    "Unauthorized",
    "Unhandled",
    "UnknownName",
    "UnknownNode",
    "UnknownPlacement",
    "Unrecoverable",
]
