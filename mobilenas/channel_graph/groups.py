"""Which channel sizes of a model are tied: the result of the extraction, and counts made from it.

Every dimension of a layer that runs over channels is a row of parts, each with the channels of one
group. A group has one size; whoever changes it changes all of its parts together.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from mobilenas.core.errors import MobileNASError
from mobilenas.core.settings import counted


@dataclass(frozen=True, kw_only=True)
class Part:
    """Entries of a dimension that stand for all channels of one group, in the group's order."""

    group: str
    """The group's name."""
    repeat: int = 1
    """Neighbouring entries of each channel: H*W after flattening, more after a shuffle."""
    aligned: bool = True
    """Whether entry j is of channel j // repeat. False behind a split of shuffled channels, where
    only the number of entries follows the group; go by place there, not by channel."""


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """Input or output channels of a layer, or the channels a norm or a parameter runs over."""

    module: str
    """Name of the layer, as in `named_modules`."""
    kind: str
    """"in", "out", "norm", or the name of a parameter that belongs to no layer known here."""
    axes: tuple[tuple[str, int], ...]
    """(state-dict name, axis) of each tensor this dimension sizes; none for depthwise inputs."""
    blocks: int = 1
    """A grouped convolution's groups for its input: the axis holds the entries of one block."""
    parts: tuple[Part, ...]
    """In order, without gaps."""

    def size(self, sizes: Mapping[str, int]) -> int:
        """Count the entries when the groups have these sizes."""
        return sum(sizes[part.group] * part.repeat for part in self.parts)

    def spans(self, sizes: Mapping[str, int]) -> Iterator[tuple[Part, int, int]]:
        """Yield each part with its first entry and the one after its last."""
        start = 0
        for part in self.parts:
            stop = start + sizes[part.group] * part.repeat
            yield part, start, stop
            start = stop


@dataclass(frozen=True, kw_only=True)
class Member:
    """A part of a dimension, seen from its group."""

    dimension: Dimension
    """Where it is."""
    offset: int
    """First entry."""
    size: int
    """Entries: the group's size times `repeat`."""
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
        """What the dimension is to the layer: "in", "out", "norm" or a parameter's name."""
        return self.dimension.kind


@dataclass(frozen=True, kw_only=True)
class Group:
    """Channel sizes that are one size."""

    name: str
    """Of the first layer that makes these channels; "NAME#2" for a second group of that layer."""
    size: int
    """Channels. A layer with several members of the group has that many times as many."""
    divisor: int
    """Legal sizes are its multiples."""
    fixed: str | None
    """Why the size cannot change; None where it can."""
    members: tuple[Member, ...]
    """In the order of the forward pass."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A convolution or linear layer, with what its multiply-adds depend on."""

    module: str
    """Its name."""
    work: int
    """Kernel size times output positions, over all of its calls, for one image."""
    blocks: int | None
    """Groups of the convolution; None for a depthwise one, which has as many as inputs."""


@dataclass(frozen=True, kw_only=True)
class Graph:
    """All groups of one model at its present sizes."""

    image_size: int
    """Side of the images it was traced with."""
    in_channels: int
    """Channels of the images."""
    sizes: Mapping[str, int]
    """Size of each group, in the order of the forward pass; fixed groups, too."""
    divisors: Mapping[str, int]
    """Divisor of each group."""
    fixed: Mapping[str, str]
    """Reason for each group that cannot change."""
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
        """Return the graph of the model that `resized` makes with these sizes.

        Better than to extract it anew: a convolution with g groups whose input became g channels
        would then be taken for a depthwise one.
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
        """Return a size for every group, the present one where `sizes` has none.

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
        """Count multiply-adds for one image when the groups have these sizes."""
        full = self.checked(sizes)
        total = 0
        for layer in self.layers:
            inputs = 1
            if layer.blocks is not None:
                inputs = self.dimension(layer.module, "in").size(full) // layer.blocks
            total += layer.work * inputs * self.dimension(layer.module, "out").size(full)
        return total

    def params(self, sizes: Mapping[str, int]) -> int:
        """Count parameters when the groups have these sizes."""
        return sum(math.prod(shape) for shape in self.at(sizes).shapes.values())


def sizes(graph: Graph) -> dict[str, int]:
    """Return the size of every group that can change, in the order of the forward pass."""
    return {name: size for name, size in graph.sizes.items() if name not in graph.fixed}
