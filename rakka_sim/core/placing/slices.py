"""Where a slice goes on a GPU that is cut into slices; which profiles there are is known to the `Slices` given."""

from __future__ import annotations

from rakka_sim.core.placing.sets import Pick
from rakka_sim.core.placing.terms import Place, Slices
from rakka_sim.errors import UnknownName
from rakka_sim.values import MigSlice


def knows(board: Slices, profile: str) -> bool:
    """Whether the GPU has that profile at all."""
    try:
        board.starts(profile)
    except UnknownName:  # another kind of GPU
        return False
    return True


def slice_place(gpu: int, board: Slices, profile: str, pick: Pick) -> Place | None:
    """Where a slice would go on one GPU: where most others stay possible, or as low as can be."""
    if not knows(board, profile) or not (starts := board.starts(profile)):
        return None
    start = min(starts) if pick == "lowest" else board.best_start(profile)
    before, after = len(board.remaining()), len(board.add(profile, start).remaining())
    return Place((gpu,), MigSlice(profile, start), 0.0, after, before - after)
