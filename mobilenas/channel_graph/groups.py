"""The result of the extraction, which channel sizes of a model are tied, and costs from it.

Every channel dimension of a layer is a sequence of parts, each with the channels of one group. A
group has one size, so all its parts change together.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from mobilenas.core.errors import MobileNASError
from mobilenas.core.settings import counted


@dataclass(frozen=True, kw_only=True)
class Part:
    """Entries of a dimension for all channels of one group, in the group's order."""

    group: str
    """The group's name."""
    repeat: int = 1
    """Consecutive entries per channel: H*W after flattening, more after a shuffle."""
    aligned: bool = True
    """Whether entry j belongs to channel j // repeat. False after a split of shuffled channels,
    where only the number of entries depends on the group; then index by position, not by
    channel.
    """


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """The input or output channels of a layer, or those of a norm or parameter."""

    module: str
    """Name of the layer, as in `named_modules`."""
    kind: str
    """"in", "out", "norm", or the name of a parameter outside of known layers."""
    axes: tuple[tuple[str, int], ...]
    """(state-dict name, axis) of each tensor with this dimension; empty for depthwise inputs."""
    blocks: int = 1
    """Groups of a grouped convolution, for its input: the weight's axis has one block's entries."""
    parts: tuple[Part, ...]
    """The parts in order, without gaps."""

    def size(self, sizes: Mapping[str, int]) -> int:
        """Return the number of entries if the groups have these sizes."""
        return sum(sizes[part.group] * part.repeat for part in self.parts)

    def spans(self, sizes: Mapping[str, int]) -> Iterator[tuple[Part, int, int]]:
        """Yield each part with the half-open range of its entries."""
        start = 0
        for part in self.parts:
            stop = start + sizes[part.group] * part.repeat
            yield part, start, stop
            start = stop


@dataclass(frozen=True, kw_only=True)
class Member:
    """A part of a dimension, as listed by its group."""

    dimension: Dimension
    """The dimension."""
    offset: int
    """Its first entry."""
    size: int
    """Number of entries: the group's size times `repeat`."""
    repeat: int
    """As in `Part`."""
    aligned: bool
    """As in `Part`."""

    @property
    def module(self) -> str:
        """Name of the layer."""
        return self.dimension.module

    @property
    def kind(self) -> str:
        """Kind of dimension: "in", "out", "norm" or a parameter's name."""
        return self.dimension.kind


@dataclass(frozen=True, kw_only=True)
class Group:
    """Channel sizes that must be equal."""

    name: str
    """Name of the first layer that makes these channels; "NAME#2" for its second group."""
    size: int
    """Number of channels. A layer with several members has a multiple of it."""
    divisor: int
    """Legal sizes are multiples of it."""
    fixed: str | None
    """Why the size cannot change; None if it can."""
    members: tuple[Member, ...]
    """In the order of the forward pass."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A convolution or linear layer, with the factors of its multiply-adds."""

    module: str
    """Name of the layer."""
    work: int
    """Kernel size times output positions, summed over its calls, for one image."""
    blocks: int | None
    """Groups of the convolution; None for a depthwise one."""


@dataclass(frozen=True, kw_only=True)
class Graph:
    """All groups of a model at its current sizes."""

    image_size: int
    """Side of the images used in tracing."""
    in_channels: int
    """Channels of the images."""
    sizes: Mapping[str, int]
    """Size of each group, including fixed ones, in the order of the forward pass."""
    divisors: Mapping[str, int]
    """Divisor of each group."""
    fixed: Mapping[str, str]
    """Reasons why groups cannot change."""
    dimensions: tuple[Dimension, ...]
    """In the order of the forward pass."""
    layers: tuple[Layer, ...]
    """In the order of the forward pass."""
    shapes: Mapping[str, tuple[int, ...]]
    """Shape of every parameter by state-dict name."""

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """The groups with their members."""
        members: dict[str, list[Member]] = {name: [] for name in self.sizes}
        for dimension in self.dimensions:
            for part, start, stop in dimension.spans(self.sizes):
                members[part.group].append(
                    Member(
                        dimension=dimension,
                        offset=start,
                        size=stop - start,
                        repeat=part.repeat,
                        aligned=part.aligned,
                    )
                )
        return tuple(
            Group(
                name=name,
                size=size,
                divisor=self.divisors[name],
                fixed=self.fixed.get(name),
                members=tuple(members[name]),
            )
            for name, size in self.sizes.items()
        )

    @cached_property
    def _dimensions(self) -> dict[tuple[str, str], Dimension]:
        return {(item.module, item.kind): item for item in self.dimensions}

    def dimension(self, module: str, kind: str) -> Dimension:
        """Return the dimension `kind` ("in", "out", "norm") of a layer."""
        return self._dimensions[module, kind]

    def at(self, sizes: Mapping[str, int]) -> "Graph":
        """Return the graph of the model that `resized` returns for these sizes.

        Unlike a new extraction, this does not mistake a convolution with g groups for a depthwise
        one when its input is reduced to g channels.
        """
        full = self.checked(sizes)
        shapes = {name: list(shape) for name, shape in self.shapes.items()}
        for dimension in self.dimensions:
            for name, axis in dimension.axes:
                if name in shapes:
                    shapes[name][axis] = dimension.size(full) // dimension.blocks
        return replace(
            self, sizes=full, shapes={name: tuple(shape) for name, shape in shapes.items()}
        )

    def checked(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Return a legal size for every group, by default its current one.

        MobileNASError for an unknown or fixed group, or a size that is not legal.
        """
        full = dict(self.sizes)
        for name, size in sizes.items():
            if name not in full:
                free = [known for known in full if known not in self.fixed]
                raise MobileNASError(
                    f"there is no group {name!r}; the groups that can change are "
                    f"{', '.join(free) or 'none'}"
                )
            divisor = self.divisors[name]
            if name in self.fixed and size != full[name]:
                raise MobileNASError(
                    f"group {name} is to have {counted(size, 'channel')}, but it is fixed at "
                    f"{full[name]}: "
                    f"{self.fixed[name]}"
                )
            if isinstance(size, bool) or not isinstance(size, int) or size < 1 or size % divisor:
                legal = f"a multiple of {divisor}" if divisor > 1 else "a whole number above zero"
                raise MobileNASError(
                    f"group {name} is to have {size!r} channels; it must be {legal}"
                )
            full[name] = size
        return full

    def flops(self, sizes: Mapping[str, int]) -> int:
        """Return the multiply-adds for one image if the groups have these sizes."""
        full = self.checked(sizes)
        total = 0
        for layer in self.layers:
            inputs = 1
            if layer.blocks is not None:
                inputs = self.dimension(layer.module, "in").size(full) // layer.blocks
            total += layer.work * inputs * self.dimension(layer.module, "out").size(full)
        return total

    def params(self, sizes: Mapping[str, int]) -> int:
        """Return the number of parameters if the groups have these sizes."""
        return sum(math.prod(shape) for shape in self.at(sizes).shapes.values())


def sizes(graph: Graph) -> dict[str, int]:
    """Return the size of every group that can change, in the order of the forward pass."""
    return {name: size for name, size in graph.sizes.items() if name not in graph.fixed}
