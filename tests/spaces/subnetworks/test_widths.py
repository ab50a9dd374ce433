"""The widths of stages as decisions: consistent, exact in cost, and slices of one supernet."""

import random
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from mobilenas.core.errors import MobileNASError
from mobilenas.core.settings import from_plain, to_plain
from mobilenas.cost.budget import Budget
from mobilenas.cost.budgets import Budgets
from mobilenas.cost.networks import costs
from mobilenas.nn.network import resized
from mobilenas.spaces.mobile.arch import MobileArch
from mobilenas.spaces.mobile.mobilenets import mobilenet_v3_small
from mobilenas.spaces.networks import build
from mobilenas.spaces.subnetworks.narrow import same_layers
from mobilenas.spaces.subnetworks.program import SubnetworkProgram, least_pruned
from mobilenas.spaces.subnetworks.relaxation import Alphas
from mobilenas.spaces.subnetworks.space import DECISIONS, Choice, SubnetworkSpace
from mobilenas.spaces.subnetworks.supernet import SubnetworkSupernet, inherited
from mobilenas.spaces.subnetworks.table import CostTable, Probabilities
from mobilenas.spaces.subnetworks.weights import reordered
from mobilenas.supernet.settings import SamplerSettings

from .test_supernet import WHOLE, block, images, random_state


def space_of(blocks: tuple[Any, ...]) -> SubnetworkSpace:
    whole = replace(WHOLE, stem=replace(WHOLE.stem, channels=16), blocks=blocks)
    return SubnetworkSpace(whole=whole, sides=(16, 20), stage_shares=(0.5, 0.75, 1.0))


FREE = space_of(
    (
        block(hidden=16, out=32),
        block(hidden=72, out=40, kernel=5, stride=2, squeeze=8),
        block(hidden=120, out=40, start_kernel=3),
        block(hidden=40, out=40, squeeze=16),
        block(hidden=96, out=64),
    )
)
"""The stem is free; a block has no expansion layer; the last stage begins at stride 1."""
TIED = space_of(
    (
        block(hidden=16, out=16, squeeze=8),
        block(hidden=64, out=16),
        block(hidden=64, out=48, stride=2),
    )
)
"""A shortcut ties the stem to the first stage."""
both = pytest.mark.parametrize("space", [FREE, TIED], ids=["free", "tied"])


def combinations(space: SubnetworkSpace) -> list[tuple[int, ...]]:
    return list(product(*map(range, space.options("width"))))


