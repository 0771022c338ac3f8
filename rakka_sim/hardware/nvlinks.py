"""From what each GPU says of its own NVLinks to links that both ends agree on; where it was read is not known here."""

from __future__ import annotations

from collections.abc import Mapping

from rakka_sim.hardware.parts import NvLink

# NVML_NVLINK_MAX_LINKS of NVML 13.
MOST_LINKS = 36


def agreed(said: Mapping[tuple[int, int], int]) -> tuple[tuple[NvLink, ...], list[str]]:
    """Links between GPUs, and notes where the ends differ: a link counts if both ends report it.

    `said[a, b]` is how many links GPU a reports to GPU b.
    """
    links, notes = [], []
    for a, b in sorted({(min(pair), max(pair)) for pair in said}):
        here, there = said.get((a, b), 0), said.get((b, a), 0)
        if here != there:
            notes.append(
                f"GPU {a} reports {here} NVLinks to GPU {b}, which reports {there}: {min(here, there)} counted"
            )
        if min(here, there) > 0:
            links.append(NvLink(a, b, min(here, there)))
    return tuple(links), notes
