"""A network of the cell family (DARTS) as a frozen value with a JSON form.

In a cell, indices 0 and 1 are its inputs (the outputs of the cell before the previous one, and of
the previous one) and 2, 3, ... its nodes. A node is the sum of its edges; an edge is an operation
on an earlier index. The cell's output is the concatenation of the nodes in `concat`. A node without
edges is absent: nothing may read it, and the output omits it.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, ClassVar

from msgspec import Meta

from mobilenas.core.errors import FileError, MobileNASError
from mobilenas.core.records import Json
from mobilenas.core.settings import check_between, check_choice, from_plain, to_plain

OPERATIONS = (
    *("sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5"),
    *("avg_pool_3x3", "max_pool_3x3", "skip_connect"),
)
"""Operations of edges (Liu et al. 2019, section 3.1); `none` exists only in the search."""
INPUTS = 2
"""Number of inputs of a cell; its nodes are numbered from here."""
STEMS = ("cifar", "imagenet")
"""Layers before the cells: a 3x3 convolution, or three of them with stride 2."""

_RANGES = {"in_channels": (1, 64), "classes": (2, 65536), "layers": (1, 200), "channels": (2, 4096)}
# so that each of the two reductions has at least 2x2 pixels to reduce
_SMALLEST_IMAGE = {"cifar": 4, "imagenet": 32}


@dataclass(frozen=True, kw_only=True)
class Edge:
    """An operation on an earlier index of the cell."""

    operation: str
    """A name from `OPERATIONS`."""
    input: int
    """The index that it reads: 0 or 1 for the cell's inputs, 2 for its first node, and so on."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A small graph that a network repeats."""

    nodes: Annotated[
        tuple[Annotated[tuple[Edge, ...], Meta(max_length=64)], ...],
        Meta(max_length=64),
    ]
    """The edges of each node, in any number; the node is their sum."""
    concat: Annotated[tuple[int, ...], Meta(max_length=64)]
    """Indices of the nodes that are concatenated to the cell's output, without empty nodes."""

    @property
    def outputs(self) -> tuple[int, ...]:
        """Indices that are concatenated: those of `concat` whose node has edges."""
        return tuple(node for node in self.concat if self.nodes[node - INPUTS])

    @property
    def skips(self) -> int:
        """Number of edges that are skip connections."""
        return sum(edge.operation == "skip_connect" for edges in self.nodes for edge in edges)

    @property
    def reads(self) -> frozenset[int]:
        """Indices that are read by an edge."""
        return frozenset(edge.input for edges in self.nodes for edge in edges)


@dataclass(frozen=True, kw_only=True)
class Genotype:
    """The two cells of a network, named as in DARTS."""

    normal: Cell
    """The cell that keeps the image size."""
    reduce: Cell
    """The cell that halves it: edges that read its inputs have stride 2."""

    def __post_init__(self) -> None:
        """Check every edge; the error names the place, the value and what is legal."""
        _check_cell("genotype.normal", self.normal)
        _check_cell("genotype.reduce", self.reduce)

    def of(self, kind: str) -> Cell:
        """Return the cell of a kind, `normal` or `reduce`."""
        return self.normal if kind == "normal" else self.reduce


@dataclass(frozen=True, kw_only=True)
class PlacedCell:
    """A cell at its place in a network, which determines how it is built and its costs."""

    cell: Cell
    """The cell's graph."""
    stride: int
    """2 for a reduction cell, else 1."""
    channels: int
    """Channels of every node."""
    in_channels: tuple[int, int]
    """Channels of its inputs."""
    in_sides: tuple[int, int]
    """Sides of its inputs in pixels; the first may be larger, and is reduced on entry."""

    @property
    def out_channels(self) -> int:
        """Channels of the concatenation."""
        return self.channels * len(self.cell.outputs)

    @property
    def out_side(self) -> int:
        """Side of the output in pixels."""
        return _half(self.in_sides[1]) if self.stride == 2 else self.in_sides[1]


