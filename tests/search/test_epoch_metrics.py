"""What the log keeps of an epoch, and what a watch does about it."""

import copy
import json
from typing import Any, get_args

import pytest
import torch
from msgspec.structs import replace

from mobilenas.core.settings import from_plain, to_plain
from mobilenas.cost.budget import CONSTRAINTS, Budget
from mobilenas.cost.budgets import Budgets
from mobilenas.data import ImageData
from mobilenas.search import SearchSettings
from mobilenas.search.collapse_monitor import CollapseMonitor
from mobilenas.search.epoch_metrics import epoch_metrics
from mobilenas.search.loop import EpochFigures, Searcher
from mobilenas.search.parts import OnCollapse
from mobilenas.search.records import SearchLine
from mobilenas.spaces.cell.space import KINDS, CellChoice, CellSpace
from mobilenas.supernet.schedules import Temperature
from mobilenas.supernet.settings import SamplerSettings

FIGURES = EpochFigures(
    epoch=1,
    loss=1.0,
    alpha_loss=1.0,
    weight_gradient_norm=1.0,
    alpha_gradient_norm=None,
    seconds=1.0,
)
PLAIN = {"epochs": 3, "warmup": 0, "batch_size": 16, "sampling": "softmax", "learning_rate": 0.05}


@pytest.fixture(params=["mobile", "cell"])
def budgets(request: Any, micro_budgets: Budgets, micro_images: ImageData) -> Budgets:
    if request.param == "mobile":
        return micro_budgets
    space = CellSpace(
        image_size=micro_images.image_size,
        in_channels=3,
        classes=len(micro_images.classes),
        layers=3,
        channels=4,
        search_layers=3,
        search_channels=8,
    )
    return Budgets(space, [Budget(cost="params", limit=10_000)])


@pytest.fixture
def make(budgets: Budgets, micro_images: ImageData) -> Any:
    def make(**changes: Any) -> Searcher:
        edges = "softmax" if isinstance(budgets.space, CellSpace) else "none"
        settings = SearchSettings(**{**PLAIN, "edge_weights": edges, **changes})
        return Searcher(budgets, micro_images, settings, seed=3)

    return make


@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_an_observation_has_the_expected_costs_of_the_alphas(make: Any, constraint: str) -> None:
    searcher = make(constraint=constraint)
    for _ in range(2):
        searcher.run_epoch()
        record = epoch_metrics(searcher, FIGURES)
        p = searcher.alphas.soft(record.tau)
        expected = {name: v.item() for name, v in searcher.budgets.expected(p).items()}
        assert record.expected == expected
        assert all(0 < value < float("inf") for value in expected.values())
        assert record.multipliers.keys() == expected.keys()


def test_an_observation_is_plain_and_changes_nothing(make: Any) -> None:
    searcher = make(sampler=SamplerSettings(name="ranked", partial=2))
    searcher.run_epoch()
    before = copy.deepcopy(searcher.state_dict())
    record = epoch_metrics(searcher, FIGURES)
    assert from_plain(SearchLine, json.loads(json.dumps(to_plain(record))), "") == record
    after = searcher.state_dict()
    for part in ("net", "alphas"):
        assert all(torch.equal(before[part][name], after[part][name]) for name in before[part])
    assert epoch_metrics(searcher, FIGURES) == record


