"""Exact costs of a mobile arch, layer by layer, without building it.

Counting rule: one multiply-add is one FLOP.
"""

from collections.abc import Iterator

from mobilenas.nn.costs import BYTES_PER_VALUE, Costs, LayerCost, output_side, total
from mobilenas.nn.operations import operation_of
from mobilenas.spaces.mobile.arch import Block, Head, MobileArch, Stem


def costs(arch: MobileArch) -> Costs:
    """Return FLOPs, params and peak memory of an arch."""
    return total(layer_costs(arch))


def layer_costs(arch: MobileArch) -> list[LayerCost]:
    """Return the costs of all layers of an arch, in the order they run."""
    side = output_side(arch.image_size, arch.stem.stride)
    layers = [stem_cost(arch.stem, arch.in_channels, arch.image_size)]
    channels = arch.stem.channels
    for index, block in enumerate(arch.blocks):
        layers += block_costs(block, channels, side, f"blocks.{index}")
        channels, side = block.out, output_side(side, block.stride)
    return layers + head_costs(arch.head, channels, side, arch.classes)


def stem_cost(stem: Stem, in_channels: int, image_size: int) -> LayerCost:
    """Return the cost of the stem, a 3x3 convolution."""
    return _conv("stem", in_channels, stem.channels, 3, image_size, stem.stride, 1, 0)


def block_costs(block: Block, channels: int, side: int, name: str = "block") -> list[LayerCost]:
    """Return the costs of the layers of a block with input [channels, side, side]."""
    hidden, out_side = block.hidden, output_side(side, block.stride)
    shortcut = block.stride == 1 and channels == block.out and not block.activates_output
    waiting = channels * side * side * BYTES_PER_VALUE if shortcut else 0
    layers = []
    held = 0  # the shortcut is the first layer's input, which already counts there
    if start := block.start_kernel:
        layers.append(_conv(f"{name}.start", channels, channels, start, side, 1, channels, held))
        held = waiting
    if block.fused:
        assert isinstance(block.kernel, int)
        size = block.kernel, side, block.stride
        layers.append(_conv(f"{name}.expand", channels, hidden, *size, 1, held))
    elif hidden != channels:
        layers.append(_conv(f"{name}.expand", channels, hidden, 1, side, 1, 1, held))
        held = waiting
    if block.kernel != 0 and not block.fused:
        layers.append(_operation(f"{name}.depthwise", block, side, held))
    if block.squeeze:
        layers += _squeeze_excite(
            f"{name}.squeeze_excite", hidden, block.squeeze, out_side, waiting
        )
    layers.append(_conv(f"{name}.project", hidden, block.out, 1, out_side, 1, 1, waiting))
    return layers


def head_costs(head: Head, channels: int, side: int, classes: int) -> list[LayerCost]:
    """Return the costs of the layers after the blocks, whose output is [channels, side, side]."""
    layers = [_conv("head", channels, head.channels, 1, side, 1, 1, 0)] if head.channels else []
    features = head.channels or channels
    if head.hidden:
        layers.append(_linear("classifier.hidden", features, head.hidden))
    layers.append(_linear("classifier", head.hidden or features, classes))
    return layers


def _conv(
    name: str,
    in_channels: int,
    out_channels: int,
    kernel: int,
    side: int,
    stride: int,
    groups: int,
    waiting: int,
) -> LayerCost:
    out_side = output_side(side, stride)
    weights = out_channels * (in_channels // groups) * kernel**2
    alive = in_channels * side**2 + out_channels * out_side**2
    return LayerCost(
        name=name,
        flops=weights * out_side**2,
        params=weights + 2 * out_channels,
        memory=alive * BYTES_PER_VALUE + waiting,
        out_shape=(out_channels, out_side, out_side),
    )


def _operation(name: str, block: Block, side: int, waiting: int) -> LayerCost:
    operation, hidden = operation_of(block.kernel), block.hidden
    out_side = output_side(side, block.stride)
    return LayerCost(
        name=name,
        flops=operation.flops * hidden * out_side**2,
        params=(operation.params + 2) * hidden,
        memory=hidden * (side**2 + out_side**2) * BYTES_PER_VALUE + waiting,
        out_shape=(hidden, out_side, out_side),
    )


def _linear(name: str, in_features: int, out_features: int) -> LayerCost:
    return LayerCost(
        name=name,
        flops=in_features * out_features,
        params=(in_features + 1) * out_features,
        memory=(in_features + out_features) * BYTES_PER_VALUE,
        out_shape=(out_features, 1, 1),
    )


def _squeeze_excite(
    name: str, hidden: int, squeeze: int, side: int, waiting: int
) -> Iterator[LayerCost]:
    feature_bytes = hidden * side**2 * BYTES_PER_VALUE
    for part, before, after in (("reduce", hidden, squeeze), ("expand", squeeze, hidden)):
        # the last step multiplies the features by their gate into a new tensor
        alive = feature_bytes * (2 if part == "expand" else 1)
        yield LayerCost(
            name=f"{name}.{part}",
            flops=before * after,
            params=(before + 1) * after,
            memory=alive + (before + after) * BYTES_PER_VALUE + waiting,
            out_shape=(after, 1, 1),
        )
