import random
from dataclasses import replace
from typing import Any

import pytest
import torch

from mobilenas.cost.budgets import Budgets
from mobilenas.data import ImageData, Split, batches
from mobilenas.search import SearchSettings, gap, loop
from mobilenas.search.evaluation import supernet_loss, supernet_top1
from mobilenas.search.gap import discretization_gap
from mobilenas.search.loop import Searcher
from mobilenas.spaces.mobile.space import Choice
from mobilenas.spaces.mobile.table import DECISIONS
from mobilenas.supernet.settings import SAMPLERS, SamplerSettings


def make(budgets: Budgets, data: ImageData, name: str = "full") -> Searcher:
    settings = SearchSettings(
        epochs=2,
        warmup=1,
        batch_size=16,
        sampler=SamplerSettings(name=name, partial=1 if name == "full" else 4),
    )
    searcher = Searcher(budgets, data, settings, seed=0)
    for _ in range(2):
        searcher.run_epoch()
    return searcher


@pytest.fixture(scope="module")
def searcher(tiny_budgets: Budgets, tiny_images: ImageData) -> Searcher:
    return make(tiny_budgets, tiny_images)


@pytest.fixture(scope="module")
def choices(tiny_budgets: Budgets) -> list[Choice]:
    source = random.Random(0)
    return [tiny_budgets.random(source) for _ in range(3)]


def net_state(searcher: Searcher) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in searcher.net.state_dict().items()}


def momenta(searcher: Searcher) -> list[float | None]:
    norms = (m for m in searcher.net.modules() if isinstance(m, torch.nn.BatchNorm2d))
    return [norm.momentum for norm in norms]


@pytest.mark.parametrize("name", SAMPLERS)
def test_measuring_leaves_the_supernet_as_it_was(
    micro_budgets: Budgets, micro_images: ImageData, name: str
) -> None:
    searcher = make(micro_budgets, micro_images, name)
    choice = micro_budgets.random(random.Random(0))
    before, logits = net_state(searcher), [a.clone() for a in searcher.alphas.parameters()]
    kept = momenta(searcher)
    discretization_gap(searcher, choice)
    supernet_top1(searcher, [choice], searcher.data.val)
    after = net_state(searcher)
    assert [key for key in before if not torch.equal(before[key], after[key])] == []
    assert momenta(searcher) == kept
    assert all(map(torch.equal, logits, searcher.alphas.parameters()))


def test_statistics_come_back_after_an_error_too(
    searcher: Searcher, choices: list[Choice], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, kept = net_state(searcher), momenta(searcher)

    def broken(*_: Any) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(Searcher, "top1", broken)
    with pytest.raises(KeyboardInterrupt), gap.fresh_statistics(searcher.net):
        gap.reestimate(searcher, lambda x: searcher.net.run(x, choices[0]))
        assert not all(torch.equal(before[key], v) for key, v in net_state(searcher).items())
        searcher.top1(None, None)  # type: ignore[arg-type]
    after = net_state(searcher)
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert momenta(searcher) == kept


def test_the_gap_is_the_difference_of_two_accuracies(
    searcher: Searcher, choices: list[Choice]
) -> None:
    figures = discretization_gap(searcher, choices[0])
    assert figures.edges_discrete is None
    supernet, discrete = figures.supernet, figures.operations_discrete
    for stage in (supernet, discrete):
        assert 0 <= stage.before_reestimation <= 100
        assert 0 <= stage.after_reestimation <= 100
    assert figures.points == supernet.after_reestimation - discrete.after_reestimation
    assert figures.points_before == supernet.before_reestimation - discrete.before_reestimation
    assert discretization_gap(searcher, choices[0]) == figures


@pytest.mark.parametrize("measure", ["gap", "top1", "loss"])
def test_no_batch_is_of_the_classes_that_came_first(
    searcher: Searcher, choices: list[Choice], monkeypatch: pytest.MonkeyPatch, measure: str
) -> None:
    data, seen = searcher.data, list[int]()
    train, val = (s.subset(s.labels.argsort(stable=True)) for s in (data.train, data.val))

    def small(split: Split, data: ImageData, **options: Any) -> Any:
        for x, y in batches(split, data, **options | {"batch_size": len(split) // 2}):
            seen.append(len(y.unique()))
            yield x, y

    monkeypatch.setattr(searcher, "data", replace(data, train=train, val=val))
    monkeypatch.setattr(searcher, "weight_half", train)
    monkeypatch.setattr(loop, "batches", small)
    match measure:
        case "gap":
            discretization_gap(searcher, choices[0])
        case "top1":
            supernet_top1(searcher, choices[:1], val)
        case _:
            supernet_loss(searcher, choices[:1], val)
    assert seen
    assert set(seen) == {len(data.classes)}


def test_a_certain_relaxation_has_no_gap(
    tiny_budgets: Budgets, tiny_images: ImageData, choices: list[Choice]
) -> None:
    searcher = make(tiny_budgets, tiny_images)
    for name in DECISIONS:
        for row, option in enumerate(getattr(choices[1], name)):
            searcher.alphas.logits[name].data[row] = -1e3
            searcher.alphas.logits[name].data[row, int(option)] = 1e3
    figures = discretization_gap(searcher, choices[1])
    assert figures.points == 0
    assert figures.supernet == figures.operations_discrete


def test_only_weight_half_images_reestimate_and_only_validation_images_measure(
    searcher: Searcher, choices: list[Choice], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, seen = searcher.data, []
    halves = set(searcher.weight_half.indices.tolist())

    def spy(split: Split, *given: Any, **more: Any) -> Any:
        seen.append(split)
        assert more.get("augmentation") is None
        return plain(split, *given, **more)

    plain = loop.batches
    monkeypatch.setattr(loop, "batches", spy)
    discretization_gap(searcher, choices[0])
    for split in seen:
        if split.store is data.train.store:
            assert set(split.indices.tolist()) <= halves
        else:
            assert split is data.val
    assert sum(split is data.val for split in seen) == 4


def test_a_network_has_the_same_supernet_accuracy_in_any_company(
    searcher: Searcher, choices: list[Choice]
) -> None:
    val = searcher.data.val
    scores = supernet_top1(searcher, choices, val)
    assert all(0 <= score <= 100 for score in scores)
    assert supernet_top1(searcher, choices[::-1], val)[::-1] == scores
    assert [supernet_top1(searcher, [choice], val)[0] for choice in choices] == scores
    assert not searcher.net.training
