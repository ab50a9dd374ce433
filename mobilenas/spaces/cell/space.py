"""The cell space: which edges two cells keep, and the operation of each.

Edges are numbered as in DARTS, node by node: the first node's two inputs are edges 0 and 1, the
second node's three are edges 2, 3 and 4, and so on.
"""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Annotated, ClassVar

from msgspec import Meta

from mobilenas.core.errors import MobileNASError
from mobilenas.core.settings import check_choice, counted
from mobilenas.spaces.cell.arch import INPUTS, OPERATIONS, Cell, CellArch, Edge, Genotype

KINDS = ("normal", "reduce")
LEFT_OUT = -1
"""Option of an edge that is not kept."""
TARGETS = ("node", "cell")

_TARGET = re.compile(r"(\d{1,4})/(n|node|cell|\d{1,4})")
_MAX_NODES = 6
# at least 15 % of uniform draws (6 nodes, 5 edges per cell) are legal cells
_MAX_DRAWS = 10_000
# by params; a skip that halves the image is a convolution
_CHEAPEST_FIRST = (
    *("max_pool_3x3", "avg_pool_3x3", "skip_connect"),
    *("dil_conv_3x3", "dil_conv_5x5", "sep_conv_3x3", "sep_conv_5x5"),
)


@dataclass(frozen=True, kw_only=True)
class EdgeTarget:
    """Number of edges that a searched cell keeps."""

    kept: int = 2
    """Number of kept edges; a node with fewer inputs keeps all."""
    of: str = "node"
    """Whether that is per `node` or per `cell`."""

    def __post_init__(self) -> None:
        """Check both fields."""
        check_choice("edges.of", self.of, TARGETS)
        if type(self.kept) is not int or self.kept < 1:
            raise MobileNASError(f"edges.kept is {self.kept!r}; it must be a whole number above 0")

    def __str__(self) -> str:
        return f"{self.kept}/{self.of}"

    @classmethod
    def parse(cls, text: str, nodes: int = 4) -> "EdgeTarget":
        """Parse `2/node` (or `2/n`), `3/cell`, or `3/14`: 3 of all 14 edges of a 4-node cell."""
        match = _TARGET.fullmatch(text.strip())
        if not match:
            raise MobileNASError(
                f"edges is {text!r}; write 2/node for two edges of each node, or 3/cell for three "
                "edges of a whole cell"
            )
        kept, of = match.groups()
        if of.isdigit():
            every = len(_edge_ends(nodes))
            if int(of) != every:
                raise MobileNASError(
                    f"edges is {text!r}; a cell with {counted(nodes, 'node')} has {every} edges: "
                    f"write {kept}/{every} or {kept}/cell"
                )
            of = "cell"
        return cls(kept=int(kept), of="node" if of == "n" else of)


@dataclass(frozen=True, kw_only=True)
class CellChoice:
    """One option for every edge of both cells."""

    normal: tuple[Annotated[int, Meta(ge=LEFT_OUT, le=63)], ...]
    """Per edge of the normal cell: an index into the space's operations, or LEFT_OUT."""
    reduce: tuple[Annotated[int, Meta(ge=LEFT_OUT, le=63)], ...]
    """Per edge of the reduction cell, likewise."""

    def of(self, kind: str) -> tuple[int, ...]:
        """Return the options of a cell, `normal` or `reduce`."""
        return self.normal if kind == "normal" else self.reduce

    def alike(self, other: "CellChoice") -> float:
        """Return the share of edges that are equal in both networks, among those in either."""
        first, second = (
            {
                (kind, edge, operation)
                for kind in KINDS
                for edge, operation in enumerate(choice.of(kind))
                if operation != LEFT_OUT
            }
            for choice in (self, other)
        )
        return len(first & second) / len(first | second)


