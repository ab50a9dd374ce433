"""The mobile spaces for an image size, one per width multiplier, and the choice among them."""

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
"""Minimum middle width of a stage, and of the last one: with fewer channels the head starves."""
_STEM = 8
"""Channels of the stem at multiplier 1, and their minimum."""
_HEAD, _MIN_HEAD = 4, 192
"""Channels of the head, as a multiple of the last stage's middle width, and their minimum."""
_MAX_HALVINGS = 5
_KERNELS = (3, 5)
_START_KERNEL = 3
_FEASIBLE_SHARE = 0.05
"""Share of uniformly drawn archs that meet the budgets, in the space that is chosen."""
_LATE_SHARE = 0.2
"""If this share of the narrowest space meets them, the stem of small images has stride 1."""
_LATE_BELOW = 64
"""Images of this size or larger are always halved by the stem."""
_MIN_MULTIPLIER, _MAX_MULTIPLIER, _BISECTIONS = 0.1, 16.0, 14


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How a template distributes its FLOPs over the stages."""

    blocks: int = 3
    """Maximum number of blocks per stage; the first has one, because large maps are expensive."""
    growth: float = 1.6
    """Ratio of a stage's width to that of the stage before."""
    narrow: bool = False
    """Whether blocks may have no expansion layer, and the last stage the minimum of the others."""
    min_multiplier: float = _MIN_MULTIPLIER
    """Smallest multiplier; if its space is too expensive, the next shape is tried."""


SHAPES = (
    Shape(min_multiplier=0.5),
    Shape(blocks=2),
    Shape(blocks=2, narrow=True),
    Shape(blocks=1, narrow=True),
)
"""In the order they are tried: from the usual one to the cheapest."""


class SpaceOptions(TypedDict, total=False):
    """What a job specifies of its space, except budgets: arguments of `template`."""

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
    """Return the space whose middle widths are those of the template times `multiplier`.

    `placement` is where the image is first halved: `early` in the stem, `late` in the first stage.
    `extra_depthwise` says whether blocks start with a depthwise convolution. `operations` are
    registered ones that can replace the depthwise convolution.
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
    """Return how often the image has been halved at the end of each stage.

    There is one stage per map size, but two at the second smallest, as in MobileNetV3 (arXiv
    1905.02244). The image is halved one to five times, as long as the last map is 4x4 or more. If
    it is halved once, there is a stage at full size, and two at half of it.
    """
    last, side = 1, -(-image_size // 2)
    while last < _MAX_HALVINGS and (side := -(-side // 2)) >= LAST_SIDE:
        last += 1
    return (0, 1, 1) if last == 1 else (*range(1, last), last - 1, last)


def options_of(part: str, policy: str) -> tuple[bool, ...]:
    """Return a block's options for a part: without it, with it, or both."""
    check_choice(part, policy, POLICIES)
    return {"searched": (False, True), "on": (True,), "off": (False,)}[policy]


def sized(
    utilizations: Callable[[MobileSpace], Sequence[float]],
    shapes: Sequence[Shape] = SHAPES,
    **options: Unpack[SpaceOptions],
) -> MobileSpace:
    """Return the widest space of which 5 % of uniformly drawn archs meet the budgets.

    `utilizations` returns those of such archs of a space. The shape is the first of `shapes` of
    which 5 % meet the budgets at its smallest multiplier, or else the last.
    """

    def enough_meet(space: MobileSpace, share: float = _FEASIBLE_SHARE) -> bool:
        return utilization_quantile(utilizations(space), share) <= 1

    placement = "early"
    if options["image_size"] < _LATE_BELOW:
        late = template(_MIN_MULTIPLIER, shape=shapes[0], placement="late", **options)
        if enough_meet(late, _LATE_SHARE):
            placement = "late"
    for shape in shapes:
        at = partial(template, shape=shape, placement=placement, **options)
        if enough_meet(at(shape.min_multiplier)):
            break
    low, high = shape.min_multiplier, _MAX_MULTIPLIER
    for _ in range(_BISECTIONS):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if enough_meet(at(middle)) else (low, middle)
    return at(low)


def utilization_quantile(utilizations: Sequence[float], share: float = _FEASIBLE_SHARE) -> float:
    """Return the utilization that a `share` of the archs do not exceed."""
    return float(np.quantile(utilizations, share, method="inverted_cdf"))


def narrowest(**options: Unpack[SpaceOptions]) -> MobileSpace:
    """Return the space with the smallest networks, the last that `sized` tries."""
    return template(_MIN_MULTIPLIER, shape=SHAPES[-1], **options)


def widest(**options: Unpack[SpaceOptions]) -> MobileSpace:
    """Return the space with the largest networks."""
    late = options["image_size"] < _LATE_BELOW
    return template(_MAX_MULTIPLIER, placement="late" if late else "early", **options)


def _around(width: float, minimum: int) -> tuple[int, ...]:
    """Return three multiples of 8: the larger of both, with a quarter less and more around it."""
    middle = max(make_divisible(width), minimum)
    step = make_divisible(middle / 4)
    return (middle - step, middle, middle + step)