def test_the_supernets_accuracy_is_that_of_what_is_trained_with_norms_of_its_own(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    searcher = make(sampling="gumbel", epochs=6)
    for _ in range(6):
        searcher.run_epoch()
    learned = epoch_metrics(searcher, FIGURES).val_top1
    for module in searcher.net.modules():
        if isinstance(module, torch.nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.fill_(50.0)  # running statistics play no part
    assert epoch_metrics(searcher, FIGURES).val_top1 == learned
    drawn, measured, plain = [], [], searcher.relaxation
    monkeypatch.setattr(
        searcher, "relaxation", lambda *given: drawn.append(given[1]) or plain(*given)
    )
    monkeypatch.setattr(searcher, "top1", lambda _, split: measured.append(split) or 0.0)
    assert epoch_metrics(searcher, FIGURES).val_top1 == 0.0
    assert drawn == [5] * 4
    images = [image for split in measured[:4] for image in split.indices.tolist()]
    assert sorted(images) == sorted(searcher.monitor_split.indices.tolist())


def test_a_mixture_is_measured_as_it_is(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    searcher, drawn = make(sampling="softmax"), []
    searcher.run_epoch()
    soft = searcher.alphas.soft
    monkeypatch.setattr(searcher.alphas, "soft", lambda tau: drawn.append(tau) or soft(tau))
    monkeypatch.setattr(searcher.alphas, "gumbel", None)
    epoch_metrics(searcher, FIGURES)
    assert drawn


def test_entropies_and_channels_of_an_observation(make: Any) -> None:
    searcher = make(sampler=SamplerSettings(name="attention", partial=2))
    searcher.run_epoch()
    record = epoch_metrics(searcher, FIGURES)
    total = sum(sum(rows) for rows in record.entropies.values())
    assert total == pytest.approx(record.entropy, rel=1e-2)
    assert 0 < record.uncertainty <= 1
    assert record.channels
    for frequencies in record.channels.values():
        # half of the channels enter at every step
        assert sum(frequencies) == pytest.approx(len(frequencies) / 2, abs=0.01)


def test_the_likeliest_network_follows_the_alphas(make: Any) -> None:
    searcher = make()
    choice = searcher.alphas.likeliest()
    with torch.no_grad():
        for alpha in searcher.alphas.parameters():
            alpha.copy_(torch.randn(alpha.shape, generator=torch.Generator().manual_seed(1)))
    assert searcher.alphas.likeliest() != choice
    if isinstance(choice, CellChoice):
        best = searcher.alphas.scores()["normal"].argmax(-1)
        found = searcher.alphas.likeliest().normal
        assert all(option in (-1, int(best[edge])) for edge, option in enumerate(found))


def lines(searcher: Searcher, epochs: int, skips: int) -> list[SearchLine]:
    names = KINDS if isinstance(searcher.space, CellSpace) else ("blocks",)
    line = epoch_metrics(searcher, FIGURES)
    return [
        replace(
            line,
            epoch=epoch + 1,
            skips=dict.fromkeys(names, skips),
            utilization=0.0 if skips else 1.0,
            uncertainty=0.9 - 0.1 * epoch,
            gap_estimate=1.0,
        )
        for epoch in range(epochs)
    ]


@pytest.mark.parametrize("action", get_args(OnCollapse))
def test_what_an_alarm_does(make: Any, action: str) -> None:
    searcher = make(on_collapse=action, temperature=Temperature(start=1.0, end=0.1))
    watch = CollapseMonitor(searcher)
    searcher.epochs_done = 1
    (calm,) = lines(searcher, 1, skips=0)
    (bad,) = lines(searcher, 1, skips=99)
    assert watch.update(calm) == []
    good = copy.deepcopy(dict(searcher.alphas.state_dict()))
    with torch.no_grad():
        for alpha in searcher.alphas.parameters():
            alpha.add_(1.0)
    searcher.epochs_done = 2
    assert watch.update(replace(bad, epoch=2)) != []
    assert watch.stopped == (action != "warn")
    now = searcher.alphas.state_dict()
    restored = all(torch.equal(good[name], now[name]) for name in good)
    assert restored == (action == "rollback")


def test_a_watch_goes_on_from_its_state(make: Any) -> None:
    searcher = make()
    watch, other = CollapseMonitor(searcher), CollapseMonitor(searcher)
    searcher.epochs_done = 1
    given = lines(searcher, 3, skips=0)
    for line in given[:2]:
        searcher.epochs_done = line.epoch
        watch.update(line)
    other.load_state_dict(json.loads(json.dumps(watch.state_dict() | {"alphas": []})))
    assert other.state_dict()["signals"] == watch.state_dict()["signals"]


def test_the_warm_up_is_not_watched(make: Any) -> None:
    searcher = make(warmup=2)
    watch = CollapseMonitor(searcher)
    searcher.epochs_done = 2
    (bad,) = lines(searcher, 1, skips=99)
    assert watch.update(bad) == []
    assert not watch.state_dict()["signals"]
