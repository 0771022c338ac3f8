"""The garbage collector while a run lasts; nothing else may be here."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

# A run makes and drops a dozen small objects a message and hardly a cycle among them; CPython's own 700 would have the
# collector look at the young ones every few requests, to find next to nothing.
YOUNG = 50_000


@contextmanager
def rarely_collected() -> Iterator[None]:
    """Collect cycles less often inside; the setting found is put back."""
    before = gc.get_threshold()
    if gc.isenabled() and before[0] < YOUNG:
        gc.set_threshold(YOUNG, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
