"""Registered operations: a supernet, costs and networks treat them as depthwise convolutions."""

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import nn

from mobilenas.core.errors import MobileNASError
from mobilenas.core.settings import from_plain, to_plain
from mobilenas.cost.budget import Budget
from mobilenas.cost.budgets import Budgets
from mobilenas.cost.networks import costs
from mobilenas.nn.operations import OPERATIONS, Operation
from mobilenas.onnx.recount import count_fvcore
from mobilenas.search.candidates import uses_prior
from mobilenas.search.prior import features
from mobilenas.search.settings import SearchSettings
from mobilenas.spaces.base import family_of
from mobilenas.spaces.mobile.arch import MobileArch
from mobilenas.spaces.mobile.inherit import inherited
from mobilenas.spaces.mobile.relaxation import Alphas
from mobilenas.spaces.mobile.space import MobileSpace
from mobilenas.spaces.mobile.supernet import SuperNetwork
from mobilenas.spaces.mobile.template import Shape, template
from mobilenas.spaces.networks import build
from mobilenas.supernet.settings import SamplerSettings

SIDE = 16


def dilated(channels: int, stride: int) -> nn.Module:
    return nn.Conv2d(channels, channels, 3, stride, 2, dilation=2, groups=channels, bias=False)


def mean(channels: int, stride: int) -> nn.Module:
    return nn.AvgPool2d(3, stride, 1, count_include_pad=False)


@pytest.fixture
def space() -> Iterator[MobileSpace]:
    OPERATIONS.register("dilated", Operation(module=dilated, flops=9, params=9))
    OPERATIONS.register("mean", Operation(module=mean, flops=0, params=0))
    yield template(
        0.3, image_size=SIDE, classes=10, shape=Shape(blocks=2), operations=("dilated", "mean")
    )
    del OPERATIONS["dilated"], OPERATIONS["mean"]


def archs(space: MobileSpace, count: int) -> list[MobileArch]:
    source = random.Random(0)
    found = [space.arch(space.random(source)) for _ in range(count)]
    assert {block.kernel for arch in found for block in arch.blocks} == {3, 5, "dilated", "mean"}
    return found


def test_costs_are_those_of_the_module(space: MobileSpace) -> None:
    for arch in archs(space, 8):
        module, exact = build(arch), costs(arch)
        assert sum(count_fvcore(module, SIDE, 3).values()) == exact.flops
        assert sum(weight.numel() for weight in module.parameters()) == exact.params


def test_the_cost_table_is_exact_and_its_expectation_has_gradients(space: MobileSpace) -> None:
    table = Budgets(space, [Budget(cost="flops", limit=10**6)]).tables["flops"]
    choice, alphas = space.random(random.Random(1)), Alphas(space)
    assert table.exact(choice) == costs(space.arch(choice)).flops
    assert float(table.expected(alphas.one_hot(choice))) == table.exact(choice)
    table.expected(alphas.soft(1.0)).backward()
    gradient = alphas.logits["kernel"].grad
    assert gradient is not None and (gradient[:, 1] > gradient[:, 3]).all()  # 5x5 against mean


def test_the_mixture_a_part_of_it_and_the_network_are_one(space: MobileSpace) -> None:
    torch.manual_seed(0)
    net, alphas = SuperNetwork(space, SamplerSettings(name="full", partial=1)), Alphas(space)
    for weight in net.parameters():
        weight.data.normal_(std=0.3)
    net.eval()
    source, x = random.Random(0), torch.randn(2, 3, SIDE, SIDE)
    for _ in range(6):
        choice = space.random(source)
        with torch.no_grad():
            mixed, alone = net(x, alphas.one_hot(choice)), net.run(x, choice)
        own = inherited(net, choice, 0).eval()  # running statistics are fresh in both
        assert alone == pytest.approx(mixed, rel=1e-4, abs=1e-4)
        assert own(x).detach() == pytest.approx(alone, rel=1e-4, abs=1e-4)


def test_files_name_the_operation(space: MobileSpace) -> None:
    assert from_plain(MobileSpace, to_plain(space), "space") == space
    (arch,) = archs(space, 8)[:1]
    plain = arch.to_dict()
    assert MobileArch.from_dict(plain) == arch
    plain["blocks"][0]["kernel"] = "gone"
    with pytest.raises(MobileNASError, match=r"blocks\[0\].kernel is 'gone'.*dilated, mean"):
        MobileArch.from_dict(plain)


def test_neither_a_profile_nor_the_prior_takes_it_for_a_convolution(space: MobileSpace) -> None:
    for arch in archs(space, 8):
        plain = all(isinstance(block.kernel, int) for block in arch.blocks)
        assert family_of(arch).has_units(arch) == plain
        assert features(arch)["kernel"] <= 5
    plain_space = replace(space, kernels=space.sides)
    for known in (space, plain_space):
        budgets = Budgets(known, [Budget(cost="flops", limit=10**6)])
        assert uses_prior(SearchSettings(prior=True), budgets) == (known is plain_space)


@pytest.mark.parametrize("kernels", [("mean", 3), (5, 3), ("mean",), (3, "gone")])
def test_kernels_are_sides_and_then_known_operations(
    space: MobileSpace, kernels: tuple[int | str, ...]
) -> None:
    plain = to_plain(space) | {"kernels": list(kernels)}
    with pytest.raises(MobileNASError, match=r"gone|increasing sides, then operations"):
        from_plain(MobileSpace, plain, "space")
