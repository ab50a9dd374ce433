"""Channel sizes for a budget: the largest of given proportions that meet it."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mobilenas.core.errors import BudgetError, MobileNASError
from mobilenas.core.settings import format_count

Sizes = Mapping[str, int]
"""Channels of groups, by the group's name."""
ALIGNED = 8
"""Sizes are multiples of this."""
Cost = Callable[[Sizes], float]
"""Cost of sizes; should not decrease when a size grows."""

_HALVINGS = 30
_TINY = 1e-9  # so that rounding does not keep the largest factor from reaching the largest size


@dataclass(frozen=True, kw_only=True)
class SizeRange:
    """The legal sizes of one group: the multiples of `step` from `low` to `high`."""

    low: int
    """Lower bound of legal sizes."""
    high: int
    """Upper bound of legal sizes."""
    step: int = ALIGNED
    """8, or a multiple of the number of groups of grouped convolutions."""

    def __post_init__(self) -> None:
        """Check that there is a legal size."""
        if self.step < 1 or self.low < 1 or self.smallest > self.largest:
            raise MobileNASError(
                f"no multiple of {self.step} lies between {self.low} and {self.high}"
            )

    @property
    def smallest(self) -> int:
        """The smallest legal size."""
        return -(-self.low // self.step) * self.step

    @property
    def largest(self) -> int:
        """The largest legal size."""
        return self.high // self.step * self.step

    def nearest(self, size: float) -> int:
        """Return the nearest legal size; of two equally near, the larger."""
        return self._clip(math.floor(size / self.step + 0.5))

    def under(self, size: float) -> int:
        """Return the largest legal size up to `size`, or else the smallest legal one."""
        return self._clip(math.floor(size / self.step))

    def _clip(self, steps: int) -> int:
        return min(max(steps * self.step, self.smallest), self.largest)


def scale_to_limit(
    sizes: Mapping[str, float],
    ranges: Mapping[str, SizeRange],
    cost: Cost,
    limit: float,
    priority: Mapping[str, float] | None = None,
) -> dict[str, int]:
    """Return legal sizes in these proportions, scaled up or down to use the limit.

    What is left of the limit goes to single groups, those with the highest `priority` first.
    """
    upper = max(legal.largest / sizes[name] for name, legal in ranges.items())
    enlarged = {name: (1 + _TINY) * upper * size for name, size in sizes.items()}
    scaled = scale_back(enlarged, ranges, cost, limit)
    largest = {name: legal.largest for name, legal in ranges.items()}
    return fill(scaled, largest, ranges, cost, limit, priority or dict.fromkeys(sizes, 0.0))


def scale_back(
    sizes: Mapping[str, float], ranges: Mapping[str, SizeRange], cost: Cost, limit: float
) -> dict[str, int]:
    """Return the sizes times the largest common factor, at most 1, that meets the limit.

    Each is rounded down to a legal size, at least its smallest. The factor is found by bisection,
    to 1e-9. The result is known to meet the limit even if the cost is not monotone.
    """

    def scaled(factor: float) -> dict[str, int]:
        return {name: ranges[name].under(factor * size) for name, size in sizes.items()}

    low, high = 0.0, 1.0
    minimum = cost(scaled(low))
    if minimum > limit:
        raise BudgetError(
            f"no channel sizes meet the budget of {format_count(limit)}: "
            f"the smallest cost {format_count(minimum)}"
        )
    if cost(scaled(high)) <= limit:
        return scaled(high)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if cost(scaled(middle)) <= limit:
            low = middle
        else:
            high = middle
    return scaled(low)


def fill(
    sizes: Sizes,
    upper: Sizes,
    ranges: Mapping[str, SizeRange],
    cost: Cost,
    limit: float,
    priority: Mapping[str, float],
) -> dict[str, int]:
    """Return the sizes, grown in steps up to `upper` until no step of any group fits.

    Groups take turns, one step each, to keep proportions: the highest priority first, among equals
    the one furthest below its `upper`. A step that does not fit now will not fit later, so its
    group is done.
    """
    filled = dict(sizes)
    growing = sorted(filled, key=lambda name: (-priority[name], filled[name] / upper[name]))
    while growing:
        grew = []
        for name in growing:
            grown = {**filled, name: filled[name] + ranges[name].step}
            if grown[name] <= min(upper[name], ranges[name].largest) and cost(grown) <= limit:
                filled = grown
                grew.append(name)
        growing = grew
    return filled
