import random
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mobilenas.cost.budget import COSTS, Budget
from mobilenas.cost.budgets import Budgets
from mobilenas.cost.networks import costs
from mobilenas.spaces.mobile.relaxation import Alphas
from mobilenas.spaces.mobile.space import Choice, MobileSpace, Stage
from mobilenas.spaces.mobile.table import DECISIONS, CostTable, Probabilities
from mobilenas.spaces.mobile.template import template

SUMS = ("flops", "params")
TAU = 0.7


@pytest.fixture
def alphas(tiny_space: MobileSpace) -> dict[str, Tensor]:
    return random_logits(tiny_space)


def random_logits(space: MobileSpace, seed: int = 0) -> dict[str, Tensor]:
    module, generator = Alphas(space), torch.Generator().manual_seed(seed)
    for logits in module.logits.values():
        logits.data.normal_(generator=generator)
    return {name: module.masked(name).detach().double() for name in DECISIONS}


def soft(logits: Mapping[str, Tensor], tau: float = TAU) -> Probabilities:
    return Probabilities(**{name: (row / tau).softmax(-1) for name, row in logits.items()})


@pytest.mark.parametrize("cost", COSTS)
def test_certainty_costs_exactly_what_the_arch_costs(tiny_space: MobileSpace, cost: str) -> None:
    for space in (tiny_space, template(0.8, image_size=224, classes=1000)):
        table, alphas, source = CostTable(space, cost), Alphas(space), random.Random(1)
        for _ in range(10):
            choice = space.random(source)
            exact = getattr(costs(space.arch(choice)), cost)
            assert table.exact(choice) == exact
            assert table.expected(alphas.one_hot(choice)).item() == exact


def probability(p: Probabilities, choice: Choice) -> float:
    rows = [
        p[name][range(len(p[name])), [int(pick) for pick in getattr(choice, name)]]
        for name in DECISIONS
    ]
    return torch.cat(rows).prod().item()


@pytest.mark.parametrize("cost", SUMS)
def test_the_expectation_is_the_mean_over_all_networks(
    micro_space: MobileSpace, every_choice: list[Choice], cost: str
) -> None:
    table, p = CostTable(micro_space, cost), soft(random_logits(micro_space))
    chances = [probability(p, choice) for choice in every_choice]
    assert sum(chances) == pytest.approx(1)
    mean = sum(c * table.exact(choice) for c, choice in zip(chances, every_choice, strict=True))
    assert table.expected(p).item() == pytest.approx(mean, rel=1e-9)


def test_expected_memory_lies_within_the_networks(
    micro_space: MobileSpace, every_choice: list[Choice]
) -> None:
    table = CostTable(micro_space, "memory")
    reachable = [table.exact(choice) for choice in every_choice]
    for seed in range(5):
        value = table.expected(soft(random_logits(micro_space, seed))).item()
        assert min(reachable) <= value <= max(reachable)


@pytest.mark.parametrize("cost", COSTS)
def test_least_is_the_smallest_cost_of_all_networks(
    micro_space: MobileSpace, every_choice: list[Choice], cost: str
) -> None:
    table = CostTable(micro_space, cost)
    assert table.minimum() == min(map(table.exact, every_choice))


def test_least_memory_is_not_that_of_the_narrowest_network(micro_space: MobileSpace) -> None:
    space = replace(
        micro_space,
        stem=replace(micro_space.stem, channels=16),
        stages=(Stage(widths=(16, 24), stride=1, depth=1),),
    )
    table = CostTable(space, "memory")
    # at 4x4, 16 channels after a stem of 16 make a shortcut that waits: 3 x 16 channels are alive
    # while the block projects; 24 make none: 16 + 24, as many as in the head after it
    assert table.exact(space.smallest()) == 4 * 16 * 48
    assert table.minimum() == 4 * 16 * 40
    Budgets(space, [Budget(cost="memory", limit=4 * 16 * 40)]).check_reachable()


@pytest.mark.parametrize("cost", SUMS)
def test_the_gradient_is_the_closed_form(
    tiny_space: MobileSpace, alphas: dict[str, Tensor], cost: str
) -> None:
    table = CostTable(tiny_space, cost)
    leaves = {name: row.clone().requires_grad_() for name, row in alphas.items()}
    p = soft(leaves)
    for name in DECISIONS:
        p[name].retain_grad()
    table.expected(p).backward()
    for name in DECISIONS:
        chances, slopes = p[name].detach(), p[name].grad
        assert slopes is not None
        by_hand = chances * (slopes - (chances * slopes).sum(-1, keepdim=True)) / TAU
        scale = by_hand.abs().max().item()
        assert scale > 0
        torch.testing.assert_close(leaves[name].grad, by_hand, rtol=1e-9, atol=1e-12 * scale)


@pytest.mark.parametrize("cost", SUMS)
def test_the_gradient_is_that_of_central_differences(
    tiny_space: MobileSpace, alphas: dict[str, Tensor], cost: str
) -> None:
    table, step = CostTable(tiny_space, cost), 1e-4
    leaves = {name: row.clone().requires_grad_() for name, row in alphas.items()}
    table.expected(soft(leaves)).backward()
    for name in DECISIONS:
        given = leaves[name].grad
        assert given is not None
        numeric = torch.zeros_like(given)
        for place in range(numeric.numel()):
            sides = []
            for sign in (1, -1):
                moved = {key: row.clone() for key, row in alphas.items()}
                moved[name].view(-1)[place] += sign * step
                sides.append(table.expected(soft(moved)).item())
            numeric.view(-1)[place] = (sides[0] - sides[1]) / (2 * step)
        scale = given.abs().max().item()
        torch.testing.assert_close(numeric, given, rtol=1e-5, atol=1e-6 * scale)


def test_memory_has_a_subgradient(tiny_space: MobileSpace, alphas: dict[str, Tensor]) -> None:
    table = CostTable(tiny_space, "memory")
    leaves = {name: row.clone().requires_grad_() for name, row in alphas.items()}
    table.expected(soft(leaves)).backward()
    assert any(bool(leaf.grad.any()) for leaf in leaves.values() if leaf.grad is not None)
