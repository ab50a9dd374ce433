"""Random search of equal time: random networks as finalists, for as long as the search took."""

import random

from mobilenas.cost.budgets import Budgets
from mobilenas.search import SuccessiveHalving
from mobilenas.spaces.base import Arch

_MAX = 1000


def random_search(
    budgets: Budgets, halving: SuccessiveHalving, *, seconds: float
) -> tuple[Arch, int, float]:
    """Return the winner, the number of random networks, and the seconds spent.

    Networks are added as long as all their rungs are expected to finish within `seconds`.
    """
    settings, recipe = halving.settings, halving.recipe
    # "rival" is an earlier name, kept because another seed would draw other networks
    source = random.Random(f"rival/{halving.seed}")
    halving.reporter.start("random search", _MAX)
    archs: list[Arch] = []
    known, first = halving.entered, settings.compared_at(2, recipe.epochs)[0]
    for index in range(_MAX):
        discarded = settings.discarded_epochs(max(2, index + 1), recipe.epochs)
        if index >= max(2, known) and halving.epoch_seconds * discarded > seconds:
            break
        archs.append(budgets.space.arch(budgets.random(source)))
        halving.score(archs[-1], index, 0, first)
    winner = halving.best(archs)
    return archs[winner], len(archs), halving.spent_for(winner)
