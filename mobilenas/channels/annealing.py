"""Proposes new channel sizes from changes of the layer metric.

The proposal is that of CONetV2 (Wang et al. 2021, arXiv 2110.06830), "with simulated annealing
inspired stochasticity", as in the authors' published code. It is not a Metropolis step; undoing
worse trials (search.py) is our addition. Chance only increases a group's change, more often and by
more if the metric changes much and while the temperature is high.

Here proposals are proportions, which are scaled to the budget (cost/projection.py).
"""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from mobilenas.cost.projection import SizeRange, Sizes

HOTTEST = 5.0
"""Initial temperature (CONetV2)."""
_MIN, _MAX = 0.5, 2.0  # factors of one trial


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """The proposal of a trial."""

    proportions: dict[str, float]
    """Proposed sizes of all groups, neither rounded nor scaled to the budget."""
    pushed: tuple[str, ...]
    """The groups whose change was increased by chance."""


def temperature(trial: int, trials: int) -> float:
    """Return T_t = 5 (N - t) / N for trial t = 0 .. N - 1."""
    return HOTTEST * max(trials - trial, 0) / trials


def push_probability(change: float, heat: float) -> float:
    """Return exp(-1 / (|D| T)); 0 if change D or temperature T is 0."""
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
    """Return C' = C clip(1 + delta D, 0.5, 2) for every group.

    With p = exp(-1 / (|D| T)), D becomes D + p with probability p, drawn for each group. The
    schedule `greedy` is the case T = 0. Each group takes one number from `source`, whatever its D.
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
    """Return proportions scaled to their rounded sizes, each within half a step of its size.

    So small changes are not lost when sizes are rounded to multiples of 8, but add up over trials.
    """
    scale = math.exp(fmean(math.log(size / proportions[name]) for name, size in sizes.items()))
    return {
        name: min(
            max(scale * proportions[name], size - ranges[name].step / 2),
            size + ranges[name].step / 2,
        )
        for name, size in sizes.items()
    }
