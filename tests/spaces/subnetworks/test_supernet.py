"""The parts of a network, run alone, mixed and built: all are the same function."""

import random
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from mobilenas.core.errors import MobileNASError
from mobilenas.nn.network import resized
from mobilenas.spaces.mobile.arch import Block, Head, MobileArch, Stem
from mobilenas.spaces.networks import build
from mobilenas.spaces.subnetworks.relaxation import Alphas
from mobilenas.spaces.subnetworks.space import SubnetworkSpace
from mobilenas.spaces.subnetworks.supernet import SubnetworkSupernet, inherited
from mobilenas.spaces.subnetworks.weights import part, reordered
from mobilenas.supernet.settings import SamplerSettings


def block(**given: object) -> Block:
    usual = {"kernel": 3, "stride": 1, "squeeze": 0, "activation": "relu6"}
    return Block(**usual | given)  # type: ignore[arg-type]


WHOLE = MobileArch(
    image_size=20,
    in_channels=3,
    classes=4,
    stem=Stem(channels=8, stride=2, activation="relu6"),
    blocks=(
        block(hidden=8, out=16),
        block(hidden=96, out=24, kernel=5, stride=2, squeeze=8),
        block(hidden=72, out=24, kernel=7, start_kernel=3),
        block(hidden=48, out=24),
        block(hidden=72, out=32, stride=2),
    ),
    head=Head(channels=40, hidden=0, activation="relu6", dropout=0.2),
    padding="same",
    epsilon=1e-3,
    momentum=0.01,
)
SPACE = SubnetworkSpace(whole=WHOLE, sides=(13, 16, 20))


def random_state(arch: MobileArch) -> dict[str, Tensor]:
    """Return weights and statistics of which none is that of another channel."""
    network, generator = build(arch), torch.Generator().manual_seed(0)
    state = network.state_dict()
    for value in state.values():
        if value.is_floating_point():
            value.uniform_(0.5, 1.5, generator=generator)
            if value.dim() > 1:
                value.sub_(1.0)
    return state


@pytest.fixture(scope="module")
def net() -> SubnetworkSupernet:
    made = SubnetworkSupernet(SPACE, SamplerSettings(name="full", partial=1))
    made.start_from(random_state(WHOLE))
    return made.eval()


def images(side: int = 20) -> Tensor:
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1))


def test_the_largest_choice_is_the_network_that_was_given(net: SubnetworkSupernet) -> None:
    given = build(WHOLE)
    given.load_state_dict(random_state(WHOLE))
    with torch.no_grad():
        expected, found = given.eval()(images()), net.run(images(), SPACE.largest())
    torch.testing.assert_close(found, expected)
    assert float(expected.std()) > 1e-3


def test_hidden_channels_are_in_the_order_of_importance() -> None:
    state = random_state(WHOLE)
    state["blocks.1.project.0.weight"][:, 70] = 100.0
    state["blocks.1.depthwise.1.weight"][3] = 0.0
    found = reordered(SPACE, state)
    assert torch.equal(
        found["blocks.1.project.0.weight"][:, 0], state["blocks.1.project.0.weight"][:, 70]
    )
    assert torch.equal(found["blocks.1.expand.0.weight"][-1], state["blocks.1.expand.0.weight"][3])


@pytest.mark.parametrize("seed", range(6))
def test_a_part_alone_mixed_and_built_is_the_same(net: SubnetworkSupernet, seed: int) -> None:
    choice = SPACE.random(random.Random(seed))
    side = SPACE.arch(choice).image_size
    with torch.no_grad():
        alone = net.run(images(), choice)
        mixed = net(images(), Alphas(SPACE).one_hot(choice))
        built = inherited(net, choice, seed=0).eval()(resized(images(), side))
    torch.testing.assert_close(mixed, alone)
    torch.testing.assert_close(built, alone)


def test_every_option_of_a_block_is_what_the_arch_says() -> None:
    slots = SPACE.slots
    assert [slot.hidden for slot in slots] == [
        (8,),
        (32, 48, 64, 80, 96),
        (40, 48, 64, 72),
        (16, 32, 40, 48),
        (40, 48, 64, 72),
    ]
    assert [slot.kernels for slot in slots] == [(3,), (3, 5), (3, 5, 7), (3,), (3,)]
    assert [slot.squeeze for slot in slots] == [(False,), (False, True), *[(False,)] * 3]
    assert SPACE.depths == (1, 3, 1)
    smallest = SPACE.arch(SPACE.smallest())
    assert (smallest.image_size, len(smallest.blocks)) == (13, 3)


def test_the_parts_of_a_block_are_the_first_channels_and_the_middle_of_the_kernel() -> None:
    state = random_state(WHOLE)
    choice = replace(
        SPACE.largest(), hidden=(0, 0, 3, 3, 3), kernel=(0, 0, 2, 0, 0), depth=(0, 0, 0)
    )
    found = part(SPACE, choice, state)
    assert torch.equal(
        found["blocks.1.depthwise.0.weight"],
        state["blocks.1.depthwise.0.weight"][:32, :, 1:4, 1:4],
    )
    assert torch.equal(
        found["blocks.1.squeeze_excite.reduce.weight"],
        state["blocks.1.squeeze_excite.reduce.weight"][:, :32],
    )
    # the stage has one block only: what follows it is the next stage's
    assert torch.equal(found["blocks.2.expand.0.weight"], state["blocks.4.expand.0.weight"])
    assert set(found) == set(build(SPACE.arch(choice)).state_dict())


def test_running_a_part_moves_the_statistics_of_its_channels_alone() -> None:
    net = SubnetworkSupernet(SPACE, SamplerSettings(name="full", partial=1)).train()
    net.run(images(), replace(SPACE.largest(), hidden=(0, 0, 3, 3, 3)))
    norm = net.whole.blocks[1].depthwise[1]  # type: ignore[index,union-attr]
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert bool(norm.running_mean[:32].any())
    assert not bool(norm.running_mean[32:].any())


def test_networks_of_another_side_differ_in_all_blocks() -> None:
    whole = SPACE.largest()
    assert SPACE.distance(whole, replace(whole, side=(0,))) == 5
    assert SPACE.distance(whole, replace(whole, hidden=(0, 0, 3, 3, 3))) == 1
    shallow = replace(whole, depth=(0, 1, 0))
    # what a block that is left out would be makes no difference
    assert SPACE.distance(shallow, replace(shallow, hidden=(0, 4, 3, 0, 3))) == 0


@pytest.mark.parametrize("seed", range(6))
def test_the_choice_of_an_arch_is_found_again(seed: int) -> None:
    arch = SPACE.arch(SPACE.random(random.Random(seed)))
    assert SPACE.arch(SPACE.choice(arch)) == arch


def test_an_arch_that_is_no_part_is_refused() -> None:
    for other in (
        replace(WHOLE, image_size=24),
        replace(WHOLE, blocks=WHOLE.blocks[:-1]),
        replace(WHOLE, blocks=(*WHOLE.blocks, WHOLE.blocks[-1])),
        replace(WHOLE, blocks=(replace(WHOLE.blocks[0], kernel=5), *WHOLE.blocks[1:])),
    ):
        with pytest.raises(MobileNASError, match="not a subnetwork"):
            SPACE.choice(other)


def test_looking_at_a_network_twice_in_training_mode_sees_the_same(
    net: SubnetworkSupernet,
) -> None:
    net.train()  # with dropout on it would not
    with torch.no_grad():
        first, second = (net.run(images(), SPACE.largest()) for _ in range(2))
    net.eval()
    assert torch.equal(first, second)
