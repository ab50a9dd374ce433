"""The mobile space: stem, stages of inverted residuals, head.

Its decisions are the width of every stage, and the options of every block.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import fmean
from typing import Annotated, ClassVar

from msgspec import Meta

from mobilenas.core.errors import MobileNASError
from mobilenas.core.settings import ADDED
from mobilenas.nn import squeeze_channels
from mobilenas.nn.operations import OPERATIONS, Kernel
from mobilenas.spaces.mobile.arch import Block, Head, MobileArch, Stem

_Index = Annotated[int, Meta(ge=0, le=63)]
_Kernel = Annotated[int, Meta(ge=1, le=7)] | str

DECISIONS = ("width", "kernel", "expansion", "squeeze", "start", "keep")
"""Fields of a `Choice`: `width` per stage, the others per slot."""

_MAX_CHANGES = 3


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Successive blocks of one width; the first may halve the image, the others can be omitted."""

    widths: Annotated[tuple[Annotated[int, Meta(ge=1, le=65536)], ...], Meta(max_length=16)]
    """Channel options, increasing multiples of 8."""
    stride: Annotated[int, Meta(ge=1, le=2)]
    """Stride of the first block."""
    depth: Annotated[int, Meta(ge=1, le=32)]
    """Maximum number of blocks."""
    most_expansion: Annotated[int, Meta(ge=1, le=64)] = 6
    """Maximum expansion; large feature maps allow only small ones."""


@dataclass(frozen=True, kw_only=True)
class Slot:
    """A place for one block, with the block's options."""

    stage: int
    """Index of its stage."""
    first: bool
    """Whether it is the first of its stage, whose block cannot be omitted."""
    stride: int
    """Stride of its block, 1 or 2."""
    side: int
    """Side of its input in pixels."""
    in_widths: tuple[int, ...]
    """Options for the channels of its input, increasing."""
    out_widths: tuple[int, ...]
    """Options for the channels of its output, increasing."""
    expansions: tuple[int, ...]
    """Options for its hidden channels, as multiples of the input's."""
    start_kernels: tuple[int, ...]
    """Options for the size of a depthwise kernel before the expansion layer, 0 for none."""

    def start_of(self, expansion: int, start: int) -> int:
        """Return `start`, or 0 if there is no expansion layer, where `start` has no effect."""
        return start if self.expansions[expansion] > 1 else 0


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One option for every decision of a space, as indices."""

    width: tuple[_Index, ...]
    """Per stage, index into its widths."""
    kernel: tuple[_Index, ...]
    """Per slot, index into the space's kernels."""
    expansion: tuple[_Index, ...]
    """Per slot, index into the slot's expansions."""
    squeeze: tuple[_Index, ...]
    """Per slot, index into the space's squeeze options."""
    start: tuple[_Index, ...]
    """Per slot, index into the slot's start kernels."""
    keep: tuple[bool, ...]
    """Per slot, whether it has a block."""

    def alike(self, other: "Choice") -> float:
        """Return the share of equal decisions; a block's count if either network has the block."""
        same = [x == y for x, y in zip(self.width, other.width, strict=True)]
        for slot, (x, y) in enumerate(zip(self.keep, other.keep, strict=True)):
            same.append(x == y)
            if x or y:
                # options of a block that only one network has are not equal
                names = ("kernel", "expansion", "squeeze", "start")
                same += [
                    x == y and getattr(self, n)[slot] == getattr(other, n)[slot] for n in names
                ]
        return fmean(same)


