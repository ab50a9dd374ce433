"""The cell space, sized for the budgets."""

import math
import random
import statistics
from collections.abc import Sequence
from typing import Any

from mobilenas.core.errors import BudgetError
from mobilenas.cost.budget import Budget
from mobilenas.cost.budgets import Budgets
from mobilenas.spaces.cell.space import CellSpace

LAYERS, CHANNELS = 8, 16
"""Default number of cells and initial channels of the networks."""

_DRAWS = 64
_MAX_CHANNELS = 4096


def cell_space_for(
    budgets: Sequence[Budget],
    *,
    layers: int | None = None,
    channels: int | None = None,
    **options: Any,
) -> CellSpace:
    """Return the cell space of which a typical uniformly drawn arch uses the budgets, if any.

    `options` are other fields of the space. If `channels` is None, it is the even number at which
    the median utilization of drawn archs is nearest to 1.
    """

    def space(channels: int) -> CellSpace:
        depth = LAYERS if layers is None else layers
        return CellSpace(layers=depth, channels=channels, **options)

    def median_utilization(channels: int) -> float:
        """Return the median utilization of archs that are the same at any number of channels."""
        limits, source = Budgets(space(channels), budgets), random.Random(0)
        return statistics.median(
            limits.utilization(limits.space.random(source)) for _ in range(_DRAWS)
        )

    def reachable(channels: int) -> bool:
        try:
            Budgets(space(channels), budgets).check_reachable()
        except BudgetError:
            return False
        return True

    if channels is None and budgets:
        low, high = 1, _MAX_CHANNELS // 2  # halves of channels
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if median_utilization(2 * middle) < 1 else (low, middle)
        candidates = sorted(
            {2 * low, max(2, 2 * low - 2)}, key=lambda n: abs(math.log(median_utilization(n)))
        )
        channels = next(filter(reachable, candidates), min(candidates))
    found = space(CHANNELS if channels is None else channels)
    Budgets(found, budgets).check_reachable()
    return found