@dataclass(frozen=True, kw_only=True)
class CellSpace:
    """A set of networks of DARTS cells, and the size of its supernet."""

    family: ClassVar[str] = "cell"

    image_size: int
    """Side of the square input in pixels."""
    in_channels: int
    """Channels of the input."""
    classes: int
    """Number of classes."""
    stem: str = "cifar"
    """A name from `STEMS`."""
    layers: int = 8
    """Number of cells of the networks."""
    channels: int = 16
    """Initial channels of the networks, an even number."""
    search_layers: int = 8
    """Number of cells of the supernet."""
    search_channels: int = 16
    """Initial channels of the supernet, an even number."""
    nodes: int = 4
    """Number of nodes of a cell."""
    operations: tuple[str, ...] = OPERATIONS
    """Operations of edges, without `none`, which is an edge that is not kept."""
    edges: EdgeTarget = EdgeTarget()
    """Number of edges that a cell keeps."""
    auxiliary: bool = False
    """Whether the networks are trained with an auxiliary classifier."""
    drop_path: float = 0.0
    """Probability of dropping an edge's output in training."""

    def __post_init__(self) -> None:
        """Check every field; the error names it, its value and what is legal."""
        if type(self.nodes) is not int or not 1 <= self.nodes <= _MAX_NODES:
            raise MobileNASError(f"nodes is {self.nodes!r}; it must be 1 to {_MAX_NODES}")
        if not self.operations or len(set(self.operations)) < len(self.operations):
            raise MobileNASError(
                f"operations is {', '.join(self.operations) or 'empty'}; it must name one or more, "
                "each once"
            )
        for name in self.operations:
            check_choice("operations", name, OPERATIONS)
        max_edges = self.nodes + 1 if self.edges.of == "node" else len(self.edge_ends)
        if self.edges.kept > max_edges:
            whose = "the last node of " if self.edges.of == "node" else ""
            raise MobileNASError(
                f"edges is {self.edges}; {whose}a cell with {counted(self.nodes, 'node')} has "
                f"{max_edges} edges"
            )
        self.arch(self.smallest())  # checks the other fields
        try:
            self.search_arch()
        except MobileNASError as error:
            raise MobileNASError(f"search_{error}") from error

    @cached_property
    def edge_ends(self) -> tuple[tuple[int, int], ...]:
        """Per edge: the index that it reads, and its node, numbered from 0."""
        return _edge_ends(self.nodes)

    @cached_property
    def _groups(self) -> list[list[int]]:
        if self.edges.of == "cell":
            return [list(range(len(self.edge_ends)))]
        return [
            [edge for edge, ends in enumerate(self.edge_ends) if ends[1] == node]
            for node in range(self.nodes)
        ]

    @property
    def kept_edges(self) -> int:
        """Number of edges in each cell of a network."""
        return sum(min(self.edges.kept, len(group)) for group in self._groups)

    def groups(self) -> list[list[int]]:
        """Return groups of competing edges: one per node, or one for the whole cell.

        Of each group, min(edges.kept, its length) are kept.
        """
        return [list(group) for group in self._groups]

    def genotype(self, choice: CellChoice) -> Genotype:
        """Return the two cells of a choice."""
        return Genotype(normal=self._cell(choice.normal), reduce=self._cell(choice.reduce))

    def arch(self, choice: CellChoice) -> CellArch:
        """Return the network of a choice."""
        return CellArch(
            image_size=self.image_size,
            in_channels=self.in_channels,
            classes=self.classes,
            stem=self.stem,
            layers=self.layers,
            channels=self.channels,
            genotype=self.genotype(choice),
            auxiliary=self.auxiliary,
            drop_path=self.drop_path,
        )

    def search_arch(self) -> CellArch:
        """Return a network of the supernet's size with all edges, from which the supernet is built.

        The operations of its edges have no meaning.
        """
        whole = self._cell((0,) * len(self.edge_ends))
        return CellArch(
            image_size=self.image_size,
            in_channels=self.in_channels,
            classes=self.classes,
            stem=self.stem,
            layers=self.search_layers,
            channels=self.search_channels,
            genotype=Genotype(normal=whole, reduce=whole),
            auxiliary=False,
            drop_path=0.0,
        )

    def skips(self, choice: CellChoice) -> dict[str, int]:
        """Return the number of skip connections in each cell."""
        genotype = self.genotype(choice)
        return {kind: genotype.of(kind).skips for kind in KINDS}

    def is_legal(self, choice: CellChoice) -> bool:
        """Whether a choice has the space's number of edges and gives a valid network."""
        return all(self._is_legal(choice.of(kind)) for kind in KINDS)

    def random(self, source: Random) -> CellChoice:
        """Draw uniformly among the legal choices."""
        return CellChoice(normal=self._draw(source), reduce=self._draw(source))

    def smallest(self) -> CellChoice:
        """Return a choice with few params.

        Every kept edge has the cheapest operation. If possible, input 0 is not read, which saves
        its entrance; with edges per cell, the first nodes are filled, so that there are few nodes.
        It may not be the minimum if not reading input 0 takes one more node.
        """
        return self._extreme(_CHEAPEST_FIRST, lambda source, node: (source == 0, node, source))

    def largest(self) -> CellChoice:
        """Return a choice with many params: most expensive operations, as many nodes as possible.

        Nodes alternately prefer input 1 and input 0, so that both are read.
        """
        return self._extreme(
            _CHEAPEST_FIRST[::-1],
            lambda source, node: (source if source >= INPUTS else (source + node + 1) % 2, node),
        )

    def _cell(self, picks: tuple[int, ...]) -> Cell:
        nodes: list[list[Edge]] = [[] for _ in range(self.nodes)]
        for (source, node), pick in zip(self.edge_ends, picks, strict=True):
            if pick != LEFT_OUT:
                nodes[node].append(Edge(operation=self.operations[pick], input=source))
        return Cell(
            nodes=tuple(map(tuple, nodes)), concat=tuple(range(INPUTS, INPUTS + self.nodes))
        )

    def _is_legal(self, picks: tuple[int, ...]) -> bool:
        if len(picks) != len(self.edge_ends):
            return False
        kept = {edge for edge, pick in enumerate(picks) if pick != LEFT_OUT}
        return (
            all(picks[edge] in range(len(self.operations)) for edge in kept)
            and all(
                len(kept.intersection(group)) == min(self.edges.kept, len(group))
                for group in self._groups
            )
            and self._is_whole(kept)
        )

    def _is_whole(self, kept: Collection[int]) -> bool:
        """Whether input 1 is read, and no edge reads a node without edges."""
        edge_ends = [self.edge_ends[edge] for edge in kept]
        reads = {source for source, _ in edge_ends}
        return 1 in reads and reads <= {0, 1, *(INPUTS + node for _, node in edge_ends)}

    def _draw(self, source: Random) -> tuple[int, ...]:
        for _ in range(_MAX_DRAWS):
            kept: set[int] = set()
            for group in self._groups:
                kept.update(source.sample(group, min(self.edges.kept, len(group))))
            if self._is_whole(kept):
                return tuple(
                    source.randrange(len(self.operations)) if edge in kept else LEFT_OUT
                    for edge in range(len(self.edge_ends))
                )
        raise AssertionError(f"no cell with {self.edges} edges in {_MAX_DRAWS} draws")

    def _extreme(
        self, order: tuple[str, ...], rank: Callable[[int, int], tuple[int, ...]]
    ) -> CellChoice:
        """Keep the edges with the lowest rank, all with the first operation in `order`."""
        operation = min(range(len(self.operations)), key=lambda o: order.index(self.operations[o]))
        picks = [LEFT_OUT] * len(self.edge_ends)
        for group in self._groups:
            ranked = sorted(group, key=lambda edge: rank(*self.edge_ends[edge]))
            for edge in ranked[: self.edges.kept]:
                picks[edge] = operation
        return CellChoice(normal=tuple(picks), reduce=tuple(picks))


def _edge_ends(nodes: int) -> tuple[tuple[int, int], ...]:
    return tuple((source, node) for node in range(nodes) for source in range(node + INPUTS))
