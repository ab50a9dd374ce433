import json
from typing import Any

import pytest

from mobilenas.core.errors import MobileNASError
from mobilenas.core.progress import NullReporter
from mobilenas.core.settings import to_plain
from mobilenas.cost.budgets import Budgets
from mobilenas.data import ImageData, Split
from mobilenas.search import SearchSettings, rank
from mobilenas.search.loop import Searcher
from mobilenas.search.rank import alpha_score, ranking_quality
from mobilenas.train import Recipe
from mobilenas.train.trainer import Evaluation

RECIPE = Recipe(epochs=5, batch_size=16, warmup_epochs=0.0)


@pytest.fixture
def searcher(micro_budgets: Budgets, micro_images: ImageData) -> Searcher:
    settings = SearchSettings(epochs=1, warmup=0, batch_size=16)
    return Searcher(micro_budgets, micro_images, settings, seed=0)


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make the trained, the supernet's and the alphas' scores what a test says."""

    def plant(trained: list[float], shared: list[float], scores: list[float]) -> list[str]:
        given, alpha, events = iter(trained), iter(scores), []

        class Planted:
            def __init__(self, arch: Any, data: ImageData, *_: Any, **__: Any) -> None:
                self.data = data

            def run_epoch(self) -> None:
                events.append("epoch")

            def evaluate(self, split: Split) -> Evaluation:
                assert split is self.data.val
                return Evaluation(top1=next(given), loss=0.0, predictions=None)  # type: ignore[arg-type]

        def supernet(_: Searcher, choices: list[Any], split: Split) -> list[float]:
            assert len(choices) == len(shared)
            return shared

        monkeypatch.setattr(rank, "Trainer", Planted)
        monkeypatch.setattr(rank, "supernet_top1", supernet)
        monkeypatch.setattr(rank, "alpha_score", lambda *_: next(alpha))
        return events

    return plant


def test_correlations_and_regret_of_planted_numbers(searcher: Searcher, plant: Any) -> None:
    events = plant([10.0, 40.0, 30.0, 20.0], [1.0, 4.0, 3.0, 2.0], [4.0, 1.0, 2.0, 3.0])
    quality = ranking_quality(searcher, 4, RECIPE, 2, NullReporter())
    assert to_plain(quality.supernet) == pytest.approx(
        {"spearman": 1.0, "kendall": 1.0, "regret": 0.0, "pick_over_mean": 15.0}
    )
    assert to_plain(quality.alphas) == pytest.approx(
        {"spearman": -1.0, "kendall": -1.0, "regret": 30.0, "pick_over_mean": -15.0}
    )
    assert (quality.networks, quality.epochs) == (4, 2)
    assert len(events) == 4 * 2  # of the recipe's five
    assert quality.trained_top1 == [10.0, 40.0, 30.0, 20.0]


def test_one_swapped_pair_of_three(searcher: Searcher, plant: Any) -> None:
    plant([1.0, 2.0, 3.0], [1.0, 3.0, 2.0], [1.0, 2.0, 3.0])
    quality = ranking_quality(searcher, 3, RECIPE, 1, NullReporter())
    assert to_plain(quality.supernet) == pytest.approx(
        {"spearman": 0.5, "kendall": 1 / 3, "regret": 1.0, "pick_over_mean": 0.0}
    )


def test_scores_that_are_all_equal_agree_with_nothing(searcher: Searcher, plant: Any) -> None:
    plant([1.0, 2.0, 3.0], [20.0, 20.0, 20.0], [0.0, 0.0, 0.0])
    quality = ranking_quality(searcher, 3, RECIPE, 1, NullReporter())
    assert quality.supernet.spearman == quality.alphas.kendall == 0
    json.dumps(to_plain(quality), allow_nan=False)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_fewer_than_three_are_refused(searcher: Searcher, count: int) -> None:
    with pytest.raises(MobileNASError, match=f"3 networks or more, not {count}"):
        ranking_quality(searcher, count, RECIPE, 1, NullReporter())


def test_the_likeliest_network_has_the_best_alpha_score(searcher: Searcher) -> None:
    searcher.run_epoch()
    likeliest = searcher.alphas.likeliest()
    best = alpha_score(searcher, likeliest)
    others = {searcher.budgets.space.smallest(), searcher.budgets.space.largest()} - {likeliest}
    assert all(alpha_score(searcher, other) < best for other in others)


def test_a_ranking_of_true_trainings_is_whole(searcher: Searcher) -> None:
    searcher.run_epoch()
    short = Recipe(epochs=1, batch_size=16, warmup_epochs=0.0, learning_rate=0.05)
    quality = ranking_quality(searcher, 3, short, 1, NullReporter())
    assert len(quality.supernet_top1) == len(quality.trained_top1) == 3
    assert quality.supernet.regret >= 0
    json.dumps(to_plain(quality), allow_nan=False)
