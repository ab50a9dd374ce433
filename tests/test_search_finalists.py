import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilenas.cost.budget import Budgets
from mobilenas.data import ImageData, Split
from mobilenas.progress import Silent
from mobilenas.search import FinalistSettings, SuccessiveHalving, finalists
from mobilenas.spaces import MobileArch
from mobilenas.train import Recipe, trainer
from mobilenas.train.trainer import Evaluation

RECIPE = Recipe(epochs=5, batch_size=16, learning_rate=0.05, warmup_epochs=2.0)
SETTINGS = FinalistSettings(count=6, epochs=2)


class StubTrainer:
    """An arch's top-1 is given; counts what is asked of it."""

    top1: dict[MobileArch, list[float]]
    epochs: list[MobileArch]

    def __init__(
        self, arch: MobileArch, data: ImageData, recipe: Recipe, *, seed: int, device: str
    ) -> None:
        self.arch, self.data, self.done = arch, data, 0
        assert recipe == SETTINGS.recipe(RECIPE)
        assert (seed, device) == (7, "cpu")

    def run_epoch(self) -> None:
        self.epochs.append(self.arch)
        self.done += 1

    def evaluate(self, split: Split) -> Evaluation:
        assert split is self.data.val
        rung = self.done // SETTINGS.epochs - 1
        return Evaluation(top1=self.top1[self.arch][rung], loss=0.0, predictions=None)  # type: ignore[arg-type]

    def state_dict(self) -> dict[str, Any]:
        return {"done": self.done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.done = state["done"]


@pytest.fixture
def archs(tiny_budgets: Budgets) -> list[MobileArch]:
    source = random.Random(1)
    distinct = {tiny_budgets.space.arch(tiny_budgets.random(source)): None for _ in range(12)}
    return list(distinct)[:6]


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch, archs: list[MobileArch]) -> type[StubTrainer]:
    StubTrainer.epochs = []
    StubTrainer.top1 = {arch: [50.0 + 10 * (index == 4)] * 3 for index, arch in enumerate(archs)}
    monkeypatch.setattr(finalists, "Trainer", StubTrainer)
    return StubTrainer


def halving(
    data: ImageData, folder: Path, reporter: Any = None, settings: FinalistSettings = SETTINGS
) -> SuccessiveHalving:
    return SuccessiveHalving(
        data,
        settings,
        RECIPE,
        checkpoint=folder / "finalists.pt",
        seed=7,
        device="cpu",
        reporter=reporter or Silent(),
    )


@given(st.integers(2, 1000), st.integers(1, 50))
def test_rungs_go_from_all_to_two_and_never_grow(count: int, epochs: int) -> None:
    rungs = FinalistSettings(count=count, epochs=epochs).rungs(count)
    assert rungs[0] == count
    assert rungs[-1] == 2
    assert rungs == sorted(rungs, reverse=True)


@given(st.integers(1, 300), st.floats(0, 1))
def test_the_finalists_recipe_is_of_the_final_ones_kind_and_lasts_all_rungs(
    epochs: int, warmup: float
) -> None:
    recipe = Recipe(epochs=9, batch_size=16, warmup_epochs=9 * warmup, weight_decay=0.01)
    settings = FinalistSettings(count=4, epochs=epochs)
    short = settings.recipe(recipe)
    assert short.epochs >= epochs * max(len(settings.rungs(count)) for count in range(2, 50))
    assert short.warmup_epochs <= recipe.warmup_epochs
    assert short.weight_decay == 0.01


def test_the_best_on_validation_images_wins(
    micro_images: ImageData, tmp_path: Path, stub: type[StubTrainer], archs: list[MobileArch]
) -> None:
    round_ = halving(micro_images, tmp_path)
    assert round_.best(archs) == 4
    rungs = SETTINGS.rungs(6)
    assert len(round_.scores) == sum(rungs)
    assert len(stub.epochs) == SETTINGS.epochs * sum(rungs)
    # every arch in the first rung, and the winner in all of them
    assert set(stub.epochs[: 6 * SETTINGS.epochs]) == set(archs)
    assert stub.epochs.count(archs[4]) == SETTINGS.epochs * len(rungs)


def test_an_arch_that_falls_behind_later_loses(
    micro_images: ImageData, tmp_path: Path, stub: type[StubTrainer], archs: list[MobileArch]
) -> None:
    stub.top1 = {arch: [10.0 - index] * 3 for index, arch in enumerate(archs)}
    stub.top1[archs[1]] = [9.0, 99.0, 99.0]
    assert halving(micro_images, tmp_path).best(archs) == 1


def test_a_tie_goes_to_the_first(
    micro_images: ImageData, tmp_path: Path, stub: type[StubTrainer], archs: list[MobileArch]
) -> None:
    stub.top1 = dict.fromkeys(archs, [50.0] * 3)
    assert halving(micro_images, tmp_path).best(archs) == 0


@pytest.mark.parametrize("killed_after", [1, 5, 6, 7])
def test_a_killed_round_goes_on_without_training_again(
    micro_images: ImageData,
    tmp_path: Path,
    stub: type[StubTrainer],
    archs: list[MobileArch],
    killed_after: int,
) -> None:
    whole = halving(micro_images, tmp_path / "whole")
    winner, epochs = whole.best(archs), len(stub.epochs)

    class Kill(Silent):
        def step(self, done: int, figures: dict[str, str]) -> None:
            if done == killed_after:
                raise KeyboardInterrupt

    stub.epochs.clear()
    with pytest.raises(KeyboardInterrupt):
        halving(micro_images, tmp_path, Kill()).best(archs)
    assert len(stub.epochs) == SETTINGS.epochs * killed_after
    resumed = halving(micro_images, tmp_path)
    before = resumed.seconds
    assert resumed.best(archs) == winner
    assert len(stub.epochs) == epochs
    assert resumed.scores == whole.scores
    assert resumed.seconds > before > 0
    assert halving(micro_images, tmp_path).best(archs) == winner
    assert len(stub.epochs) == epochs


def test_training_images_train_and_validation_images_compare(
    micro_images: ImageData,
    micro_budgets: Budgets,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []
    plain = trainer.batches

    def spy(split: Split, *given: Any, **more: Any) -> Any:
        seen.append((split, more["seed"] is not None))
        return plain(split, *given, **more)

    monkeypatch.setattr(trainer, "batches", spy)
    source = random.Random(0)
    archs = [micro_budgets.space.arch(micro_budgets.random(source)) for _ in range(2)]
    settings = FinalistSettings(count=2, epochs=1)
    round_ = halving(micro_images, tmp_path, settings=settings)
    winner = round_.best(archs)
    assert {split is micro_images.train for split, trains in seen if trains} == {True}
    assert {split is micro_images.val for split, trains in seen if not trains} == {True}
    final = len(settings.rungs(2)) - 1
    last = {r["arch"]: r["val_top1"] for r in round_.scores if r["rung"] == final}
    assert last[winner] == max(last.values())
