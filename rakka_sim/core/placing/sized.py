"""All sets of one size of a machine's GPUs with their costs, cheapest first; what a set leaves over is not here."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rakka_sim.hardware.subsets import Array


class Sized:
    """The sets of one size: masks in order of their ordinals, and costs, of which some may be lower bounds so far."""

    __slots__ = ("_settle", "_sure", "costs", "masks")

    def __init__(self, masks: Array, costs: Array, sure: Array, settle: Callable[[Array], Array]) -> None:
        self.masks, self.costs, self._settle = masks, costs, settle
        self._sure = None if sure.all() else sure

    def cheapest(self, among: Array | slice) -> tuple[float, Array]:
        """The least cost of those (at least one, as numpy indexes them), and all sets of that cost.

        Only what could be cheapest is worked out: not what costs more at the very least.
        """
        masks, costs = self.masks[among], self.costs[among]
        least = costs.min()
        if self._sure is None:
            return float(least), masks[costs == least]
        places = np.arange(len(self.masks))[among]
        while True:
            costs = self.costs[places]
            first = places[costs == costs.min()]
            unsure = first[~self._sure[first]]
            if not len(unsure):
                return float(costs.min()), self.masks[first]
            self.costs[unsure] = self._settle(self.masks[unsure])
            self._sure[unsure] = True
