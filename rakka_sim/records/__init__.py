"""The event log: what happened in a run, one record per request and per step; no statistics may be in here."""

from __future__ import annotations

from rakka_sim.records.entry import ReplicaFacts, ReplicaPart, RequestRecord
from rakka_sim.records.log import EventLog

__all__ = ["EventLog", "ReplicaFacts", "ReplicaPart", "RequestRecord"]
