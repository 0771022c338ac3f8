"""Who an engine is; what it does may not be here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rakka_sim.runtime.api import Ref

if TYPE_CHECKING:
    from rakka_sim.config.deployment import Serving


@dataclass(frozen=True, slots=True)
class Identity:
    """Which replica an engine is, and whom it reports to."""

    deployment: str
    replica: int
    log_index: int
    serving: Serving
    coordinator: Ref[Any]
    manager: Ref[Any]
