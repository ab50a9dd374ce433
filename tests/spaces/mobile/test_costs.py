import random
from dataclasses import replace

import pytest

from mobilenas.cost.networks import costs, layer_costs
from mobilenas.onnx.recount import count_fvcore
from mobilenas.spaces.mobile.arch import Block, Head, MobileArch, Stem
from mobilenas.spaces.mobile.settings import POLICIES
from mobilenas.spaces.mobile.space import MobileSpace
from mobilenas.spaces.mobile.template import template
from mobilenas.spaces.networks import build


def block(hidden: int, out: int, stride: int = 1, squeeze: int = 0, start: int = 0) -> Block:
    return Block(
        kernel=3,
        hidden=hidden,
        out=out,
        stride=stride,
        squeeze=squeeze,
        activation="relu",
        start_kernel=start,
    )


def handmade(*blocks: Block, hidden: int = 0) -> MobileArch:
    """8x8 RGB, the chain at 4x4."""
    return MobileArch(
        image_size=8,
        in_channels=3,
        classes=10,
        stem=Stem(channels=8, stride=2, activation="relu"),
        blocks=blocks,
        head=Head(channels=32, hidden=hidden, activation="relu", dropout=0.0),
    )


@pytest.mark.parametrize("seed", range(4))
def test_random_archs_cost_what_fvcore_and_the_module_say(
    tiny_space: MobileSpace, seed: int
) -> None:
    spaces = [template(0.4, image_size=40, classes=6, extra_depthwise=e) for e in POLICIES]
    for space in (tiny_space, *spaces):
        arch = space.arch(space.random(random.Random(seed)))
        module, exact = build(arch), costs(arch)
        counted = count_fvcore(module, arch.image_size, arch.in_channels)
        assert exact.flops == sum(counted.values())
        assert exact.params == sum(weight.numel() for weight in module.parameters())
        assert [layer.flops for layer in layer_costs(arch)] == list(counted.values())


@pytest.mark.parametrize("side", [8, 9])
def test_padding_changes_no_cost(side: int) -> None:
    chain = (block(24, 8, stride=2), replace(block(24, 8, stride=2), kernel=5))
    arch = replace(handmade(*chain), image_size=side, padding="same")
    exact = costs(arch)
    assert exact == costs(replace(arch, padding="symmetric"))
    assert exact.flops == sum(count_fvcore(build(arch), side, 3).values())


def test_a_hidden_layer_in_the_head_counts() -> None:
    arch = handmade(block(24, 8), hidden=20)
    module, exact = build(arch), costs(arch)
    assert exact.flops == sum(count_fvcore(module, 8, 3).values())
    assert exact.params == sum(weight.numel() for weight in module.parameters())


def test_memory_of_every_layer_by_hand() -> None:
    # 8 channels at 4x4 are 128 values, 24 are 384
    chain = block(24, 8, squeeze=8), block(24, 8, start=3), block(8, 8), block(8, 16, stride=2)
    arch = handmade(*chain, hidden=20)
    values = {
        "stem": 3 * 64 + 128,
        "blocks.0.expand": 128 + 384,  # its input is what the shortcut keeps
        "blocks.0.depthwise": 384 + 384 + 128,
        "blocks.0.squeeze_excite.reduce": 384 + 24 + 8 + 128,
        "blocks.0.squeeze_excite.expand": 384 + 384 + 8 + 24 + 128,
        "blocks.0.project": 384 + 128 + 128,
        "blocks.1.start": 128 + 128,  # now it is this layer's
        "blocks.1.expand": 128 + 384 + 128,
        "blocks.1.depthwise": 384 + 384 + 128,
        "blocks.1.project": 384 + 128 + 128,
        "blocks.2.depthwise": 128 + 128,  # no expansion: its input is what the shortcut keeps
        "blocks.2.project": 128 + 128 + 128,
        "blocks.3.depthwise": 128 + 32,  # 2x2 from here on, and no shortcut
        "blocks.3.project": 32 + 64,
        "head": 64 + 128,
        "classifier.hidden": 32 + 20,
        "classifier": 20 + 10,
    }
    assert {layer.name: layer.memory for layer in layer_costs(arch)} == {
        name: 4 * count for name, count in values.items()
    }
    assert costs(arch).memory == 4 * 928
