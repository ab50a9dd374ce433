"""New channel sizes from the metric's changes.

The proposal is that of CONetV2 (Wang et al. 2021, arXiv 2110.06830), "with simulated annealing
inspired stochasticity", as the authors' published code has it. It is not a Metropolis step: no
proposal is taken back. Chance only adds to a group's change, always upward, and does so more often
and more strongly where the metric moves much and while the search is hot.

Here sizes are rounded to multiples of 8, not of 2, and every proposal is projected onto the budget.
"""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass

from mobilenas.spaces.widths import SizeRange, Sizes

HOTTEST = 5.0
"""Temperature of the first trial (CONetV2)."""
_LEAST, _MOST = 0.5, 2.0  # factors of one trial


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
