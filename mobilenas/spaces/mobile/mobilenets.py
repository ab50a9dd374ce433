"""MobileNets and EfficientNet-Lite0 at any width, as archs; the strides of small images."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from mobilenas.core.registry import Registry
from mobilenas.core.settings import check_choice
from mobilenas.nn import make_divisible, squeeze_channels
from mobilenas.spaces.mobile.arch import Block, Head, MobileArch, Stem
from mobilenas.spaces.mobile.efficientnet_lite import STAGES, repeated

SMALL_SIDE = 128
"""Images with a smaller side than this, in pixels, get fewer layers of stride 2."""
LAST_SIDE = 4
"""Minimum side of the last feature map of a small image, in pixels."""
PLACEMENTS = ("early", "late")
"""Which strides of 2 a small image keeps: the first or the last ones."""

# channels, stride (Howard et al. 2017, table 1)
_V1 = (
    *((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)),
    *((512, 1),) * 5,
    *((1024, 2), (1024, 1)),
)
# kernel, channels, repeats, stride, expansion (Sandler et al. 2018, table 2)
_V2 = (
    (3, 16, 1, 1, 1),
    (3, 24, 2, 2, 6),
    (3, 32, 3, 2, 6),
    (3, 64, 4, 2, 6),
    (3, 96, 3, 1, 6),
    (3, 160, 3, 2, 6),
    (3, 320, 1, 1, 6),
)
# kernel, hidden, channels, squeeze-excite, activation, stride (Howard et al. 2019, tables 1 and 2)
_V3_LARGE = (
    (3, 16, 16, 0, "relu", 1),
    (3, 64, 24, 0, "relu", 2),
    (3, 72, 24, 0, "relu", 1),
    (5, 72, 40, 1, "relu", 2),
    (5, 120, 40, 1, "relu", 1),
    (5, 120, 40, 1, "relu", 1),
    (3, 240, 80, 0, "hard_swish", 2),
    (3, 200, 80, 0, "hard_swish", 1),
    (3, 184, 80, 0, "hard_swish", 1),
    (3, 184, 80, 0, "hard_swish", 1),
    (3, 480, 112, 1, "hard_swish", 1),
    (3, 672, 112, 1, "hard_swish", 1),
    (5, 672, 160, 1, "hard_swish", 2),
    (5, 960, 160, 1, "hard_swish", 1),
    (5, 960, 160, 1, "hard_swish", 1),
)
_V3_SMALL = (
    (3, 16, 16, 1, "relu", 2),
    (3, 72, 24, 0, "relu", 2),
    (3, 88, 24, 0, "relu", 1),
    (5, 96, 40, 1, "hard_swish", 2),
    (5, 240, 40, 1, "hard_swish", 1),
    (5, 240, 40, 1, "hard_swish", 1),
    (5, 120, 48, 1, "hard_swish", 1),
    (5, 144, 48, 1, "hard_swish", 1),
    (5, 288, 96, 1, "hard_swish", 2),
    (5, 576, 96, 1, "hard_swish", 1),
    (5, 576, 96, 1, "hard_swish", 1),
)
# start kernel, kernel, channels, stride, expansion (Qin et al. 2024, table 11); two fused blocks
# precede them, given by the channels of both convolutions
_V4_FUSED = ((32, 32), (96, 64))
_V4 = (
    (5, 5, 96, 2, 3),
    *((0, 3, 96, 1, 2),) * 4,
    (3, 0, 96, 1, 4),
    (3, 3, 128, 2, 6),
    (5, 5, 128, 1, 4),
    (0, 5, 128, 1, 4),
    (0, 5, 128, 1, 3),
    *((0, 3, 128, 1, 4),) * 2,
)


def small_image_strides(
    strides: Sequence[int], image_size: int, placement: str = "early"
) -> tuple[int, ...]:
    """Turn strides of 2 into 1, so that the last feature map of a small image is at least 4x4.

    Of the 2s, `early` keeps the first ones, `late` the last ones, as common CIFAR variants do.
    Images of 128 pixels or more keep all. The rule is the same for all networks of a comparison.
    """
    check_choice("stride placement", placement, PLACEMENTS)
    if image_size >= SMALL_SIDE:
        return tuple(strides)
    side, halvings = image_size, 0
    while (side + 1) // 2 >= LAST_SIDE:
        side, halvings = (side + 1) // 2, halvings + 1
    halving = [place for place, stride in enumerate(strides) if stride == 2]
    kept = (
        halving[:halvings] if placement == "early" else halving[max(0, len(halving) - halvings) :]
    )
    return tuple(2 if place in kept else 1 for place in range(len(strides)))


def mobilenet_v1(
    width: float, image_size: int, classes: int, placement: str = "early"
) -> MobileArch:
    """Return MobileNetV1, with ReLU: separable convolutions, no 1x1 convolution in the head."""
    before = stem = make_divisible(32 * width)
    blocks = list[Block]()
    for channels, _ in _V1:
        out = make_divisible(channels * width)
        blocks.append(
            Block(
                kernel=3,
                hidden=before,
                out=out,
                stride=1,
                squeeze=0,
                activation="relu",
                activates_output=True,
            )
        )
        before = out
    head = Head(channels=0, hidden=0, activation="relu", dropout=0.2)
    strides = [2, *(stride for _, stride in _V1)]
    return _assemble(stem, "relu", blocks, strides, head, image_size, classes, placement)


def mobilenet_v2(
    width: float, image_size: int, classes: int, placement: str = "early"
) -> MobileArch:
    """Return MobileNetV2; widths below 1 also shrink the 1280 head channels, for small budgets."""
    return _repeated(_V2, width, image_size, classes, placement)


def efficientnet_lite0(
    width: float, image_size: int, classes: int, placement: str = "early"
) -> MobileArch:
    """Return EfficientNet-Lite0, scaled like `mobilenet_v2`, with symmetric padding.

    `mobilenas.spaces.mobile.efficientnet_lite` has the networks of the pretrained weights.
    """
    return _repeated(STAGES, width, image_size, classes, placement)


def mobilenet_v4_conv_small(
    width: float, image_size: int, classes: int, placement: str = "early"
) -> MobileArch:
    """Return MobileNetV4-Conv-S; its hidden layer of 1280 has a bias instead of a batch norm."""
    before = stem = make_divisible(32 * width)
    blocks, strides = list[Block](), [2]
    for first, second in _V4_FUSED:
        before = make_divisible(second * width)
        strides.append(2)
        blocks.append(
            Block(
                kernel=3,
                hidden=make_divisible(first * width),
                out=before,
                stride=1,
                squeeze=0,
                activation="relu",
                fused=True,
                activates_output=True,
            )
        )
    for start, kernel, channels, stride, expansion in _V4:
        out = make_divisible(channels * width)
        strides.append(stride)
        blocks.append(
            Block(
                kernel=kernel,
                hidden=before * expansion,
                out=out,
                stride=1,
                squeeze=0,
                activation="relu",
                start_kernel=start,
            )
        )
        before = out
    head = Head(
        channels=make_divisible(960 * width),
        hidden=make_divisible(1280 * width),
        activation="relu",
        dropout=0.2,
    )
    return _assemble(stem, "relu", blocks, strides, head, image_size, classes, placement)


def mobilenet_v3_large(
    width: float, image_size: int, classes: int, placement: str = "early"
) -> MobileArch:
    """Return MobileNetV3-Large."""
    return _v3(_V3_LARGE, 1280, width, image_size, classes, placement)


def mobilenet_v3_small(
    width: float, image_size: int, classes: int, placement: str = "early"
) -> MobileArch:
    """Return MobileNetV3-Small."""
    return _v3(_V3_SMALL, 1024, width, image_size, classes, placement)


MOBILENETS = Registry[Callable[..., MobileArch]](
    "baseline",
    {
        "mobilenet_v2": mobilenet_v2,
        "mobilenet_v3_small": mobilenet_v3_small,
        "mobilenet_v3_large": mobilenet_v3_large,
        "mobilenet_v1": mobilenet_v1,
        "mobilenet_v4_conv_small": mobilenet_v4_conv_small,
        "efficientnet_lite0": efficientnet_lite0,
    },
)
"""The baselines by name: (width multiplier, image size, classes, stride placement) -> arch."""


def _repeated(
    stages: Sequence[tuple[int, int, int, int, int]],
    width: float,
    image_size: int,
    classes: int,
    placement: str,
) -> MobileArch:
    stem = make_divisible(32 * width)
    blocks = repeated(stages, stem, width)
    strides = [2, *(block.stride for block in blocks)]
    head = Head(channels=make_divisible(1280 * width), hidden=0, activation="relu6", dropout=0.2)
    return _assemble(stem, "relu6", blocks, strides, head, image_size, classes, placement)


def _v3(
    rows: Sequence[tuple[int, int, int, int, str, int]],
    last: int,
    width: float,
    image_size: int,
    classes: int,
    placement: str,
) -> MobileArch:
    blocks = []
    for kernel, hidden, channels, squeeze, activation, _ in rows:
        scaled = make_divisible(hidden * width)
        blocks.append(
            Block(
                kernel=kernel,
                hidden=scaled,
                out=make_divisible(channels * width),
                stride=1,
                squeeze=squeeze_channels(scaled) if squeeze else 0,
                activation=activation,
            )
        )
    head = Head(
        channels=6 * blocks[-1].out,
        hidden=make_divisible(last * width),
        activation="hard_swish",
        dropout=0.2,
    )
    strides = [2, *(row[-1] for row in rows)]
    stem = make_divisible(16 * width)
    return _assemble(stem, "hard_swish", blocks, strides, head, image_size, classes, placement)


def _assemble(
    stem: int,
    activation: str,
    blocks: Sequence[Block],
    strides: Sequence[int],
    head: Head,
    image_size: int,
    classes: int,
    placement: str,
) -> MobileArch:
    first, *rest = small_image_strides(strides, image_size, placement)
    return MobileArch(
        image_size=image_size,
        in_channels=3,
        classes=classes,
        stem=Stem(channels=stem, stride=first, activation=activation),
        blocks=tuple(
            replace(block, stride=stride) for block, stride in zip(blocks, rest, strict=True)
        ),
        head=head,
    )
