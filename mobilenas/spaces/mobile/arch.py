"""A network of the mobile family as a frozen value with a JSON form."""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from msgspec import Meta

from mobilenas.core.errors import FileError, MobileNASError
from mobilenas.core.records import Json
from mobilenas.core.settings import (
    ADDED,
    check_number,
    from_plain,
    to_plain_without_added,
)
from mobilenas.nn import ACTIVATIONS
from mobilenas.nn.operations import OPERATIONS, PADDINGS, Kernel

_KERNELS = (1, 3, 5, 7)
_MAX_CHANNELS = 65536


@dataclass(frozen=True, kw_only=True)
class Block:
    """An inverted residual; its input is the output of the previous block, or of the stem."""

    kernel: Kernel
    """Size of the depthwise kernel, 0 for none, or the name of a registered operation."""
    hidden: int
    """Channels of the depthwise convolution; if equal to the input's, there is no expansion layer.
    """
    out: int
    """Channels of the output."""
    stride: int
    """Stride of the depthwise (or fused) convolution, 1 or 2."""
    squeeze: int
    """Channels of the squeeze layer of squeeze-excite, 0 for none."""
    activation: str
    """A name from `mobilenas.nn.ACTIVATIONS`."""
    start_kernel: int = field(default=0, metadata=ADDED)
    """Size of a depthwise kernel before the expansion, 0 for none (MobileNetV4's ExtraDW block)."""
    fused: bool = field(default=False, metadata=ADDED)
    """Whether a full convolution replaces expansion and depthwise convolution (Fused-MBConv)."""
    activates_output: bool = field(default=False, metadata=ADDED)
    """Whether an activation follows the projection; then there is no shortcut (MobileNetV1)."""


@dataclass(frozen=True, kw_only=True)
class Stem:
    """The first convolution, 3x3."""

    channels: int
    """Channels of the output."""
    stride: int
    """Stride of the convolution, 1 or 2."""
    activation: str
    """A name from `mobilenas.nn.ACTIVATIONS`."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """The layers after the blocks.

    1x1 convolution, mean over the image, optional hidden linear layer, dropout, classifier.
    """

    channels: int
    """Channels of the 1x1 convolution, 0 for none (MobileNetV1)."""
    hidden: int
    """Outputs of the hidden linear layer (MobileNetV3), 0 for none."""
    activation: str
    """A name from `mobilenas.nn.ACTIVATIONS`."""
    dropout: float
    """Probability of dropping a feature before the classifier, in training only."""


@dataclass(frozen=True, kw_only=True)
class MobileArch:
    """A network of the mobile family: stem, chain of inverted residuals, head."""

    family: ClassVar[str] = "mobile"

    image_size: int
    """Side of the square input in pixels."""
    in_channels: int
    """Channels of the input."""
    classes: int
    """Number of classes."""
    stem: Stem
    """The first convolution."""
    blocks: Annotated[tuple[Block, ...], Meta(max_length=1000)]
    """The inverted residuals, in order."""
    head: Head
    """The layers after the blocks."""
    padding: str = field(default="symmetric", metadata=ADDED)
    """A name from `mobilenas.nn.operations.PADDINGS`; registered operations have their own."""
    epsilon: float = field(default=1e-5, metadata=ADDED)
    """Epsilon of batch norms, which they add to the variance."""
    momentum: float = field(default=0.1, metadata=ADDED)
    """Momentum of batch norms: weight of a new batch in the running statistics."""

    def __post_init__(self) -> None:
        """Check every field; the error names the place, the value and what is legal."""
        _check_int("image_size", self.image_size, 4, 4096)
        _check_int("in_channels", self.in_channels, 1, 64)
        _check_int("classes", self.classes, 2, _MAX_CHANNELS)
        _check_int("stem.channels", self.stem.channels, 1, _MAX_CHANNELS)
        _check_one_of("stem.stride", self.stem.stride, (1, 2))
        _check_one_of("stem.activation", self.stem.activation, tuple(ACTIVATIONS))
        if not self.blocks:
            raise MobileNASError("blocks is empty; an arch has at least one block")
        for index, block in enumerate(self.blocks):
            place = f"blocks[{index}]"
            _check_one_of(f"{place}.kernel", block.kernel, (0, *_KERNELS, *OPERATIONS))
            if block.fused and not (isinstance(block.kernel, int) and block.kernel):
                raise MobileNASError(
                    f"{place}.kernel is {block.kernel!r}; a fused block has one of "
                    f"{', '.join(map(str, _KERNELS))}"
                )
            if block.kernel == 0 and block.stride != 1:
                raise MobileNASError(f"{place}.stride is 2; without a kernel it is 1")
            _check_int(f"{place}.hidden", block.hidden, 1, _MAX_CHANNELS)
            _check_int(f"{place}.out", block.out, 1, _MAX_CHANNELS)
            _check_one_of(f"{place}.stride", block.stride, (1, 2))
            _check_int(f"{place}.squeeze", block.squeeze, 0, _MAX_CHANNELS)
            _check_one_of(f"{place}.activation", block.activation, tuple(ACTIVATIONS))
            _check_one_of(f"{place}.start_kernel", block.start_kernel, (0, *_KERNELS))
        _check_int("head.channels", self.head.channels, 0, _MAX_CHANNELS)
        _check_int("head.hidden", self.head.hidden, 0, _MAX_CHANNELS)
        _check_one_of("head.activation", self.head.activation, tuple(ACTIVATIONS))
        if not isinstance(self.head.dropout, int | float) or not 0 <= self.head.dropout < 1:
            raise MobileNASError(f"head.dropout is {self.head.dropout!r}; it must be in [0, 1)")
        _check_one_of("padding", self.padding, PADDINGS)
        check_number("epsilon", self.epsilon, 1e-12, 1)
        check_number("momentum", self.momentum, 1e-6, 1)

    @property
    def is_plain(self) -> bool:
        """Whether it has only what searched networks have: inverted residuals and a full head."""
        return self.head.channels > 0 and not any(
            block.fused or block.activates_output or block.kernel == 0 for block in self.blocks
        )

    def to_dict(self) -> Json:
        """Return the JSON form; fields added by later releases are omitted at their defaults."""
        return {"space": "mobile", **to_plain_without_added(self)}

    @classmethod
    def from_dict(cls, data: object, source: str = "arch") -> "MobileArch":
        """Read the JSON form; `source` names the file in errors."""
        try:
            if not isinstance(data, dict):
                raise MobileNASError(f"arch is {data!r}; it must be an object")
            plain = dict(data)
            space = plain.pop("space", None)
            if space != "mobile":
                raise MobileNASError(f"arch.space is {space!r}; it must be mobile")
            arch: MobileArch = from_plain(cls, plain, "arch", checks_say_where=True)
        except MobileNASError as error:
            raise FileError(f"{source}: {error}") from error
        return arch


def _check_int(place: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise MobileNASError(f"{place} is {value!r}; it must be a whole number, {low} to {high}")


def _check_one_of(place: str, value: object, legal: tuple[object, ...]) -> None:
    if isinstance(value, bool) or value not in legal:
        raise MobileNASError(
            f"{place} is {value!r}; it must be one of {', '.join(map(str, legal))}"
        )
