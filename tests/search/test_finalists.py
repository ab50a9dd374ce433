import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilenas.core.files import read_jsonl, write_text
from mobilenas.core.progress import NullReporter
from mobilenas.cost.budgets import Budgets
from mobilenas.data import ImageData, Split
from mobilenas.search import FinalistSettings, SuccessiveHalving, finalists
from mobilenas.spaces.mobile.arch import MobileArch
from mobilenas.train import (
    BEST_WEIGHTS,
    CHECKPOINT,
    LAST_WEIGHTS,
    LOG,
    Recipe,
    train,
    train_part,
    trainer,
)
from mobilenas.train.records import TrainLine

RECIPE = Recipe(epochs=5, batch_size=16, learning_rate=0.05, warmup_epochs=2.0)
SETTINGS = FinalistSettings(count=6, epochs=2)


class Stub:
    """Stands for training: top-1 and loss after each rung are given; counts what is trained."""

    def __init__(self, archs: list[MobileArch]) -> None:
        self.top1 = {arch: [50.0 + 10 * (n == 4)] * 3 for n, arch in enumerate(archs)}
        self.loss = dict.fromkeys(archs, [1.0] * 3)
        self.epochs: list[MobileArch] = []

    def __call__(
        self, epochs: int, arch: MobileArch, data: ImageData, recipe: Recipe, **where: Any
    ) -> list[TrainLine]:
        assert recipe == RECIPE
        assert (where["seed"], where["device"]) == (7, "cpu")
        path = where["folder"] / CHECKPOINT
        done = int(path.read_text()) if path.exists() else 0
        self.epochs += [arch] * (epochs - done)
        write_text(path, str(max(done, epochs)))
        rung = SETTINGS.compared_at(6, RECIPE.epochs).index(epochs)
        loss, top1 = self.loss[arch][rung], self.top1[arch][rung]
        return [TrainLine(epoch=1, loss=loss, val_top1=top1, lr=0.1, seconds=1.0)] * epochs


@pytest.fixture
def archs(tiny_budgets: Budgets) -> list[MobileArch]:
    source = random.Random(1)
    distinct = {tiny_budgets.space.arch(tiny_budgets.random(source)): None for _ in range(12)}
    return list(distinct)[:6]


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch, archs: list[MobileArch]) -> Stub:
    stub = Stub(archs)
    monkeypatch.setattr(finalists, "train_part", stub)
    return stub


def halving(
    data: ImageData, folder: Path, reporter: Any = None, settings: FinalistSettings = SETTINGS
) -> SuccessiveHalving:
    return SuccessiveHalving(
        data,
        settings,
        RECIPE,
        folder=folder,
        seed=7,
        device="cpu",
        reporter=reporter or NullReporter(),
    )


