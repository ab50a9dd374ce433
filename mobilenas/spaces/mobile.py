"""The mobile space: stem, stages of inverted residuals, head.

Every block chooses its operations, every stage its width.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Annotated, Any

from mobilenas.config import Between, check_choice
from mobilenas.nn import ACTIVATIONS, ALIGNMENT, make_divisible, squeeze_channels
from mobilenas.spaces.arch import Block, Head, MobileArch, Stem
from mobilenas.spaces.mobilenets import PLACEMENTS, small_image_strides

_Index = Annotated[int, Between(0, 63)]

SQUEEZE_POLICIES = ("searched", "on", "off")

# width at multiplier 1, stride, most blocks, largest expansion
_STAGES = (
    (16, 1, 2, 6),
    (24, 2, 4, 6),
    (40, 2, 4, 6),
    (80, 2, 4, 6),
    (112, 1, 4, 6),
    (160, 2, 4, 6),
)
_SMALL_STAGES = ((16, 1, 1, 1), (24, 2, 2, 3), (40, 2, 4, 3), (48, 1, 3, 6), (96, 2, 3, 6))
_SMALL_STAGES_BELOW = 64
_STEM, _HEAD = 16, 960
_NARROWEST_HEAD = 192
_HIGHEST_LOAD = 1.3
_NARROWEST, _WIDEST, _HALVINGS = 0.1, 16.0, 14


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A run of blocks of one width; the first may halve the image, the others may be left out."""

    widths: Annotated[tuple[Annotated[int, Between(1, 65536)], ...], Between(0, 16)]
    """Channel options, increasing multiples of 8."""
    stride: Annotated[int, Between(1, 2)]
    """Stride of the first block."""
    depth: Annotated[int, Between(1, 32)]
    """Largest number of blocks."""
    most_expansion: Annotated[int, Between(1, 64)] = 6
    """Largest expansion; large feature maps allow little."""


@dataclass(frozen=True, kw_only=True)
class Slot:
    """A place for one block, with what the space lets it be."""

    stage: int
    """Index of its stage."""
    first: bool
    """Whether it is its stage's first block: then it cannot be left out."""
    stride: int
    """1 or 2."""
    side: int
    """Side of its input in pixels."""
    in_widths: tuple[int, ...]
    """Options of its input's channels."""
    out_widths: tuple[int, ...]
    """Options of its output's channels."""
    expansions: tuple[int, ...]
    """Hidden channels as multiples of the input's."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One option for every decision of a space, as indices."""

    width: tuple[_Index, ...]
    """Per stage, into its widths."""
    kernel: tuple[_Index, ...]
    """Per slot, into the space's kernels."""
    expansion: tuple[_Index, ...]
    """Per slot, into the slot's expansions."""
    squeeze: tuple[_Index, ...]
    """Per slot, into the space's squeeze options."""
    keep: tuple[bool, ...]
    """Per slot: False leaves the block out."""


