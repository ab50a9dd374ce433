"""Units: parts of a network that are measured separately, with their keys in a profile."""

import re
from dataclasses import dataclass, replace
from itertools import product
from typing import TypeGuard

from mobilenas.core.errors import MobileNASError
from mobilenas.core.settings import check_between, check_choice
from mobilenas.nn import ACTIVATIONS
from mobilenas.nn.costs import output_side
from mobilenas.spaces.base import Arch, family_of
from mobilenas.spaces.mobile.arch import Block, Head, MobileArch, Stem
from mobilenas.spaces.mobile.space import MobileSpace, Slot
from mobilenas.spaces.subnetworks.space import SubnetworkSpace

MeasuredSpace = MobileSpace | SubnetworkSpace
"""A space whose parts can be measured separately."""

KINDS = ("stem", "block", "features", "linear")
"""Kinds of units; see `Unit`."""
CLASS_COUNTS = (10, 100, 1000)
"""Classifiers are measured with these numbers of classes, and interpolated between them."""

_KEY = re.compile(
    r"(?P<kind>[a-z]+)(?: (?P<side>\d+)px)? (?P<in_channels>\d+)(?:>(?P<hidden>\d+))?"
    r">(?P<out_channels>\d+)(?: start(?P<start_kernel>\d+))?(?: k(?P<kernel>\d+) s(?P<stride>\d+))?"
    r"(?: se(?P<squeeze>\d+))?(?: (?P<activation>[a-z][a-z0-9_]*))?"
)
_DEFAULTS = {"side": 1, "hidden": 0, "kernel": 0, "stride": 1, "squeeze": 0, "start_kernel": 0}
_MAX = 65536


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One part of a network: stem, inverted residual, 1x1 convolution with mean, or linear layer.

    As in `mobilenas.nn.InvertedResidual`, a block that keeps the shape has a shortcut, and one
    whose hidden channels equal the input's has no expansion layer.
    """

    kind: str
    """A name from `KINDS`."""
    side: int
    """Side of the input in pixels, 1 for linear."""
    in_channels: int
    """Channels of the input."""
    out_channels: int
    """Channels of the output."""
    hidden: int = 0
    """Channels of a block's depthwise convolution, 0 for none."""
    kernel: int = 0
    """Side of the stem's or depthwise kernel, 0 for none."""
    stride: int = 1
    """1 or 2."""
    squeeze: int = 0
    """Channels of a block's squeeze layer, 0 for none."""
    activation: str = ""
    """A name from `mobilenas.nn.ACTIVATIONS`, empty for none."""
    start_kernel: int = 0
    """Side of the depthwise kernel before a block's expansion, 0 for none."""

    def __post_init__(self) -> None:
        """Check every field; fields that the kind does not have must be unset."""
        check_choice("kind", self.kind, KINDS)
        block, convolves = self.kind == "block", self.kind in ("stem", "block")
        for name, low, high in (
            ("side", 1, 1 if self.kind == "linear" else _MAX),
            ("in_channels", 1, _MAX),
            ("out_channels", 1, _MAX),
            ("hidden", int(block), _MAX * block),
            ("kernel", int(convolves), 7 * convolves),
            ("stride", 1, 1 + convolves),
            ("squeeze", 0, _MAX * block),
            ("start_kernel", 0, 7 * block),
        ):
            check_between(self, name, low, high)
        nothing = ("",) if self.kind == "linear" else ()
        check_choice("activation", self.activation, (*ACTIVATIONS, *nothing))

    @property
    def key(self) -> str:
        """The unit as text, such as `block 32px 16>96>24 k3 s2 se24 hard_swish`."""
        channels = (self.in_channels, self.hidden, self.out_channels)
        words = [
            self.kind,
            f"{self.side}px" if self.kind != "linear" else "",
            ">".join(str(count) for count in channels if count),
            f"start{self.start_kernel}" if self.start_kernel else "",
            f"k{self.kernel} s{self.stride}" if self.kernel else "",
            f"se{self.squeeze}" if self.squeeze else "",
            self.activation,
        ]
        return " ".join(word for word in words if word)

    @classmethod
    def parse(cls, key: str) -> "Unit":
        """Parse a key; the error names the key and what is wrong with it."""
        found = _KEY.fullmatch(key)
        if found is None:
            raise MobileNASError(
                f"{key!r} is not a unit; one reads like 'block 32px 16>96>24 k3 s2 se24 hard_swish'"
            )
        said = found.groupdict()
        numbers = {
            name: int(text) if text else _DEFAULTS[name]
            for name, text in said.items()
            if name not in ("kind", "activation")
        }
        try:
            unit = cls(kind=said["kind"], activation=said["activation"] or "", **numbers)
        except MobileNASError as error:
            raise MobileNASError(f"{key!r} is not a unit: {error}") from error
        if unit.key != key:
            raise MobileNASError(f"{key!r} is not how a unit is written; write {unit.key!r}")
        return unit


