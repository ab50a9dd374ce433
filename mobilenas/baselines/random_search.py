"""Random search of equal time: random networks in the same finalists stage, for as long."""

import random

from mobilenas.cost.budgets import Budgets
from mobilenas.search import SuccessiveHalving
from mobilenas.spaces.base import Arch

_MAX = 1000


def random_search(
    budgets: Budgets, halving: SuccessiveHalving, *, seconds: float
) -> tuple[Arch, int, float]:
    """Return the winner among random networks, how many entered, and the seconds that were spent.

    Networks are taken in as long as all rungs of so many are expected to end within `seconds`.
    """
    settings, recipe = halving.settings, halving.recipe
    # an earlier name: another one would draw other networks
    source = random.Random(f"rival/{halving.seed}")
    halving.reporter.start("random search", _MAX)
    archs: list[Arch] = []
    known, first = halving.entered, settings.compared_at(2, recipe.epochs)[0]
    for index in range(_MAX):
        lost = settings.lost(max(2, index + 1), recipe.epochs)
        if index >= max(2, known) and halving.epoch_seconds * lost > seconds:
            break
        archs.append(budgets.space.arch(budgets.random(source)))
        halving.score(archs[-1], index, 0, first)
    winner = halving.best(archs)
    return archs[winner], len(archs), halving.spent_for(winner)