@dataclass(frozen=True, kw_only=True)
class MobileSpace:
    """A set of networks of the mobile family."""

    family: ClassVar[str] = "mobile"

    image_size: int
    """Side of the square input in pixels."""
    in_channels: int
    """Channels of the input."""
    classes: int
    """Number of classes."""
    stem: Stem
    """The fixed first convolution."""
    stages: Annotated[tuple[Stage, ...], Meta(max_length=32)]
    """The searched blocks."""
    head: Head
    """The fixed layers after them."""
    activation: str
    """Activation of every block."""
    kernels: Annotated[tuple[_Kernel, ...], Meta(min_length=1, max_length=16)] = (3, 5, 7)
    """Options for the size of the depthwise kernel, then operations that can replace it."""
    expansions: Annotated[tuple[Annotated[int, Meta(ge=1, le=64)], ...], Meta(max_length=8)] = (
        1,
        3,
        6,
    )
    """Options for the expansion; the first block of the network has 1."""
    squeeze: Annotated[tuple[bool, ...], Meta(max_length=2)] = (False, True)
    """Options for squeeze-excite: without, with."""
    start_kernels: Annotated[
        tuple[Annotated[int, Meta(ge=0, le=7)], ...], Meta(min_length=1, max_length=2)
    ] = field(default=(0,), metadata=ADDED)
    """Options for the size of a depthwise kernel before an expansion layer: one, or 0 (no kernel)
    and another."""

    def __post_init__(self) -> None:
        """Check the kernels."""
        for name in self.operations:
            if name not in OPERATIONS:
                known = ", ".join(OPERATIONS) or "there is none"
                raise MobileNASError(f"operation {name!r} is not registered; known are: {known}")
        if not self.sides or self.kernels != (*sorted(set(self.sides)), *self.operations):
            raise MobileNASError(
                f"kernels is {list(self.kernels)}; it must be increasing sides, then operations"
            )

    @property
    def sides(self) -> tuple[int, ...]:
        """The sizes of depthwise kernels among `kernels`."""
        return tuple(kernel for kernel in self.kernels if isinstance(kernel, int))

    @property
    def operations(self) -> tuple[str, ...]:
        """The names of operations among `kernels`."""
        return tuple(kernel for kernel in self.kernels if isinstance(kernel, str))

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        """All slots, in order."""
        slots: list[Slot] = []
        side = -(-self.image_size // self.stem.stride)
        before: tuple[int, ...] = (self.stem.channels,)
        for number, stage in enumerate(self.stages):
            for index in range(stage.depth):
                stride = stage.stride if index == 0 else 1
                allowed = self.expansions if slots else (1,)
                expansions = tuple(e for e in allowed if e <= stage.most_expansion)
                slots.append(
                    Slot(
                        stage=number,
                        first=index == 0,
                        stride=stride,
                        side=side,
                        in_widths=before,
                        out_widths=stage.widths,
                        expansions=expansions,
                        start_kernels=self.start_kernels
                        if any(e > 1 for e in expansions)
                        else (0,),
                    )
                )
                side, before = -(-side // stride), stage.widths
        return tuple(slots)

    def block(
        self,
        slot: Slot,
        in_width: int,
        out_width: int,
        expansion: int,
        kernel: Kernel,
        squeeze: bool,
        start_kernel: int,
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
            start_kernel=start_kernel if expansion > 1 else 0,
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
                    slot.start_kernels[choice.start[index]],
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

    @property
    def kept_edges(self) -> int:
        """0, because the networks are chains."""
        return 0

    def mutated(self, choice: Choice, source: random.Random) -> Choice:
        """Return a choice with one to three decisions redrawn."""
        fresh, changes = (
            self.random(source),
            dict[str, tuple[bool, ...]](),
        )  # rows of int, too
        for _ in range(source.randint(1, _MAX_CHANGES)):
            name = source.choice(DECISIONS)
            row = list(changes.get(name, getattr(choice, name)))
            index = source.randrange(len(row))
            row[index] = getattr(fresh, name)[index]
            changes[name] = tuple(row)
        return replace(choice, **changes)

    def distance(self, one: Choice, other: Choice) -> int:
        """Return the number of slots in which two networks differ."""
        return sum(self._in_slot(one, n) != self._in_slot(other, n) for n in range(len(self.slots)))

    def _in_slot(self, choice: Choice, number: int) -> tuple[int, ...] | None:
        """Return the options of a slot's block; None if it is omitted."""
        if not choice.keep[number]:
            return None
        slot, expansion = self.slots[number], choice.expansion[number]
        return (
            choice.width[slot.stage],
            choice.kernel[number],
            expansion,
            choice.squeeze[number],
            slot.start_of(expansion, choice.start[number]),
        )

    def skips(self, choice: Choice) -> dict[str, int]:
        """Return the number of omitted blocks."""
        return {"blocks": choice.keep.count(False)}

    def is_legal(self, choice: Choice) -> bool:
        """Whether a choice has a legal option for every decision, and every stage a first block."""
        for name in DECISIONS:
            picks, largest = getattr(choice, name), getattr(self.largest(), name)
            if len(picks) != len(largest):
                return False
            if not all(0 <= pick <= last for pick, last in zip(picks, largest, strict=True)):
                return False
        return all(
            kept or not slot.first for slot, kept in zip(self.slots, choice.keep, strict=True)
        )

    def random(self, source: random.Random) -> Choice:
        """Draw every decision uniformly."""
        return self._pick(lambda options: source.randrange(options))

    def smallest(self) -> Choice:
        """Return the choice with the cheapest option of every decision."""
        return self._pick(lambda options: 0)

    def largest(self) -> Choice:
        """Return the choice with the most expensive option of every decision."""
        return self._pick(lambda options: options - 1)

    def _pick(self, pick: Callable[[int], int]) -> Choice:
        slots = self.slots
        return Choice(
            width=tuple(pick(len(stage.widths)) for stage in self.stages),
            kernel=tuple(pick(len(self.kernels)) for _ in slots),
            expansion=tuple(pick(len(slot.expansions)) for slot in slots),
            squeeze=tuple(pick(len(self.squeeze)) for _ in slots),
            keep=tuple(slot.first or bool(pick(2)) for slot in slots),
            # a single option is not drawn, so a seed gives the networks of spaces without it
            start=tuple(
                pick(len(slot.start_kernels)) if len(slot.start_kernels) > 1 else 0
                for slot in slots
            ),
        )