def test_every_stage_has_its_widths_and_none_changes_the_layers() -> None:
    # 16 is the stem's width, and 32 one before the last stage: they would make shortcuts
    assert FREE.widths == ((24, 32), (24, 32, 40), (48, 64))
    assert (FREE.stem_widths, TIED.stem_widths) == ((16,), (8, 16))
    assert TIED.widths == ((8, 16), (24, 40, 48))
    for whole in (FREE.whole, TIED.whole, mobilenet_v3_small(1.0, 64, 4)):
        shares = (0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
        space = SubnetworkSpace(whole=whole, sides=(whole.image_size,), stage_shares=shares)
        for seed in range(50):
            choice = space.random(random.Random(seed))
            arch = space.arch(choice)
            assert space.arch(space.choice(arch)) == arch
            deep = replace(choice, depth=space.largest().depth)
            assert same_layers(whole, space.arch(deep))
            assert all(n >= 8 and n % 8 == 0 for n in (arch.stem.channels, *outs(arch)))


def outs(arch: MobileArch) -> list[int]:
    return [block.out for block in arch.blocks]


def test_a_stage_has_one_width() -> None:
    choice = replace(FREE.largest(), width=(0, 1, 0))
    arch = FREE.arch(choice)
    assert outs(arch) == [24, 32, 32, 32, 48]
    assert [block.hidden for block in arch.blocks] == [16, 72, 120, 32, 96]
    arch = TIED.arch(replace(TIED.largest(), width=(0, 2)))
    assert (arch.stem.channels, outs(arch), arch.blocks[0].hidden) == (8, [8, 8, 48], 8)


@both
def test_costs_are_those_of_the_arch_for_every_width(space: SubnetworkSpace) -> None:
    for seed, width in enumerate(combinations(space)):
        choice = replace(space.random(random.Random(seed)), width=width)
        exact = costs(space.arch(choice))
        relaxed = Alphas(space).one_hot(choice)
        for cost in ("flops", "params", "memory"):
            table = CostTable(space, cost)
            assert table.exact(choice) == getattr(exact, cost)
            assert table.expected(relaxed).item() == getattr(exact, cost)
        network = build(space.arch(choice))
        assert exact.params == sum(p.numel() for p in network.deployed_parameters())


@both
def test_the_expected_cost_is_the_mean_over_widths(space: SubnetworkSpace) -> None:
    choice, generator = space.random(random.Random(0)), torch.Generator().manual_seed(0)
    alphas, table = Alphas(space), CostTable(space, "flops")
    one_hot = alphas.one_hot(choice)
    alphas.logits["width"].data.normal_(generator=generator)
    p = alphas.soft(1.0).width
    assert p is not None
    rows = {name: one_hot[name] for name in DECISIONS} | {"width": p}
    mean = sum(
        p.double().gather(1, torch.tensor(width)[:, None]).prod().item()
        * table.exact(replace(choice, width=width))
        for width in combinations(space)
    )
    assert table.expected(Probabilities(**rows)).item() == pytest.approx(mean, rel=1e-6)


@pytest.fixture(params=[FREE, TIED], ids=["free", "tied"])
def net(request: pytest.FixtureRequest) -> SubnetworkSupernet:
    space = request.param
    made = SubnetworkSupernet(space, SamplerSettings(name="full", partial=1))
    made.start_from(random_state(space.whole))
    return made.eval()


def test_the_largest_choice_is_the_network_that_was_given(net: SubnetworkSupernet) -> None:
    whole = net.space.whole
    given, state = build(whole), random_state(whole)
    given.load_state_dict(state)
    ours = net.whole.state_dict()
    # the channels are in another order
    assert not torch.equal(ours["blocks.1.expand.0.weight"], state["blocks.1.expand.0.weight"])
    with torch.no_grad():
        expected = given.eval()(images())
        found = net.run(images(), net.space.largest())
    torch.testing.assert_close(found, expected)
    assert float(expected.std()) > 1e-3


@pytest.mark.parametrize("seed", range(4))
def test_a_part_alone_mixed_and_built_is_the_same(net: SubnetworkSupernet, seed: int) -> None:
    source = random.Random(seed)
    choice = replace(net.space.random(source), width=source.choice(combinations(net.space)))
    side = net.space.arch(choice).image_size
    with torch.no_grad():
        alone = net.run(images(), choice)
        mixed = net(images(), Alphas(net.space).one_hot(choice))
        built = inherited(net, choice, seed=0).eval()(resized(images(), side))
    torch.testing.assert_close(mixed, alone)
    torch.testing.assert_close(built, alone)


def test_an_inherited_network_is_a_slice_of_the_supernet(net: SubnetworkSupernet) -> None:
    ours = net.whole.state_dict()
    narrow = inherited(net, replace(net.space.smallest(), depth=net.space.largest().depth), 0)
    pairs = [
        (name, value, ours[name])
        for name, value in narrow.state_dict().items()
        if value.dim() and "depthwise.0" not in name
    ]
    for name, value, whole in pairs:
        assert torch.equal(value, whole[tuple(slice(n) for n in value.shape)]), name
    assert sum(value.shape != whole.shape for _, value, whole in pairs) > 10


def test_alphas_of_widths_have_gradients_from_loss_and_costs(net: SubnetworkSupernet) -> None:
    alphas, space = Alphas(net.space), net.space
    net(images(), alphas.soft(1.0)).square().sum().backward()
    logits = alphas.logits["width"]
    assert logits.grad is not None
    assert bool(logits.grad.abs().sum(1).all())
    logits.grad = None
    CostTable(space, "flops").expected(alphas.soft(1.0)).backward()
    # the largest width is the most expensive
    for row, options in zip(logits.grad, space.options("width"), strict=True):
        assert int(row.argmax()) == options - 1


def test_channels_of_a_stage_are_in_the_order_of_importance() -> None:
    state = random_state(FREE.whole)
    # the second stage's channel 37 is computed by three projections, channel 3 by none
    for number in (1, 2, 3):
        state[f"blocks.{number}.project.0.weight"][37] = 100.0
        state[f"blocks.{number}.project.1.weight"][3] = 0.0
    found = reordered(FREE, state)

    # the bias after the depthwise convolutions that read the stage directly
    for name in ("blocks.2.start.1.bias", "blocks.3.depthwise.1.bias"):
        assert torch.equal(found[name][[0, -1]], state[name][[37, 3]])


def score(scores: dict[str, Tensor], space: SubnetworkSpace, choice: Choice) -> float:
    """What the program maximizes."""
    total = 0.0
    for name in DECISIONS:
        rows = scores[name] - scores[name].amax(-1, keepdim=True)
        of_blocks = name in ("hidden", "kernel", "squeeze")
        total += sum(
            float(rows[n, pick])
            for n, pick in enumerate(getattr(choice, name))
            if not of_blocks or space.has_block(choice, n)
        )
    return total


@pytest.mark.parametrize("cost", ["flops", "memory"])
@pytest.mark.parametrize("seed", range(3))
def test_discretization_is_the_best_of_all_networks(cost: str, seed: int) -> None:
    space = replace(TIED, shares=(0.5, 1.0))
    alphas, generator = Alphas(space), torch.Generator().manual_seed(seed)
    for logits in alphas.parameters():
        logits.data.normal_(generator=generator)
    rows = [product(*map(range, space.options(name))) for name in DECISIONS]
    everything = [Choice(**dict(zip(DECISIONS, picks, strict=True))) for picks in product(*rows)]
    table = CostTable(space, cost)
    limit = sorted(map(table.exact, everything))[len(everything) // 3]
    budgets = Budgets(space, [Budget(cost=cost, limit=limit)])
    scores = alphas.scores()
    best = SubnetworkProgram(budgets, scores).best()
    assert getattr(costs(space.arch(best)), cost) <= limit
    found = max(
        score(scores, space, choice) for choice in everything if budgets.is_feasible(choice)
    )
    assert score(scores, space, best) == pytest.approx(found, rel=1e-3)


def test_what_leaves_out_least_keeps_the_widths_as_long_as_it_can() -> None:
    table, whole = CostTable(FREE, "flops"), FREE.largest()
    thin = replace(FREE.smallest(), side=whole.side, width=whole.width)
    for of, is_whole in ((whole, True), (thin, False)):
        budget = Budget(cost="flops", limit=round(0.9 * table.exact(of)))
        found = least_pruned(Budgets(FREE, [budget]))[-1]
        assert found.side == whole.side
        assert (found.width == whole.width) is is_whole


def test_files_of_a_space_without_widths_are_as_they_were() -> None:
    plain = replace(FREE, stage_shares=SubnetworkSpace(whole=WHOLE, sides=(20,)).stage_shares)
    assert "stage_shares" not in to_plain(plain)
    choice = plain.random(random.Random(0))
    assert set(to_plain(choice)) == set(DECISIONS) - {"width"}
    assert from_plain(Choice, to_plain(choice), "choice") == choice
    assert from_plain(SubnetworkSpace, to_plain(FREE), "space") == FREE
    assert not FREE.is_legal(choice)
    assert not plain.is_legal(FREE.largest())
    with pytest.raises(MobileNASError, match="not a subnetwork"):
        plain.choice(FREE.arch(FREE.smallest()))


def test_networks_of_another_width_differ_in_the_blocks_around_it() -> None:
    whole = FREE.largest()
    assert FREE.distance(whole, replace(whole, width=(1, 2, 0))) == 1
    assert FREE.distance(whole, replace(whole, width=(0, 2, 1))) == 2
    assert FREE.distance(whole, replace(whole, width=(1, 1, 1))) == 4
    assert whole.alike(replace(whole, width=(1, 2, 0))) == 1 - 1 / 22
