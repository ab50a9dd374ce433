"""A network with all channels narrowed alike."""

from dataclasses import replace

import pytest
import torch

from mobilenas.spaces.mobile.efficientnet_lite import efficientnet_lite
from mobilenas.spaces.mobile.mobilenets import mobilenet_v3_small
from mobilenas.spaces.networks import build
from mobilenas.spaces.subnetworks.narrow import narrowed, narrowed_state, same_layers

from .test_supernet import WHOLE, images, random_state


def test_all_channels_are_narrowed_and_the_weights_fit() -> None:
    narrow = narrowed(WHOLE, 0.5)
    # the first block keeps another width than the stem, which would add a shortcut
    assert [block.out for block in narrow.blocks] == [16, 16, 16, 16, 16]
    assert [block.hidden for block in narrow.blocks] == [8, 48, 40, 24, 40]
    assert (narrow.stem.channels, narrow.head.channels) == (8, 24)
    network = build(narrow)
    network.load_state_dict(narrowed_state(WHOLE, narrow, random_state(WHOLE)))
    assert network.eval()(images()).shape == (2, 4)


def test_the_whole_width_is_the_network_itself() -> None:
    assert narrowed(WHOLE, 1.0) == WHOLE
    state = random_state(WHOLE)
    found = narrowed_state(WHOLE, WHOLE, state)
    assert all(torch.equal(found[key], state[key]) for key in state)


@pytest.mark.parametrize("first", [16, 48])
def test_channels_that_do_nothing_go_first_and_change_nothing(first: int) -> None:
    # of 16 channels the first block has a shortcut, which ties it to the stem
    stem, blocks = replace(WHOLE.stem, channels=first), list(WHOLE.blocks)
    blocks[0] = replace(blocks[0], hidden=first)
    whole_arch = replace(WHOLE, stem=stem, blocks=tuple(blocks))
    state = random_state(whole_arch)
    narrow = narrowed(whole_arch, 0.5)
    # silence all but the channels that stay, through every shortcut of a stage
    silent = {
        "stem.1": narrow.stem.channels,
        "head.1": narrow.head.channels,
        "blocks.2.start.1": narrow.blocks[1].out,
    }
    for number, other in enumerate(narrow.blocks):
        silent[f"blocks.{number}.depthwise.1"] = other.hidden
        silent[f"blocks.{number}.project.1"] = other.out
    for layer, count in silent.items():
        for part in ("weight", "bias"):
            state[f"{layer}.{part}"][count:] = 0.0
    whole, network = build(whole_arch), build(narrow)
    whole.load_state_dict(state)
    network.load_state_dict(narrowed_state(whole_arch, narrow, state))
    with torch.no_grad():
        expected, found = whole.eval()(images()), network.eval()(images())
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("width", [0.9, 0.6, 0.4, 0.25, 0.1])
def test_a_narrowed_network_has_the_layers_that_the_whole_has(width: float) -> None:
    for whole in (efficientnet_lite(0, 64, 12), mobilenet_v3_small(1.0, 224, 12)):
        assert same_layers(whole, narrowed(whole, width))