@dataclass(frozen=True, kw_only=True)
class CellArch:
    """A network of the cell family: stem, chain of cells, mean over the image, classifier."""

    family: ClassVar[str] = "cell"

    image_size: int
    """Side of the square input in pixels."""
    in_channels: int
    """Channels of the input."""
    classes: int
    """Number of classes."""
    stem: str
    """A name from `STEMS`."""
    layers: int
    """Number of cells; those at 1/3 and 2/3 of the depth are reductions."""
    channels: int
    """Channels of the first cell's nodes, an even number; each reduction doubles them."""
    genotype: Genotype
    """The two cells."""
    auxiliary: bool
    """Whether training adds a second classifier after the last reduction; not part of costs."""
    drop_path: float
    """Probability of dropping an edge's output for an image in training, except of skips."""

    def __post_init__(self) -> None:
        """Check every field; the error names the place, the value and what is legal."""
        check_choice("stem", self.stem, STEMS)
        ranges = {"image_size": (_SMALLEST_IMAGE[self.stem], 4096)} | _RANGES
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise MobileNASError(
                    f"{name} is {value!r}; it must be a whole number, {low} to {high}"
                )
        if self.channels % 2:
            # a factorized reduction computes the two halves of the channels from different pixels
            raise MobileNASError(f"channels is {self.channels}; it must be even")
        if type(self.auxiliary) is not bool:
            raise MobileNASError(f"auxiliary is {self.auxiliary!r}; it must be true or false")
        check_between(self, "drop_path", 0, 0.99)

    @property
    def reductions(self) -> frozenset[int]:
        """Indices of the reduction cells (Liu et al. 2019, section 3.1)."""
        return frozenset((self.layers // 3, 2 * self.layers // 3))

    @cached_property
    def cells(self) -> tuple[PlacedCell, ...]:
        """All cells in order."""
        if self.stem == "cifar":
            in_channels = (3 * self.channels, 3 * self.channels)
            in_sides = (self.image_size, self.image_size)
        else:
            quarter = _half(_half(self.image_size))
            in_channels, in_sides = (self.channels, self.channels), (quarter, _half(quarter))
        channels, cells = self.channels, []
        for number in range(self.layers):
            reduces = number in self.reductions
            channels *= 2 if reduces else 1
            placed = PlacedCell(
                cell=self.genotype.reduce if reduces else self.genotype.normal,
                stride=2 if reduces else 1,
                channels=channels,
                in_channels=in_channels,
                in_sides=in_sides,
            )
            cells.append(placed)
            in_channels = (in_channels[1], placed.out_channels)
            in_sides = (in_sides[1], placed.out_side)
        return tuple(cells)

    def to_dict(self) -> Json:
        """Return the JSON form."""
        return {"space": "cell", **to_plain(self)}

    @classmethod
    def from_dict(cls, data: object, source: str = "arch") -> "CellArch":
        """Read the JSON form; `source` names the file in errors."""
        try:
            if not isinstance(data, dict):
                raise MobileNASError(f"arch is {data!r}; it must be an object")
            plain = dict(data)
            space = plain.pop("space", None)
            if space != "cell":
                raise MobileNASError(f"arch.space is {space!r}; it must be cell")
            arch: CellArch = from_plain(cls, plain, "arch", checks_say_where=True)
        except MobileNASError as error:
            raise FileError(f"{source}: {error}") from error
        return arch


def _half(side: int) -> int:
    return (side + 1) // 2


def _check_cell(name: str, cell: Cell) -> None:
    for number, edges in enumerate(cell.nodes):
        legal = [
            node for node in range(number + INPUTS) if node < INPUTS or cell.nodes[node - INPUTS]
        ]
        for index, edge in enumerate(edges):
            place = f"{name}.nodes[{number}][{index}]"
            check_choice(f"{place}.operation", edge.operation, OPERATIONS)
            if type(edge.input) is not int or edge.input not in legal:
                raise MobileNASError(
                    f"{place}.input is {edge.input!r}; it must be an input or an earlier node that "
                    f"has edges: {', '.join(map(str, legal))}"
                )
    indices = range(INPUTS, INPUTS + len(cell.nodes))
    whole = all(type(node) is int and node in indices for node in cell.concat)
    if not whole or list(cell.concat) != sorted(set(cell.concat)):
        raise MobileNASError(
            f"{name}.concat is {list(cell.concat)}; it must be increasing indices of nodes, "
            f"of {', '.join(map(str, indices)) or 'which there are none'}"
        )
    if not cell.outputs:
        raise MobileNASError(f"{name}: no node of concat {list(cell.concat)} has an edge")
    # parts that nothing reads would be trained, counted and run in vain
    if 1 not in cell.reads:
        raise MobileNASError(f"{name}: no edge reads input 1, so the cell before it would be idle")
    for number, edges in enumerate(cell.nodes):
        if edges and number + INPUTS not in cell.reads | set(cell.concat):
            raise MobileNASError(
                f"{name}.nodes[{number}] has edges, but index {number + INPUTS} is neither in "
                "concat nor read by a later node"
            )
