"""EfficientNet-Lite as archs (github.com/tensorflow/tpu, models/official/efficientnet/lite)."""

from collections.abc import Sequence
from math import ceil

from mobilenas.nn import make_divisible
from mobilenas.spaces.mobile.arch import Block, Head, MobileArch, Stem

STAGES = (
    (3, 16, 1, 1, 1),
    (3, 24, 2, 2, 6),
    (5, 40, 2, 2, 6),
    (3, 80, 3, 2, 6),
    (5, 112, 3, 1, 6),
    (5, 192, 4, 2, 6),
    (3, 320, 1, 1, 6),
)
"""Stages of Lite0: kernel, channels, number of blocks, stride, expansion."""
# of Lite0, 1 and 2: multipliers of width and depth, dropout
_SIZES = ((1.0, 1.0, 0.2), (1.0, 1.1, 0.2), (1.1, 1.2, 0.3))


def repeated(
    stages: Sequence[tuple[int, int, int, int, int]], before: int, width: float, depth: float = 1.0
) -> tuple[Block, ...]:
    """Return the blocks of stages like `STAGES`; the first block's input has `before` channels.

    `width` multiplies the channels, `depth` the blocks of stages that have more than one.
    """
    blocks = list[Block]()
    for kernel, channels, repeats, stride, expansion in stages:
        out = make_divisible(channels * width)
        for index in range(repeats if repeats == 1 else ceil(repeats * depth)):
            blocks.append(
                Block(
                    kernel=kernel,
                    hidden=before * expansion,
                    out=out,
                    stride=1 if index else stride,
                    squeeze=0,
                    activation="relu6",
                )
            )
            before = out
    return tuple(blocks)


def efficientnet_lite(size: int, image_size: int, classes: int) -> MobileArch:
    """Return EfficientNet-Lite0, 1 or 2; stem, head, and depth of the outer stages do not scale."""
    width, depth, dropout = _SIZES[size]
    return MobileArch(
        image_size=image_size,
        in_channels=3,
        classes=classes,
        stem=Stem(channels=32, stride=2, activation="relu6"),
        blocks=repeated(STAGES, 32, width, depth),
        head=Head(channels=1280, hidden=0, activation="relu6", dropout=dropout),
        padding="same",
        epsilon=1e-3,
        momentum=0.01,
    )