def stem_unit(stem: Stem, in_channels: int, image_size: int) -> Unit:
    """Return the unit of the first convolution, 3x3."""
    return Unit(
        kind="stem",
        side=image_size,
        in_channels=in_channels,
        out_channels=stem.channels,
        kernel=3,
        stride=stem.stride,
        activation=stem.activation,
    )


def block_unit(block: Block, in_channels: int, side: int) -> Unit:
    """Return the unit of a block with input [`in_channels`, `side`, `side`]."""
    return Unit(
        kind="block",
        side=side,
        in_channels=in_channels,
        out_channels=block.out,
        hidden=block.hidden,
        kernel=_measured_kernel(block),
        stride=block.stride,
        squeeze=block.squeeze,
        activation=block.activation,
        start_kernel=block.start_kernel,
    )


def features_unit(head: Head, in_channels: int, side: int) -> Unit:
    """Return the unit of the last 1x1 convolution, with activation and global mean."""
    return Unit(
        kind="features",
        side=side,
        in_channels=in_channels,
        out_channels=head.channels,
        activation=head.activation,
    )


def linear_unit(in_channels: int, out_channels: int, activation: str = "") -> Unit:
    """Return the unit of a linear layer; classifiers have no activation."""
    return Unit(
        kind="linear",
        side=1,
        in_channels=in_channels,
        out_channels=out_channels,
        activation=activation,
    )


def _measured_kernel(block: Block) -> int:
    if isinstance(block.kernel, str):
        raise MobileNASError(f"operation {block.kernel}: no profile has such blocks")
    if block.fused or block.activates_output or not block.kernel:
        raise MobileNASError("no profile has blocks that are no inverted residuals")
    return block.kernel


def has_units(arch: Arch) -> TypeGuard[MobileArch]:
    """Whether all parts of a network can be units of a profile."""
    return family_of(arch).has_units(arch)


def arch_units(arch: MobileArch) -> list[Unit]:
    """Return the units of a network, in order."""
    units = [stem_unit(arch.stem, arch.in_channels, arch.image_size)]
    channels, side = arch.stem.channels, output_side(arch.image_size, arch.stem.stride)
    for block in arch.blocks:
        units.append(block_unit(block, channels, side))
        channels, side = block.out, output_side(side, block.stride)
    return [
        *units,
        features_unit(arch.head, channels, side),
        *_linear_units(arch.head, (arch.classes,)),
    ]


def space_units(space: MeasuredSpace) -> list[Unit]:
    """Return the distinct units of a space in a fixed order; classifiers have CLASS_COUNTS.

    All units have symmetric padding; TensorFlow's gives the same costs and shapes.
    """
    head = space.whole.head if isinstance(space, SubnetworkSpace) else space.head
    units = _part_units(space) if isinstance(space, SubnetworkSpace) else _chain_units(space)
    return list(dict.fromkeys([*units, *_linear_units(head, CLASS_COUNTS)]))


def _part_units(space: SubnetworkSpace) -> list[Unit]:
    whole, units = space.whole, list[Unit]()
    for image_size in space.sides:
        *sides, last = space.input_sides(image_size)
        for channels in space.stem_widths:
            stem = replace(whole.stem, channels=channels)
            units.append(stem_unit(stem, whole.in_channels, image_size))
        for slot, side in zip(space.slots, sides, strict=True):
            units += [
                block_unit(slot.part(picks), slot.inputs[picks[0]], side) for picks in slot.picks()
            ]
        units += [features_unit(whole.head, width, last) for width in space.widths[-1]]
    return units


def _chain_units(space: MobileSpace) -> list[Unit]:
    units = [stem_unit(space.stem, space.in_channels, space.image_size)]
    for slot in space.slots:
        units += _slot_units(space, slot)
    last = space.slots[-1]
    side = output_side(last.side, last.stride)
    return units + [features_unit(space.head, width, side) for width in last.out_widths]


def _slot_units(space: MobileSpace, slot: Slot) -> list[Unit]:
    return [
        block_unit(space.block(slot, before, after, *options), before, slot.side)
        for before, after in product(slot.in_widths, slot.out_widths)
        # within a stage only the first block can change the width
        if slot.first or before == after
        for options in product(slot.expansions, space.kernels, space.squeeze, slot.start_kernels)
    ]


def _linear_units(head: Head, class_counts: tuple[int, ...]) -> list[Unit]:
    hidden = [linear_unit(head.channels, head.hidden, head.activation)] if head.hidden else []
    return hidden + [linear_unit(head.hidden or head.channels, count) for count in class_counts]
