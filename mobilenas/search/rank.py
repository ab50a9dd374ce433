"""How well a supernet ranks networks, compared with training each of them."""

import random

from scipy.stats import kendalltau, spearmanr

from mobilenas.core.errors import MobileNASError
from mobilenas.core.progress import Reporter
from mobilenas.search.evaluation import supernet_top1
from mobilenas.search.loop import Searcher
from mobilenas.search.records import Agreement, RankRecord
from mobilenas.search.settings import MIN_RANKED
from mobilenas.spaces.base import AnyChoice
from mobilenas.spaces.cell.space import LEFT_OUT
from mobilenas.train import Recipe, Trainer


def ranking_quality(
    searcher: Searcher, count: int, recipe: Recipe, epochs: int, reporter: Reporter
) -> RankRecord:
    """Return correlations and regret over `count` random networks after `epochs` of the recipe.

    The regret is the best trained top-1 minus that of the network that the supernet ranks first.
    """
    if count < MIN_RANKED:
        raise MobileNASError(f"a ranking needs {MIN_RANKED} networks or more, not {count}")
    source = random.Random(searcher.seed)
    choices = [searcher.budgets.random(source) for _ in range(count)]
    shared = supernet_top1(searcher, choices, searcher.data.val)
    scores = [alpha_score(searcher, choice) for choice in choices]
    reporter.start("ranking", count)
    trained = list[float]()
    for choice in choices:
        arch = searcher.budgets.space.arch(choice)
        trainer = Trainer(
            arch,
            searcher.data,
            recipe,
            seed=searcher.seed,
            device=searcher.device,
            reporter=None if trained else reporter,
        )
        for _ in range(epochs):
            trainer.run_epoch()
        trained.append(trainer.evaluate(searcher.data.val).top1)
        reporter.step(len(trained), {"val top-1": f"{trained[-1]:.1f} %"})
    return RankRecord(
        networks=count,
        epochs=epochs,
        supernet=_agreement(shared, trained),
        alphas=_agreement(scores, trained),
        supernet_top1=shared,
        alpha_score=scores,
        trained_top1=trained,
    )


def alpha_score(searcher: Searcher, choice: AnyChoice) -> float:
    """Return the log probability of a choice, summed over decisions; in cells, over kept edges."""
    total = 0.0
    for name, rows in searcher.alphas.scores().items():
        for row, option in zip(rows, getattr(choice, name), strict=True):
            total += float(row[int(option)]) if option != LEFT_OUT else 0.0
    return total


def _agreement(guess: list[float], truth: list[float]) -> Agreement:
    pick = max(range(len(guess)), key=guess.__getitem__)
    # equal scores rank nothing: scipy returns nan, which JSON does not have
    ranked = min(guess) < max(guess) and min(truth) < max(truth)
    return Agreement(
        spearman=float(spearmanr(guess, truth).statistic) if ranked else 0.0,
        kendall=float(kendalltau(guess, truth).statistic) if ranked else 0.0,
        regret=max(truth) - truth[pick],
        pick_over_mean=truth[pick] - sum(truth) / len(truth),
    )
