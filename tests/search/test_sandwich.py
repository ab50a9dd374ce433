"""Searches in the parts of a network: the sandwich rule, and candidates by their accuracy."""

import random
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from mobilenas.cost.budget import Budget
from mobilenas.cost.budgets import Budgets
from mobilenas.data import ImageData, batches
from mobilenas.search.candidates import candidates
from mobilenas.search.evaluation import supernet_loss
from mobilenas.search.loop import Searcher
from mobilenas.search.settings import SearchSettings
from mobilenas.spaces.mobile.arch import Block, Head, MobileArch, Stem
from mobilenas.spaces.networks import build
from mobilenas.spaces.subnetworks.space import SubnetworkSpace
from mobilenas.supernet.settings import SamplerSettings
from mobilenas.train.distillation import distillation_loss

SETTINGS = SearchSettings(
    epochs=2,
    warmup=2,
    batch_size=16,
    sampling="sandwich",
    sampler=SamplerSettings(name="full", partial=1),
    evaluated=16,
)


@pytest.fixture
def budgets(tiny_images: ImageData) -> Budgets:
    block = Block(kernel=5, hidden=48, out=8, stride=1, squeeze=0, activation="relu")
    side = tiny_images.image_size
    whole = MobileArch(
        image_size=side,
        in_channels=3,
        classes=len(tiny_images.classes),
        stem=Stem(channels=8, stride=2, activation="relu"),
        blocks=(block, block, replace(block, out=16, stride=2)),
        head=Head(channels=24, hidden=0, activation="relu", dropout=0.0),
    )
    space = SubnetworkSpace(whole=whole, sides=(side // 2, side))
    free = Budgets(space, [Budget(cost="flops", limit=10**9)], filled=False)
    costs = sorted(free.tables["flops"].exact(space.random(random.Random(n))) for n in range(99))
    return Budgets(space, [Budget(cost="flops", limit=costs[50])])


def searcher(budgets: Budgets, images: ImageData, settings: SearchSettings = SETTINGS) -> Searcher:
    torch.manual_seed(3)
    weights = build(budgets.space.whole).state_dict()
    return Searcher(budgets, images, settings, seed=0, weights=weights)


def test_the_largest_learns_from_labels_and_the_others_from_it(
    budgets: Budgets, tiny_images: ImageData
) -> None:
    one, other = searcher(budgets, tiny_images), searcher(budgets, tiny_images)
    x, y = next(batches(tiny_images.train, tiny_images, batch_size=16, seed=(0,)))
    for each in (one, other):
        each.start_epoch(0)
        each.net.train()
    loss = one.weight_step(x, y, 0)
    space = budgets.space
    largest = other.net.run(x, space.largest())
    expected = functional.cross_entropy(largest, y, label_smoothing=0.1)
    assert loss[0].item() == pytest.approx(expected.item())
    total = expected
    source = random.Random("0/0")
    for choice in (space.smallest(), budgets.random(source), budgets.random(source)):
        total = total + distillation_loss(other.net.run(x, choice), largest, 1.0)
    total.backward()
    torch.nn.utils.clip_grad_norm_(other.net.parameters(), 5.0)
    for (name, a), b in zip(one.net.named_parameters(), other.net.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name, rtol=1e-4, atol=1e-6)


def test_weights_learn_from_all_images_where_no_alphas_move(
    budgets: Budgets, tiny_images: ImageData
) -> None:
    assert len(searcher(budgets, tiny_images).weight_half) == len(tiny_images.train)
    both = searcher(budgets, tiny_images, replace(SETTINGS, warmup=1))
    assert len(both.weight_half) < len(tiny_images.train)


def test_candidates_are_the_best_of_those_that_are_evaluated(
    budgets: Budgets, tiny_images: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, seen = searcher(budgets, tiny_images), dict[object, float]()

    def recorded(*given: object) -> list[float]:
        found = supernet_loss(*given)  # type: ignore[arg-type]
        seen.update(zip(given[1], found, strict=True))  # type: ignore[call-overload]
        return found

    monkeypatch.setattr("mobilenas.search.candidates.supernet_loss", recorded)
    found = candidates(made, budgets, 2)
    assert 16 <= len(seen) <= 24
    assert seen[found[0]] == min(seen.values())
    assert budgets.space.distance(*found) >= 1
    assert all(map(budgets.is_feasible, found))
    assert candidates(made, budgets, 2) == found
    again = supernet_loss(made, found, tiny_images.val)
    assert again == [seen[choice] for choice in found]


def test_alphas_of_the_side_get_a_gradient(budgets: Budgets, tiny_images: ImageData) -> None:
    made = searcher(budgets, tiny_images, replace(SETTINGS, warmup=0))
    made.start_epoch(0)
    x, y = next(batches(tiny_images.train, tiny_images, batch_size=16, seed=(0,)))
    before = made.alphas.state_dict()["logits.side"].clone()
    made.alpha_step(x, y)
    assert not torch.equal(made.alphas.state_dict()["logits.side"], before)