def test_one_finalist_says_why_none_is_compiled(
    tiny_images: ImageData, archs: list[MobileArch], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reporters = []

    def stub(*_: object, reporter: object, **__: object) -> list[TrainLine]:
        reporters.append(reporter)
        return [TrainLine(epoch=1, loss=1.0, val_top1=50.0, lr=0.1, seconds=1.0)]

    monkeypatch.setattr(finalists, "train_part", stub)
    made = halving(tiny_images, tmp_path)
    made.best(archs)
    assert reporters[0] is made.reporter
    assert reporters[1:] == [None] * (len(reporters) - 1)


@given(st.integers(2, 1000), st.integers(1, 50))
def test_rungs_go_from_all_to_two_and_never_grow(count: int, epochs: int) -> None:
    rungs = FinalistSettings(count=count, epochs=epochs).rungs(count)
    assert rungs[0] == count
    assert rungs[-1] == 2
    assert rungs == sorted(rungs, reverse=True)


@given(st.integers(2, 20), st.integers(1, 300), st.integers(1, 100))
def test_the_last_rung_compares_after_a_third_of_the_final_training(
    count: int, final: int, epochs: int
) -> None:
    settings = FinalistSettings(count=count, epochs=epochs)
    ends = settings.compared_at(count, final)
    assert ends == sorted(ends)
    assert ends[0] == min(epochs, final)
    if final > epochs + 1:
        assert ends[-1] == max(epochs + 1, (final + 2) // 3) < final
    else:
        assert ends[-1] == min(epochs, final)


def test_rungs_of_the_efforts_by_hand() -> None:
    quick = FinalistSettings(count=3, epochs=2)
    assert (quick.rungs(3), quick.compared_at(3, 6)) == ([3, 2], [2, 3])
    standard = FinalistSettings(count=4, epochs=3)
    assert (standard.rungs(4), standard.compared_at(4, 15)) == ([4, 2], [3, 5])
    assert standard.discarded_epochs(4, 15) == 2 * 3 + 5  # of two for three epochs, of one for five
    full = FinalistSettings(count=7, epochs=12)
    assert (full.rungs(7), full.compared_at(7, 60)) == ([7, 4, 2], [12, 15, 20])
    assert full.discarded_epochs(7, 60) == 3 * 12 + 2 * 15 + 20


def test_the_best_on_validation_images_wins(
    micro_images: ImageData, tmp_path: Path, stub: Stub, archs: list[MobileArch]
) -> None:
    round_ = halving(micro_images, tmp_path)
    assert round_.best(archs) == 4
    rungs = SETTINGS.rungs(6)
    assert len(round_.scores) == sum(rungs)
    first, last = SETTINGS.compared_at(6, RECIPE.epochs)
    assert len(stub.epochs) == last + SETTINGS.discarded_epochs(6, RECIPE.epochs)
    # every arch in the first rung, and the winner in all of them
    assert set(stub.epochs[: 6 * first]) == set(archs)
    assert stub.epochs.count(archs[4]) == last


def test_an_arch_that_falls_behind_later_loses(
    micro_images: ImageData, tmp_path: Path, stub: Stub, archs: list[MobileArch]
) -> None:
    stub.top1 = {arch: [10.0 - index] * 3 for index, arch in enumerate(archs)}
    stub.top1[archs[1]] = [9.0, 99.0, 99.0]
    assert halving(micro_images, tmp_path).best(archs) == 1


def test_both_measures_count(
    micro_images: ImageData, tmp_path: Path, stub: Stub, archs: list[MobileArch]
) -> None:
    stub.top1 = {arch: [50.0 + index] * 3 for index, arch in enumerate(archs)}
    stub.loss = {arch: [1.0 + index] * 3 for index, arch in enumerate(archs)}
    stub.loss[archs[3]] = [0.5] * 3  # first by loss, third by top-1
    assert halving(micro_images, tmp_path).best(archs) == 3


def test_a_tie_goes_to_the_first(
    micro_images: ImageData, tmp_path: Path, stub: Stub, archs: list[MobileArch]
) -> None:
    stub.top1 = dict.fromkeys(archs, [50.0] * 3)
    assert halving(micro_images, tmp_path).best(archs) == 0


@pytest.mark.parametrize("killed_after", [1, 5, 6, 7])
def test_a_killed_round_goes_on_without_training_again(
    micro_images: ImageData,
    tmp_path: Path,
    stub: Stub,
    archs: list[MobileArch],
    killed_after: int,
) -> None:
    whole = halving(micro_images, tmp_path / "whole")
    winner, epochs = whole.best(archs), len(stub.epochs)

    class Kill(NullReporter):
        def step(self, done: int, figures: dict[str, str]) -> None:
            if done == killed_after:
                raise KeyboardInterrupt

    stub.epochs.clear()
    with pytest.raises(KeyboardInterrupt):
        halving(micro_images, tmp_path, Kill()).best(archs)
    first, last = SETTINGS.compared_at(6, RECIPE.epochs)
    assert len(stub.epochs) == first * min(6, killed_after) + (last - first) * max(
        0, killed_after - 6
    )
    resumed = halving(micro_images, tmp_path)
    assert resumed.entered == min(6, killed_after)
    assert resumed.best(archs) == winner
    assert len(stub.epochs) == epochs
    assert (resumed.scores, resumed.seconds) == (whole.scores, whole.seconds)
    assert halving(micro_images, tmp_path).best(archs) == winner
    assert len(stub.epochs) == epochs


def test_the_winners_epochs_are_not_part_of_what_the_choice_cost(
    micro_images: ImageData, tmp_path: Path, stub: Stub, archs: list[MobileArch]
) -> None:
    round_ = halving(micro_images, tmp_path)
    assert round_.best(archs) == 4
    # six archs see two epochs, a second each; two of them, the winner among these, one more
    assert round_.seconds == 6 * 2 + 2
    assert round_.spent_for(4) == 6 * 2 + 2 - 3 == SETTINGS.discarded_epochs(6, RECIPE.epochs)
    assert round_.spent_for(4) < round_.spent_for(5) == 6 * 2 + 2 - 2
    assert round_.epoch_seconds == 1.0


def test_the_final_training_continues_what_the_winner_has_begun(
    micro_images: ImageData, micro_budgets: Budgets, tmp_path: Path
) -> None:
    source = random.Random(0)
    archs = [micro_budgets.space.arch(micro_budgets.random(source)) for _ in range(2)]
    round_ = halving(micro_images, tmp_path / "rungs", settings=FinalistSettings(count=2, epochs=1))
    winner = round_.best(archs)
    given = {"data": micro_images, "recipe": RECIPE, "seed": 7}
    begun = train(archs[winner], folder=tmp_path / "a", begun=tmp_path / "rungs", **given)
    alone = train(archs[winner], folder=tmp_path / "b", **given)
    assert begun.val_top1 == alone.val_top1
    for name in (BEST_WEIGHTS, LAST_WEIGHTS):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    # its first epochs are those lines of the finalists' log, not trained a second time
    parts = [read_jsonl(tmp_path / f / LOG) for f in ("a", f"rungs/{winner}")]
    assert parts[0][: len(parts[1])] == parts[1]


def test_a_training_that_nobody_has_begun_starts_afresh(
    micro_images: ImageData, micro_budgets: Budgets, tmp_path: Path
) -> None:
    arch = micro_budgets.space.arch(micro_budgets.random(random.Random(0)))
    given = {"data": micro_images, "recipe": RECIPE}
    train_part(1, arch, folder=tmp_path / "begun/0", seed=8, **given)
    train(arch, folder=tmp_path / "a", begun=tmp_path / "begun", seed=7, **given)
    train(arch, folder=tmp_path / "b", seed=7, **given)
    assert (tmp_path / "a" / LAST_WEIGHTS).read_bytes() == (
        tmp_path / "b" / LAST_WEIGHTS
    ).read_bytes()


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
    last = {r.arch: r for r in round_.scores if r.rung == final}
    ours, theirs = last[winner], last[1 - winner]
    assert ours.val_top1 >= theirs.val_top1 or ours.loss < theirs.loss
