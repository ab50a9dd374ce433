"""New channel sizes from the metric's changes.

The proposal is that of CONetV2 (Wang et al. 2021, arXiv 2110.06830), "with simulated annealing
inspired stochasticity", as the authors' published code has it. It is not a Metropolis step; that
the search takes worse trials back (search.py) is added to it. Chance only adds to a group's
change, always upward, and does so more often and more strongly where the metric moves much and
while the search is hot.

Here proposals are proportions, which the budget scales to sizes (cost/projection.py).
"""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from mobilenas.cost.projection import SizeRange, Sizes

HOTTEST = 5.0
"""Temperature of the first trial (CONetV2)."""
_MIN, _MAX = 0.5, 2.0  # factors of one trial


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """What one trial proposes."""

    proportions: dict[str, float]
    """Wanted sizes of every group, neither rounded nor held to a budget."""
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
    proportions: Mapping[str, float],
    changes: Mapping[str, float],
    *,
    delta: float,
    heat: float,
    source: random.Random,
) -> Proposal:
    """Return C' = C clip(1 + delta D, 0.5, 2) of every group.

    With p = exp(-1 / (|D| T)), D becomes D + p with probability p, drawn for each group. `greedy`
    is the same with heat T = 0. Each group takes one number from the source, whatever its D.
    """
    proposed, pushed = {}, []
    for name, size in proportions.items():
        change = changes[name]
        probability = push_probability(change, heat)
        if source.random() < probability:
            change += probability
            pushed.append(name)
        proposed[name] = size * min(max(1 + delta * change, _MIN), _MAX)
    return Proposal(proportions=proposed, pushed=tuple(pushed))


def remainder(
    proportions: Mapping[str, float], sizes: Sizes, ranges: Mapping[str, SizeRange]
) -> dict[str, float]:
    """Return the proportions scaled to the sizes made of them, each within half a step of its size.

    Sizes are rounded to multiples of 8: what a small group was to change by is not lost so, but
    adds up over the trials.
    """
    scale = math.exp(fmean(math.log(size / proportions[name]) for name, size in sizes.items()))
    return {
        name: min(
            max(scale * proportions[name], size - ranges[name].step / 2),
            size + ranges[name].step / 2,
        )
        for name, size in sizes.items()
    }
