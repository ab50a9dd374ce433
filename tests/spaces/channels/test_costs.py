import random

import pytest
import torch
from torch import nn

from mobilenas.core.errors import BudgetError
from mobilenas.cost.budget import Budget
from mobilenas.cost.budgets import Budgets
from mobilenas.cost.networks import costs, layer_costs
from mobilenas.nn.costs import Costs
from mobilenas.onnx.recount import count_fvcore
from mobilenas.spaces.channels.space import Base, ChannelsSpace
from mobilenas.spaces.mobile.arch import MobileArch
from mobilenas.spaces.mobile.costs import costs as mobile_costs
from mobilenas.spaces.mobile.mobilenets import MOBILENETS
from mobilenas.spaces.networks import build

NAMES = ("resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5", "squeezenet1_1", "densenet121")


def space_of(name: str) -> ChannelsSpace:
    base = Base(name=f"torchvision:{name}", image_size=64, in_channels=3, classes=5)
    return ChannelsSpace(base=base)


@pytest.mark.parametrize("name", MOBILENETS)
def test_at_its_own_sizes_a_mobile_arch_costs_what_it_costs(name: str) -> None:
    arch = MOBILENETS[name](0.5, 64, 5)
    assert isinstance(arch, MobileArch)
    space = ChannelsSpace(base=Base.of(arch))
    assert costs(space.arch(space.start())) == mobile_costs(arch)


@pytest.mark.parametrize("name", NAMES[:3])
def test_flops_and_params_of_random_sizes_are_those_of_the_built_module(name: str) -> None:
    space = space_of(name)
    arch = space.arch(space.random(random.Random(0)))
    rows, graph = layer_costs(arch), space.base.graph
    module = build(arch)
    assert sum(row.flops for row in rows) == sum(count_fvcore(module, 64, 3).values())
    assert sum(row.params for row in rows) == sum(weight.numel() for weight in module.parameters())
    assert costs(arch).flops == graph.flops(arch.sizes)
    assert costs(arch).params == graph.params(arch.sizes)
    layers = [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(rows) == len(layers)


def test_memory_of_a_chain_by_hand() -> None:
    # resnet18's largest moment: the first convolution with its input and output
    arch = space_of("resnet18").arch(space_of("resnet18").start())
    first = layer_costs(arch)[0]
    assert first.memory >= 4 * (3 * 64 * 64 + 64 * 32 * 32)
    # its pool reads 64 x 32 x 32 and makes 64 x 16 x 16
    assert first.memory == 4 * max(3 * 64 * 64 + 64 * 32 * 32, 64 * 32 * 32 + 64 * 16 * 16)
    block = next(row for row in layer_costs(arch) if row.name == "layer1.0.conv2")
    assert block.memory == 4 * 3 * 64 * 16 * 16  # input, output, and the shortcut that waits


def test_budgets_scale_sizes_until_they_are_used() -> None:
    space = space_of("mobilenet_v3_small")
    half = space.base.graph.flops({}) // 2
    budgets = Budgets(space, [Budget(cost="flops", limit=half)])
    for sizes in (budgets.scale(space.start()), budgets.random(random.Random(3))):
        assert 0.97 < budgets.utilization(sizes) <= 1
        assert budgets.is_feasible(sizes)
    assert budgets.random(random.Random(3)) == budgets.random(random.Random(3))
    both = Budgets(space, [*budgets.budgets, Budget(cost="params", limit=100_000)])
    found = both.scale(space.start())
    assert space.base.graph.params(found) <= 100_000
    assert space.base.graph.flops(found) < half


@pytest.mark.parametrize(
    ("cost", "limit", "message"),
    [
        ("flops", 1000, r"flops <= 1k"),
        ("flops", 10**12, "flops <= 1000G"),
        ("memory", 10**6, "a memory budget is for the mobile space only; channel sizes have flops"),
    ],
)
def test_budgets_out_of_reach_are_named(cost: str, limit: int, message: str) -> None:
    with pytest.raises(BudgetError, match=message):
        Budgets(space_of("resnet18"), [Budget(cost=cost, limit=limit)]).check_reachable()


def test_counting_draws_from_no_generator() -> None:
    space = ChannelsSpace(base=Base.of(MOBILENETS["mobilenet_v3_small"](0.3, 32, 7)))
    before = torch.random.get_rng_state()
    found = costs(space.arch(space.smallest()))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert isinstance(found, Costs)
