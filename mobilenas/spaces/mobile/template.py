"""The mobile spaces there are for a side of the images: one for every width multiplier."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Required, TypedDict, Unpack

import numpy as np

from mobilenas.core.settings import check_choice
from mobilenas.nn import ACTIVATIONS, make_divisible
from mobilenas.spaces.mobile.arch import Head, Stem
from mobilenas.spaces.mobile.mobilenets import LAST_SIDE, PLACEMENTS
from mobilenas.spaces.mobile.settings import POLICIES
from mobilenas.spaces.mobile.space import MobileSpace, Stage

_WIDTH = 16
"""Middle width of the first stage at multiplier 1."""
_MIN_WIDTH, _MIN_LAST = 16, 24
"""Middle of a stage's widths, and of the last stage's, at least: fewer starve the head."""
_STEM = 8
"""Channels of the stem at multiplier 1, and at least."""
_HEAD, _MIN_HEAD = 4, 192
"""Channels of the head, as a multiple of the last stage's, and at least."""
_MAX_HALVINGS = 5
_KERNELS = (3, 5)
_START_KERNEL = 3
_SHARE = 0.05
"""Of uniformly drawn archs that keep the budgets."""
_LATE_SHARE = 0.2
"""The same of the narrowest space, from which on the stem of a small image keeps its resolution."""
_LATE_BELOW = 64
"""Side from which on the stem always halves the image."""
_NARROWEST, _WIDEST, _BISECTIONS = 0.1, 16.0, 14


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How a template spreads its FLOPs over the stages."""

    blocks: int = 3
    """Most blocks of a stage, but for the first: large maps are expensive, and it has one."""
    growth: float = 1.6
    """How much wider a stage is than the one before."""
    narrow: bool = False
    """Whether blocks may have no expansion layer, and the last stage as few channels as others."""
    least: float = _NARROWEST
    """Smallest multiplier; where its space is too expensive, the next shape is tried."""


SHAPES = (
    Shape(least=0.5),
    Shape(blocks=2),
    Shape(blocks=2, narrow=True),
    Shape(blocks=1, narrow=True),
)
"""From the usual one to what is left where all else is too expensive."""


class SpaceOptions(TypedDict, total=False):
    """What a job asks of its space, but for the budgets: see `template`."""

    image_size: Required[int]
    classes: Required[int]
    in_channels: int
    activation: str
    squeeze: str
    extra_depthwise: str
    operations: tuple[str, ...]


def template(
    multiplier: float,
    *,
    image_size: int,
    classes: int,
    in_channels: int = 3,
    shape: Shape = SHAPES[0],
    placement: str = "early",
    activation: str = "hard_swish",
    squeeze: str = "searched",
    extra_depthwise: str = "off",
    operations: tuple[str, ...] = (),
) -> MobileSpace:
    """Return the space whose widths lie around the template's times `multiplier`.

    `placement` says where the image is halved first: `early` in the stem, `late` in the first
    stage. `extra_depthwise` says whether blocks start with a depthwise convolution; `operations`
    what else than depthwise convolutions they choose from.
    """
    check_choice("activation", activation, tuple(ACTIVATIONS))
    check_choice("stride placement", placement, PLACEMENTS)
    levels = levels_of(image_size)
    halved = int(placement == "early" and levels[0] > 0)
    stages = tuple(
        Stage(
            widths=_around(
                _WIDTH * shape.growth**number * multiplier,
                _MIN_WIDTH if shape.narrow or number < len(levels) - 1 else _MIN_LAST,
            ),
            stride=1 + level - before,
            depth=shape.blocks if number else 1,
        )
        for number, (before, level) in enumerate(pairwise((halved, *levels)))
    )
    return MobileSpace(
        image_size=image_size,
        in_channels=in_channels,
        classes=classes,
        stem=Stem(
            channels=max(_STEM, make_divisible(_STEM * multiplier)),
            stride=1 + halved,
            activation=activation,
        ),
        stages=stages,
        head=Head(
            channels=max(_MIN_HEAD, _HEAD * stages[-1].widths[1]),
            hidden=0,
            activation=activation,
            dropout=0.2,
        ),
        activation=activation,
        kernels=(*_KERNELS, *operations),
        expansions=(1, 3, 6) if shape.narrow else (3, 6),
        squeeze=options_of("squeeze", squeeze),
        start_kernels=tuple(
            _START_KERNEL * on for on in options_of("extra_depthwise", extra_depthwise)
        ),
    )


def levels_of(image_size: int) -> tuple[int, ...]:
    """Return how often the image has been halved at the end of every stage.

    Each size of maps has one stage, and the last but one two, as in MobileNetV3 (arXiv
    1905.02244). An image is halved once, and up to five times while its last map is 4x4 or more;
    once: then the last size has two stages.
    """
    last, side = 1, -(-image_size // 2)
    while last < _MAX_HALVINGS and (side := -(-side // 2)) >= LAST_SIDE:
        last += 1
    return (0, 1, 1) if last == 1 else (*range(1, last), last - 1, last)


def options_of(part: str, policy: str) -> tuple[bool, ...]:
    """Return what a block may choose from: with the part, without, or both."""
    check_choice(part, policy, POLICIES)
    return {"searched": (False, True), "on": (True,), "off": (False,)}[policy]


def sized(
    loads: Callable[[MobileSpace], Sequence[float]],
    shapes: Sequence[Shape] = SHAPES,
    **options: Unpack[SpaceOptions],
) -> MobileSpace:
    """Return the widest space of which 5 % of uniformly drawn archs keep the budgets.

    `loads(space)` are the largest cost / budget of such archs. It has the first of `shapes` whose
    smallest widths leave so many.
    """
    placement = "early"
    if options["image_size"] < _LATE_BELOW:
        late = template(_NARROWEST, shape=shapes[0], placement="late", **options)
        if low_load(loads(late), _LATE_SHARE) <= 1:
            placement = "late"
    for shape in shapes:
        at = partial(template, shape=shape, placement=placement, **options)
        if low_load(loads(at(shape.least))) <= 1:
            break
    low, high = shape.least, _WIDEST
    for _ in range(_BISECTIONS):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if low_load(loads(at(middle))) <= 1 else (low, middle)
    return at(low)


def low_load(loads: Sequence[float], share: float = _SHARE) -> float:
    """Return the load that a share of the archs have at most: they keep the budgets if it is 1."""
    return float(np.quantile(loads, share, method="inverted_cdf"))


def narrowest(**options: Unpack[SpaceOptions]) -> MobileSpace:
    """Return the last space that `sized` tries: no other has smaller networks."""
    return template(_NARROWEST, shape=SHAPES[-1], **options)


def widest(**options: Unpack[SpaceOptions]) -> MobileSpace:
    """Return the space that no other has larger networks than."""
    late = options["image_size"] < _LATE_BELOW
    return template(_WIDEST, placement="late" if late else "early", **options)


def _around(width: float, minimum: int) -> tuple[int, ...]:
    """Three multiples of 8 around `width` or `minimum`: it and a quarter less and more."""
    middle = max(make_divisible(width), minimum)
    step = make_divisible(middle / 4)
    return (middle - step, middle, middle + step)
