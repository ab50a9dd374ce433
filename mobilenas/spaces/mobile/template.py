"""The mobile spaces there are for a side of the images: one for every width multiplier."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from statistics import median
from typing import Required, TypedDict, Unpack

from mobilenas.core.settings import check_choice
from mobilenas.nn import ACTIVATIONS, make_divisible
from mobilenas.spaces.mobile.arch import Head, Stem
from mobilenas.spaces.mobile.mobilenets import LAST_SIDE, PLACEMENTS
from mobilenas.spaces.mobile.settings import POLICIES
from mobilenas.spaces.mobile.space import MobileSpace, Stage

_WIDTH, _GROWTH = 16, 1.6
"""At multiplier 1: width of the first stage, and how much wider a stage is than the one before."""
_MIN_WIDTH = 16
"""Middle of a stage's widths at least."""
_STEM = 24
_HEAD = 4
"""Channels of the head, as a multiple of the last stage's."""
_NARROW = {False: (16, 384, 24, (3, 6)), True: (8, 192, _MIN_WIDTH, (1, 3, 6))}
"""Fewest channels of stem and head, the last stage's least width, and expansions.

A last stage of 8 channels starves the head; and there is what is left where all that is too much.
"""
_MAX_HALVINGS = 5
_KERNELS = (3, 5)
_START_KERNEL = 3
# most blocks of a stage, and whether the space is the narrow one
_SHAPES = ((4, False), (3, False), (2, False), (2, True), (1, True))
_MIN_SHARE = 0.01
_FULL_LOAD = 2.0
_LATE_BELOW = 64
"""Side from which on the stem always halves the image."""
_NARROWEST, _WIDEST, _BISECTIONS = 0.1, 16.0, 14


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
    max_blocks: int = 4,
    narrow: bool = False,
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
    min_stem, min_head, min_last, expansions = _NARROW[narrow]
    levels = levels_of(image_size)
    halved = int(placement == "early" and levels[0] > 0)
    stages = tuple(
        Stage(
            widths=_around(
                _WIDTH * _GROWTH**number * multiplier,
                min_last if number == len(levels) - 1 else _MIN_WIDTH,
            ),
            stride=1 + level - before,
            depth=max_blocks,
        )
        for number, (before, level) in enumerate(pairwise((halved, *levels)))
    )
    return MobileSpace(
        image_size=image_size,
        in_channels=in_channels,
        classes=classes,
        stem=Stem(
            channels=max(min_stem, make_divisible(_STEM * multiplier)),
            stride=1 + halved,
            activation=activation,
        ),
        stages=stages,
        head=Head(
            channels=max(min_head, _HEAD * stages[-1].widths[1]),
            hidden=0,
            activation=activation,
            dropout=0.2,
        ),
        activation=activation,
        kernels=(*_KERNELS, *operations),
        expansions=expansions,
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
    loads: Callable[[MobileSpace], Sequence[float]], **options: Unpack[SpaceOptions]
) -> MobileSpace:
    """Return the space whose typical load is nearest 1.

    `loads(space)` are the largest cost / budget of uniformly drawn archs; they grow with the
    widths. Where the narrowest widths leave too few archs within the budget, stages get fewer
    blocks, and stem and head fewer channels.

    The stem of a small image keeps its resolution if a typical arch of most blocks can pay for it.
    """
    placement = "early"
    if options["image_size"] < _LATE_BELOW:
        late = template(_NARROWEST, placement="late", **options)
        if median(loads(late)) <= _FULL_LOAD:
            placement = "late"
    for max_blocks, narrow in _SHAPES:
        at = partial(template, placement=placement, max_blocks=max_blocks, narrow=narrow, **options)
        drawn = loads(at(_NARROWEST))
        if sum(load <= 1 for load in drawn) >= _MIN_SHARE * len(drawn):
            break
    low, high = _NARROWEST, _WIDEST
    for _ in range(_BISECTIONS):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if median(loads(at(middle))) < 1 else (low, middle)
    return at(low)


def narrowest(**options: Unpack[SpaceOptions]) -> MobileSpace:
    """Return the last space that `sized` tries: no other has smaller networks."""
    return template(_NARROWEST, max_blocks=1, narrow=True, **options)


def widest(**options: Unpack[SpaceOptions]) -> MobileSpace:
    """Return the space that no other has larger networks than."""
    late = options["image_size"] < _LATE_BELOW
    return template(_WIDEST, placement="late" if late else "early", **options)


def _around(width: float, minimum: int) -> tuple[int, ...]:
    """Three multiples of 8 around `width` or `minimum`: it and a quarter less and more."""
    middle = max(make_divisible(width), minimum)
    step = make_divisible(middle / 4)
    return (middle - step, middle, middle + step)
