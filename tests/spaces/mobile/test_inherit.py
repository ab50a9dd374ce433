"""What a network takes from a supernet, held against what the supernet runs."""

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from mobilenas.spaces.mobile.build import MobileNetwork
from mobilenas.spaces.mobile.inherit import inherited
from mobilenas.spaces.mobile.space import Choice, MobileSpace
from mobilenas.spaces.mobile.supernet import SuperNetwork
from mobilenas.supernet.settings import SamplerSettings


@pytest.fixture(autouse=True)
def in_float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def supernet(space: MobileSpace, name: str = "full", partial: int = 1) -> SuperNetwork:
    """In training mode, with no weight at a start value that would hide a mistake."""
    torch.manual_seed(0)
    net = SuperNetwork(space, SamplerSettings(name=name, partial=partial)).train()
    for weight in net.parameters():
        weight.data.normal_(std=0.5)
    return net


def choices(space: MobileSpace) -> list[Choice]:
    source = random.Random(7)
    return [space.smallest(), space.largest(), *(space.random(source) for _ in range(5))]


@pytest.mark.parametrize("start_kernels", [(0,), (3,), (0, 3)])
def test_it_is_the_network_that_the_supernet_runs(
    tiny_space: MobileSpace, start_kernels: tuple[int, ...]
) -> None:
    space = replace(tiny_space, start_kernels=start_kernels)
    x = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(9))
    for choice in choices(space):
        net = supernet(space)
        network = inherited(net, choice, 3)
        # by the statistics of the batch; running ones start anew
        torch.testing.assert_close(network.train()(x), net.run(x, choice))
        fresh = MobileNetwork(space.arch(choice)).state_dict()
        kept = inherited(net, choice, 3).state_dict()
        for name in (name for name in kept if "running" in name):
            assert torch.equal(kept[name], fresh[name])


def test_nothing_is_shared_with_the_supernet_and_no_generator_moves(
    tiny_space: MobileSpace,
) -> None:
    net, choice = supernet(tiny_space), tiny_space.largest()
    before, state = {k: v.clone() for k, v in net.state_dict().items()}, torch.get_rng_state()
    network = inherited(net, choice, 3)
    assert all(weight.requires_grad for weight in network.parameters())
    for weight in network.parameters():
        weight.data.zero_()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_block_of_which_a_part_entered_is_drawn_by_the_seed(tiny_space: MobileSpace) -> None:
    net, choice = supernet(tiny_space, "random", 2), tiny_space.largest()
    network, again, other = (inherited(net, choice, seed) for seed in (3, 3, 4))
    torch.manual_seed(3)
    drawn = MobileNetwork(tiny_space.arch(choice))
    slots = tiny_space.slots
    assert {slot.first for slot in slots} == {True, False}
    for number, slot in enumerate(slots):
        for name, weight in network.blocks[number].named_parameters():
            assert torch.equal(weight, again.blocks[number].get_parameter(name))
            assert torch.equal(weight, drawn.blocks[number].get_parameter(name)) != slot.first
            same = torch.equal(weight, other.blocks[number].get_parameter(name))
            assert same or not slot.first
    kernels = [n.blocks[1].depthwise[0].weight for n in (network, other)]
    assert not torch.equal(*kernels)
    assert torch.equal(network.classifier[-1].weight, net.classifier.weight)