@dataclass(frozen=True, kw_only=True)
class MobileSpace:
    """The set of networks that can be found."""

    image_size: int
    """Side of the square input in pixels."""
    in_channels: int
    """Channels of the input."""
    classes: int
    """Width of the output."""
    stem: Stem
    """The fixed first convolution."""
    stages: Annotated[tuple[Stage, ...], Between(0, 32)]
    """The searched chain."""
    head: Head
    """The fixed end."""
    activation: str
    """Activation of every block."""
    kernels: Annotated[tuple[Annotated[int, Between(1, 7)], ...], Between(0, 4)] = (3, 5, 7)
    """Sides of the depthwise kernel to choose from."""
    expansions: Annotated[tuple[Annotated[int, Between(1, 64)], ...], Between(0, 8)] = (1, 3, 6)
    """Expansions to choose from; the first block of the network has 1."""
    squeeze: Annotated[tuple[bool, ...], Between(0, 2)] = (False, True)
    """Squeeze-excite options."""

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        """Every place for a block, in order."""
        slots: list[Slot] = []
        side = -(-self.image_size // self.stem.stride)
        before: tuple[int, ...] = (self.stem.channels,)
        for number, stage in enumerate(self.stages):
            for index in range(stage.depth):
                stride = stage.stride if index == 0 else 1
                allowed = self.expansions if slots else (1,)
                slots.append(
                    Slot(
                        stage=number,
                        first=index == 0,
                        stride=stride,
                        side=side,
                        in_widths=before,
                        out_widths=stage.widths,
                        expansions=tuple(e for e in allowed if e <= stage.most_expansion),
                    )
                )
                side, before = -(-side // stride), stage.widths
        return tuple(slots)

    def block(
        self, slot: Slot, in_width: int, out_width: int, expansion: int, kernel: int, squeeze: bool
    ) -> Block:
        """Return the block that fills a slot with these options (values, not indices)."""
        hidden = in_width * expansion
        return Block(
            kernel=kernel,
            hidden=hidden,
            out=out_width,
            stride=slot.stride,
            squeeze=squeeze_channels(hidden) if squeeze else 0,
            activation=self.activation,
        )

    def arch(self, choice: Choice) -> MobileArch:
        """Return the network of a choice."""
        blocks = []
        before = self.stem.channels
        for index, slot in enumerate(self.slots):
            if not choice.keep[index]:
                continue
            width = self.stages[slot.stage].widths[choice.width[slot.stage]]
            blocks.append(
                self.block(
                    slot,
                    before,
                    width,
                    slot.expansions[choice.expansion[index]],
                    self.kernels[choice.kernel[index]],
                    self.squeeze[choice.squeeze[index]],
                )
            )
            before = width
        return MobileArch(
            image_size=self.image_size,
            in_channels=self.in_channels,
            classes=self.classes,
            stem=self.stem,
            blocks=tuple(blocks),
            head=self.head,
        )

    def is_legal(self, choice: Choice) -> bool:
        """Whether a choice has one option for every decision, and every stage its first block."""
        for name in ("width", "kernel", "expansion", "squeeze", "keep"):
            picks, largest = getattr(choice, name), getattr(self.largest(), name)
            if len(picks) != len(largest):
                return False
            if not all(0 <= pick <= most for pick, most in zip(picks, largest, strict=True)):
                return False
        return all(
            kept or not slot.first for slot, kept in zip(self.slots, choice.keep, strict=True)
        )

    def random(self, source: random.Random) -> Choice:
        """Draw every decision uniformly."""
        return self._pick(lambda options: source.randrange(options))

    def smallest(self) -> Choice:
        """Return the choice whose every decision is the cheapest."""
        return self._pick(lambda options: 0)

    def largest(self) -> Choice:
        """Return the choice whose every decision is the dearest."""
        return self._pick(lambda options: options - 1)

    def _pick(self, pick: Callable[[int], int]) -> Choice:
        slots = self.slots
        return Choice(
            width=tuple(pick(len(stage.widths)) for stage in self.stages),
            kernel=tuple(pick(len(self.kernels)) for _ in slots),
            expansion=tuple(pick(len(slot.expansions)) for slot in slots),
            squeeze=tuple(pick(len(self.squeeze)) for _ in slots),
            keep=tuple(slot.first or bool(pick(2)) for slot in slots),
        )


def template(
    multiplier: float,
    *,
    image_size: int,
    classes: int,
    in_channels: int = 3,
    most_blocks: int = 4,
    placement: str = "late",
    activation: str = "hard_swish",
    squeeze: str = "searched",
) -> MobileSpace:
    """Return the space whose widths lie around the template's times `multiplier`."""
    check_choice("activation", activation, tuple(ACTIVATIONS))
    rows = _SMALL_STAGES if image_size < _SMALL_STAGES_BELOW else _STAGES
    strides = small_image_strides([2, *(row[1] for row in rows)], image_size, placement)
    stages = tuple(
        Stage(
            widths=_around(width * multiplier),
            stride=stride,
            depth=min(depth, most_blocks),
            most_expansion=most,
        )
        for (width, _, depth, most), stride in zip(rows, strides[1:], strict=True)
    )
    return MobileSpace(
        image_size=image_size,
        in_channels=in_channels,
        classes=classes,
        stem=Stem(
            channels=make_divisible(_STEM * multiplier), stride=strides[0], activation=activation
        ),
        stages=stages,
        head=Head(
            channels=max(_NARROWEST_HEAD, make_divisible(_HEAD * multiplier)),
            hidden=0,
            activation=activation,
            dropout=0.2,
        ),
        activation=activation,
        squeeze=squeeze_options(squeeze),
    )


def squeeze_options(policy: str) -> tuple[bool, ...]:
    """Return what a block may choose from: with squeeze-excite, without, or both."""
    check_choice("squeeze", policy, SQUEEZE_POLICIES)
    return {"searched": (False, True), "on": (True,), "off": (False,)}[policy]


def sized(load: Callable[[MobileSpace], float], **options: Any) -> MobileSpace:
    """Return the space whose typical load is nearest 1.

    `load(space)` is the median over uniformly drawn archs of the largest cost / budget; it grows
    with the widths. Where even the narrowest widths are too dear, stages get fewer blocks; where
    that is not enough, a small image loses its resolution early.
    """
    for placement, most_blocks in product(reversed(PLACEMENTS), (4, 3, 2, 1)):
        low, high = _NARROWEST, _WIDEST
        for _ in range(_HALVINGS):
            middle = (low * high) ** 0.5
            space = template(middle, placement=placement, most_blocks=most_blocks, **options)
            typical = load(space)
            low, high = (middle, high) if typical < 1 else (low, middle)
        if typical <= _HIGHEST_LOAD:
            break
    return space


def narrowest(**options: Any) -> MobileSpace:
    """Return the last space that `sized` tries: no other has smaller networks."""
    return template(_NARROWEST, placement=PLACEMENTS[0], most_blocks=1, **options)


def widest(**options: Any) -> MobileSpace:
    """Return the space that no other has larger networks than."""
    return template(_WIDEST, **options)


def _around(width: float) -> tuple[int, ...]:
    """Multiples of 8 around `width`: it and its neighbours a quarter (at least 8) to each side.

    Widths under 8 have no neighbour, so that a small budget can be met.
    """
    if width < ALIGNMENT:
        return (ALIGNMENT,)
    middle = make_divisible(width)
    step = make_divisible(width / 4)
    return tuple(range(max(ALIGNMENT, middle - step), middle + step + 1, step))
