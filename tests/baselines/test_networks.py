import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mobilenas.baselines.networks import meets, mobilenets, random_networks, scaled_mobilenet
from mobilenas.baselines.random_search import random_search
from mobilenas.core.errors import BudgetError
from mobilenas.core.files import write_text
from mobilenas.core.progress import NullReporter
from mobilenas.cost.budget import Budget
from mobilenas.cost.budgets import Budgets
from mobilenas.cost.networks import costs
from mobilenas.data import ImageData, Split
from mobilenas.search import FinalistSettings, SuccessiveHalving, finalists
from mobilenas.spaces.mobile.arch import MobileArch
from mobilenas.spaces.mobile.mobilenets import MOBILENETS, PLACEMENTS
from mobilenas.train import CHECKPOINT, Recipe, trainer
from mobilenas.train.records import TrainLine

SIDE, CLASSES = 32, 10
BUDGETS = [
    (Budget(cost="flops", limit=1_000_000),),
    (Budget(cost="params", limit=150_000),),
    (Budget(cost="flops", limit=3_000_000), Budget(cost="memory", limit=60_000)),
]
RECIPE = Recipe(epochs=6, batch_size=16, learning_rate=0.05, warmup_epochs=0.0)


def keeps_all(arch: MobileArch, budgets: tuple[Budget, ...]) -> bool:
    exact = costs(arch)
    return all(getattr(exact, budget.cost) <= budget.limit for budget in budgets)


@pytest.mark.parametrize("budgets", BUDGETS, ids=lambda b: "+".join(x.cost for x in b))
@pytest.mark.parametrize("name", MOBILENETS)
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_the_largest_width_in_hundredths_that_keeps_the_budgets(
    placement: str, name: str, budgets: tuple[Budget, ...]
) -> None:
    def at(hundredths: int) -> MobileArch:
        return MOBILENETS[name](hundredths / 100, SIDE, CLASSES, placement)

    scaled = scaled_mobilenet(name, budgets, SIDE, CLASSES, placement)
    fitting = [step for step in range(1, 301) if keeps_all(at(step), budgets)]
    if not fitting:
        assert scaled is None
        return
    assert scaled is not None
    width, arch = scaled
    step = round(100 * width)
    assert width == step / 100
    assert arch == at(step) == at(fitting[-1])
    assert meets(arch, budgets)
    # the next width that is another network breaks a budget, the one below is another network
    assert not keeps_all(at(fitting[-1] + 1), budgets)
    assert step == 1 or at(step - 1) != arch


def by_flops(archs: Sequence[MobileArch]) -> list[float]:
    """A device that takes a millisecond for a million FLOPs."""
    return [costs(arch).flops / 1e6 for arch in archs]


@pytest.mark.parametrize("name", MOBILENETS)
def test_under_a_latency_budget_networks_around_the_limit_are_measured(name: str) -> None:
    latency = (Budget(cost="latency", limit=3.0),)
    scaled = scaled_mobilenet(name, latency, SIDE, CLASSES, "early", by_flops)
    counted = (Budget(cost="flops", limit=3_000_000),)
    exact = scaled_mobilenet(name, counted, SIDE, CLASSES, "early")
    assert scaled is not None and exact is not None
    assert 0.9 * costs(exact[1]).flops <= costs(scaled[1]).flops <= 3_000_000


def test_none_where_the_narrowest_is_too_slow_or_nothing_can_be_measured() -> None:
    budgets = (Budget(cost="latency", limit=1e-6),)
    assert scaled_mobilenet("mobilenet_v2", budgets, SIDE, CLASSES, "early", by_flops) is None
    assert mobilenets(["mobilenet_v2"], budgets, SIDE, CLASSES, 0) == ([], ["mobilenet_v2"])


@pytest.mark.parametrize("name", MOBILENETS)
def test_none_where_not_even_the_narrowest_fits(name: str) -> None:
    assert scaled_mobilenet(name, (Budget(cost="flops", limit=10_000),), SIDE, CLASSES) is None


def test_mobilenets_that_fit_and_those_that_do_not() -> None:
    narrow = {
        name: min(costs(MOBILENETS[name](0.01, SIDE, CLASSES, p)).flops for p in PLACEMENTS)
        for name in MOBILENETS
    }
    largest = max(narrow, key=narrow.__getitem__)
    budgets = (Budget(cost="flops", limit=narrow[largest] - 1),)
    fit, too_large = mobilenets(tuple(MOBILENETS), budgets, SIDE, CLASSES, seed=5)
    assert too_large == [largest]
    assert {c.name.split()[0] for c in fit} == set(MOBILENETS) - {largest}
    assert {(c.kind, c.seed) for c in fit} == {("mobilenet", 5)}
    assert len({c.arch for c in fit}) == len({c.folder for c in fit}) == len(fit)
    for network in fit:
        name, width, *late = network.name.split()
        placement = "late" if late else "early"
        at_width = MOBILENETS[name](float(width[1:]), SIDE, CLASSES, placement)
        assert network.arch == at_width
        assert keeps_all(network.arch, budgets)
        assert " " not in network.folder


