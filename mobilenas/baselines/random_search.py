"""Random search of equal time: random networks in the same finalists stage, for as long."""

import random
from pathlib import Path

from mobilenas.core.progress import Reporter
from mobilenas.cost.budgets import Budgets
from mobilenas.data import ImageData
from mobilenas.search import FinalistSettings, SuccessiveHalving
from mobilenas.spaces.base import Arch
from mobilenas.train import Recipe

_MAX = 1000


def random_search(
    budgets: Budgets,
    data: ImageData,
    settings: FinalistSettings,
    recipe: Recipe,
    *,
    seconds: float,
    folder: Path,
    seed: int,
    device: str,
    reporter: Reporter,
) -> tuple[Arch, int, float]:
    """Return the winner among random networks, how many entered, and the seconds that were spent.

    Networks are taken in as long as all rungs of so many are expected to end within `seconds`.
    """
    # an earlier name: another one would draw other networks
    source = random.Random(f"rival/{seed}")
    halving = SuccessiveHalving(
        data,
        settings,
        recipe,
        folder=folder,
        seed=seed,
        device=device,
        reporter=reporter,
    )
    reporter.start("random search", _MAX)
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
