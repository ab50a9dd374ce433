"""New channel sizes from the metric's changes, and their projection onto a budget.

The proposal is that of CONetV2 (Wang et al. 2021, arXiv 2110.06830), "with simulated annealing
inspired stochasticity", as the authors' published code has it. It is not a Metropolis step: no
proposal is taken back. Chance only adds to a group's change, always upward, and does so more often
and more strongly where the metric moves much and while the search is hot.

Here sizes are rounded to multiples of 8, not of 2, and every proposal is projected onto the budget.
"""

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mobilenas.config import format_count
from mobilenas.errors import BudgetError, MobileNASError

Sizes = Mapping[str, int]
"""Channels of every group, by the group's name."""
Cost = Callable[[Sizes], float]
"""What sizes cost; it should not fall when a size grows."""

HOTTEST = 5.0
"""Temperature of the first trial (CONetV2)."""
_LEAST, _MOST = 0.5, 2.0  # factors of one trial
_HALVINGS = 30


@dataclass(frozen=True, kw_only=True)
class SizeRange:
    """The legal sizes of one group: the multiples of `step` from `low` to `high`."""

    low: int
    """Sizes under it are not legal."""
    high: int
    """Sizes over it are not legal."""
    step: int = 8
    """8, or what the group's convolutions need: a multiple of their number of groups."""

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
        """Return the nearest legal size, the larger of two."""
        return self._clip(math.floor(size / self.step + 0.5))

    def under(self, size: float) -> int:
        """Return the largest legal size that is not over `size`, or the smallest one."""
        return self._clip(math.floor(size / self.step))

    def _clip(self, steps: int) -> int:
        return min(max(steps * self.step, self.smallest), self.largest)


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """What one trial proposes."""

    sizes: dict[str, int]
    """Legal sizes of every group; no budget is known here."""
    pushed: tuple[str, ...]
    """The groups whose change was pushed upward by chance."""


def temperature(trial: int, trials: int) -> float:
    """Return T_t = 5 (N - t) / N of trial t = 0 .. N - 1."""
    return HOTTEST * max(trials - trial, 0) / trials


def push_probability(change: float, heat: float) -> float:
    """Return exp(-1 / (|D| T)): 0 where the metric stands still or the search is cold."""
    moved = abs(change) * heat
    return math.exp(-1 / moved) if moved > 0 else 0.0


def propose(
    sizes: Sizes,
    changes: Mapping[str, float],
    ranges: Mapping[str, SizeRange],
    *,
    delta: float,
    heat: float,
    source: random.Random,
) -> Proposal:
    """Return C' = C clip(1 + delta D, 0.5, 2) of every group, rounded to a legal size.

    With p = exp(-1 / (|D| T)), D becomes D + p with probability p, drawn for each group. `greedy`
    is the same with heat T = 0. Each group takes one number from the source, whatever its D.
    """
    proposed, pushed = {}, []
    for name, size in sizes.items():
        change = changes[name]
        probability = push_probability(change, heat)
        if source.random() < probability:
            change += probability
            pushed.append(name)
        factor = min(max(1 + delta * change, _LEAST), _MOST)
        proposed[name] = ranges[name].nearest(size * factor)
    return Proposal(sizes=proposed, pushed=tuple(pushed))


def project(
    sizes: Sizes,
    ranges: Mapping[str, SizeRange],
    cost: Cost,
    limit: float,
    priority: Mapping[str, float],
) -> dict[str, int]:
    """Return legal sizes that cost at most `limit`, none larger than was proposed.

    Sizes that fit only become legal. Others are scaled by the largest common factor that fits,
    rounded down, and what is left is given back in steps to the groups first in `priority` (see
    `fill`), so that no group could take one more step towards its proposal. Raises a BudgetError
    that names the smallest cost if even the smallest sizes are over the limit.
    """
    wanted = {name: ranges[name].nearest(size) for name, size in sizes.items()}
    if cost(wanted) <= limit:
        return wanted
    scaled = scale_back(wanted, ranges, cost, limit)
    return fill(scaled, wanted, ranges, cost, limit, priority)


def scale_back(
    sizes: Sizes, ranges: Mapping[str, SizeRange], cost: Cost, limit: float
) -> dict[str, int]:
    """Return the sizes times the largest common factor up to 1 with which they fit the limit.

    Each is rounded down to a legal size, and none falls under its smallest. The factor is found by
    halving, to 1e-9. What is returned was itself seen to fit, even if the cost is not monotone.
    """

    def scaled(factor: float) -> dict[str, int]:
        return {name: ranges[name].under(factor * size) for name, size in sizes.items()}

    fits, over = 0.0, 1.0
    least = cost(scaled(fits))
    if least > limit:
        raise BudgetError(
            f"no channel sizes keep the budget of {format_count(limit)}: "
            f"the smallest cost {format_count(least)}"
        )
    if cost(scaled(over)) <= limit:
        return scaled(over)
    for _ in range(_HALVINGS):
        middle = (fits + over) / 2
        if cost(scaled(middle)) <= limit:
            fits = middle
        else:
            over = middle
    return scaled(fits)


def fill(
    sizes: Sizes,
    most: Sizes,
    ranges: Mapping[str, SizeRange],
    cost: Cost,
    limit: float,
    priority: Mapping[str, float],
) -> dict[str, int]:
    """Return the sizes grown in steps, up to `most`, until no step of any group fits.

    Groups take turns, one step each, so that proportions last: the highest priority first, and
    among equals the one with the largest part of its `most` missing. A step that does not fit now
    will not fit later, so its group is done.
    """
    filled = dict(sizes)
    waiting = sorted(filled, key=lambda name: (-priority[name], filled[name] / most[name]))
    while waiting:
        served = []
        for name in waiting:
            grown = {**filled, name: filled[name] + ranges[name].step}
            if grown[name] <= min(most[name], ranges[name].largest) and cost(grown) <= limit:
                filled = grown
                served.append(name)
        waiting = served
    return filled