def test_random_networks_keep_the_budget_and_use_it(tiny_budgets: Budgets) -> None:
    (budget,) = tiny_budgets.budgets
    networks = random_networks(tiny_budgets, 5, [4, 5])
    for network in networks:
        assert 0.9 * budget.limit <= costs(network.arch).flops <= budget.limit
    assert len({network.arch for network in networks}) > 1
    assert [network.seed for network in networks] == [4, 5, 4, 5, 4]
    assert [network.name for network in networks] == [f"random-{n}" for n in range(1, 6)]
    assert len({network.folder for network in networks}) == 5
    assert random_networks(tiny_budgets, 5, [4, 5]) == networks
    # more of them begin with the same ones; another seed gives others
    assert random_networks(tiny_budgets, 3, [4, 5]) == networks[:3]
    assert random_networks(tiny_budgets, 5, [5, 4]) != networks


def test_no_random_network_under_an_impossible_budget(
    micro_budgets: Budgets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mobilenas.cost.budgets._MAX_DRAWS", 50)
    impossible = Budgets(micro_budgets.space, [Budget(cost="flops", limit=10)])
    with pytest.raises(BudgetError, match="none of 50 random networks"):
        random_networks(impossible, 1, [0])


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Training in no time, an epoch of which counts as a second; one entry for each epoch."""
    epochs_of: list[int] = []

    def part(epochs: int, arch: MobileArch, *_: Any, folder: Path, **__: Any) -> list[Any]:
        path = folder / CHECKPOINT
        done = int(path.read_text()) if path.exists() else 0
        epochs_of.extend([int(folder.name)] * (epochs - done))
        write_text(path, str(max(epochs, done)))
        return [
            TrainLine(epoch=1, loss=1.0, val_top1=costs(arch).params / 1e4, lr=0.1, seconds=1.0)
        ] * epochs

    monkeypatch.setattr(finalists, "train_part", part)
    return epochs_of


def race(
    budgets: Budgets, data: ImageData, folder: Path, seconds: float, epochs: int = 2, **more: Any
) -> tuple[MobileArch, int, float]:
    given = {"seed": 3, "reporter": NullReporter()} | more
    settings = FinalistSettings(count=4, epochs=epochs)
    halving = SuccessiveHalving(data, settings, RECIPE, folder=folder, device="cpu", **given)
    return random_search(budgets, halving, seconds=seconds)


@pytest.mark.parametrize("seconds", [12, 40, 100, 333])
def test_as_many_rivals_enter_as_the_time_allows(
    tiny_budgets: Budgets,
    tiny_images: ImageData,
    tmp_path: Path,
    trained: list[int],
    seconds: float,
) -> None:
    arch, entered, spent = race(tiny_budgets, tiny_images, tmp_path, seconds)

    def lost(count: int) -> int:
        """Epochs of those that do not win; the winner's are part of its final training."""
        return FinalistSettings(count=4, epochs=2).discarded_epochs(count, RECIPE.epochs)

    assert spent == lost(entered) <= seconds < lost(entered + 1)
    assert len(trained) == spent + max(trained.count(n) for n in trained)
    source = random.Random("rival/3")
    archs = [tiny_budgets.space.arch(tiny_budgets.random(source)) for _ in range(entered)]
    assert arch == max(archs, key=lambda a: costs(a).params)


def test_two_rivals_enter_however_little_time_there_is(
    tiny_budgets: Budgets, tiny_images: ImageData, tmp_path: Path, trained: list[int]
) -> None:
    assert race(tiny_budgets, tiny_images, tmp_path, 0)[1] == 2


@pytest.mark.parametrize("killed_after", [1, 5, 17])
def test_a_killed_rival_goes_on(
    tiny_budgets: Budgets,
    tiny_images: ImageData,
    tmp_path: Path,
    trained: list[int],
    killed_after: int,
) -> None:
    whole = race(tiny_budgets, tiny_images, tmp_path / "whole", 60)

    class Kill(NullReporter):
        def step(self, done: int, figures: dict[str, str]) -> None:
            if done == killed_after:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        race(tiny_budgets, tiny_images, tmp_path, 60, reporter=Kill())
    before = len(trained)
    assert race(tiny_budgets, tiny_images, tmp_path, 60) == whole
    # as many epochs as the undisturbed one, before the kill and after it
    assert len(trained) == 2 * (before - killed_after * 2)


def test_rivals_train_on_training_images_only(
    micro_budgets: Budgets,
    micro_images: ImageData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []
    plain = trainer.batches

    def spy(split: Split, *given: Any, **more: Any) -> Any:
        seen.append((split, more["seed"] is not None))
        return plain(split, *given, **more)

    monkeypatch.setattr(trainer, "batches", spy)
    race(micro_budgets, micro_images, tmp_path, 0, epochs=1)
    for split, trains in seen:
        assert split is (micro_images.train if trains else micro_images.val)
