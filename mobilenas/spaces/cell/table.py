"""Cost tables of a cell space: exact for choices, expected for relaxations.

With x_teo = 1 if edge e of cell kind t is kept with operation o, r_t = 1 if cells of kind t read
input 0, and n_s non-empty nodes in cells of kind s, FLOPs and params of a network are F = F0 + sum
x_teo f_teo + sum_t r_t (a_t + sum_s n_s b_ts) + sum_s n_s d_s, because the width of an entrance or
the classifier depends on the nodes of an earlier cell. Input 1 is always read.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor

from mobilenas.core.settings import check_choice
from mobilenas.spaces.cell.arch import INPUTS, Edge, PlacedCell
from mobilenas.spaces.cell.costs import edge_cost, ends_cost, entrance_cost
from mobilenas.spaces.cell.space import KINDS, LEFT_OUT, CellChoice, CellSpace

CELL_COSTS = ("flops", "params")
"""Costs of the cell space; peak memory is not a sum over edges."""

_INPUT_SETS = tuple(map(frozenset[int], ((), (0,), (1,), (0, 1))))
# so that an edge with only `none` costs nothing; gradients must stay within float32
_TINY = 1e-25


@dataclass(frozen=True, kw_only=True)
class CellProbabilities:
    """A relaxation, by kind of cell; E edges, O operations."""

    operations: Mapping[str, Tensor]
    """[E, O], or [E, O + 1] with `none` last."""
    edges: Mapping[str, Tensor]
    """[E]: weight of an edge in the sum of its node."""
    kept: Mapping[str, Tensor]
    """[E]: probability that an edge is kept; sums to the number of kept edges."""


class CellCostTable:
    """FLOPs or params of a cell space; the first dimension of tensors is KINDS."""

    is_peak = False

    def __init__(self, space: CellSpace, cost: str) -> None:
        check_choice("cost", cost, CELL_COSTS)
        self.space, self.cost = space, cost
        kinds, edges, operations = len(KINDS), len(space.edge_ends), len(space.operations)
        self.operations = torch.zeros(kinds, edges, operations, dtype=torch.float64)
        """f [2, E, O]: costs of operations."""
        self.entrance = torch.zeros(kinds, dtype=torch.float64)
        """a [2]: cost of the entrance of input 0 that does not depend on its channels."""
        self.per_pair = torch.zeros(kinds, kinds, dtype=torch.float64)
        """b [2, 2]: cost of that entrance per node of the cell that input 0 is the output of.

        The second index is the kind of that cell.
        """
        self.per_node = torch.zeros(kinds, dtype=torch.float64)
        """d [2]: cost per node of a cell, of the layers that always read it."""
        self.fixed = 0.0
        """F0: the constant part."""
        self._fill()
        self._rows: list[list[list[float]]] = self.operations.tolist()
        self._coefficients = list(
            zip(self.entrance.tolist(), self.per_pair.tolist(), self.per_node.tolist(), strict=True)
        )
        self._same = torch.eye(kinds, dtype=torch.bool)
        self._zero = [edge for edge, ends in enumerate(space.edge_ends) if ends[0] == 0]
        self._masks = self._make_masks()

    def _fill(self) -> None:
        space, cost = self.space, self.cost
        arch = replace(space.search_arch(), layers=space.layers, channels=space.channels)
        kinds = [int(number in arch.reductions) for number in range(arch.layers)]
        for number, (kind, placed) in enumerate(zip(kinds, arch.cells, strict=True)):
            self.operations[kind] += self._edges(placed)
            for which in range(INPUTS):
                source = number - INPUTS + which
                if source < 0:  # a stem
                    base = float(entrance_cost(placed, cost, which, placed.in_channels[which]))
                else:
                    base = float(entrance_cost(placed, cost, which, 0))
                    per_node = (
                        entrance_cost(placed, cost, which, arch.cells[source].channels) - base
                    )
                    if which == 0:
                        self.per_pair[kind, kinds[source]] += per_node
                    else:
                        self.per_node[kinds[source]] += per_node
                if which == 0:
                    self.entrance[kind] += base
                else:
                    self.fixed += base
        base = float(ends_cost(arch, cost, 0))
        self.fixed += base
        self.per_node[kinds[-1]] += ends_cost(arch, cost, arch.cells[-1].channels) - base

    def _edges(self, placed: PlacedCell) -> Tensor:
        """Return the costs of all edges of a cell, [E, O]."""
        return torch.tensor(
            [
                [
                    edge_cost(placed, self.cost, Edge(operation=name, input=read))
                    for name in self.space.operations
                ]
                for read, _ in self.space.edge_ends
            ],
            dtype=torch.float64,
        )

    def _make_masks(self) -> Tensor:
        """Return masks of edges [M, E]: those that read input 0, each node's, and unions of both.

        With edges per node, only the first, because no node is empty.
        """
        reads = torch.tensor([source == 0 for source, _ in self.space.edge_ends])
        if self.space.edges.of == "node":
            return reads[None]
        owners = torch.tensor([node for _, node in self.space.edge_ends])
        nodes = owners == torch.arange(self.space.nodes)[:, None]
        return torch.cat([reads[None], nodes, nodes | reads])

    def exact(self, choice: CellChoice) -> float:
        """Return the cost of one choice."""
        cost, reads, nodes = 0.0, [], []
        for rows, picks in zip(self._rows, (choice.normal, choice.reduce), strict=True):
            kept = [edge for edge, pick in enumerate(picks) if pick != LEFT_OUT]
            cost += sum(rows[edge][picks[edge]] for edge in kept)
            reads.append(any(picks[edge] != LEFT_OUT for edge in self._zero))
            nodes.append(len({self.space.edge_ends[edge][1] for edge in kept}))
        return cost + self._frame(reads, nodes)

    def minimum(self) -> float:
        """Return the smallest cost of all legal choices."""
        normal, reduce = (self._cheapest(rows) for rows in self.operations.amin(-1).tolist())
        return min(
            first + second + self._frame((r, s), (n, m))
            for (r, n), first in normal.items()
            for (s, m), second in reduce.items()
        )

    def _frame(self, reads: Sequence[bool], nodes: Sequence[int]) -> float:
        """Return the cost without edges; by kind: whether input 0 is read, number of nodes."""
        cost = self.fixed
        for kind, (entrance, per_pair, per_node) in enumerate(self._coefficients):
            cost += per_node * nodes[kind]
            if reads[kind]:
                cost += entrance + per_pair[0] * nodes[0] + per_pair[1] * nodes[1]
        return cost

    def _cheapest(self, costs: Sequence[float]) -> dict[tuple[bool, int], float]:
        """Return the minimum cost of a cell's edges by (whether input 0 is read, number of nodes).

        `costs` [E] are the minima of single edges. Dynamic programming over the nodes.
        """
        space, kept, first = self.space, self.space.edges.kept, 0
        by_node = space.edges.of == "node"
        total = sum(min(kept, len(group)) for group in space.groups())
        # non-empty nodes, edges kept, inputs read -> cost
        states: dict[tuple[frozenset[int], int, frozenset[int]], float] = {
            (frozenset(), 0, frozenset()): 0.0
        }
        for node in range(space.nodes):
            before, states = states, {}
            for (filled, used, read), cost in before.items():
                inner = sorted(costs[first + INPUTS + other] for other in filled)
                for inputs, others in product(_INPUT_SETS, range(len(inner) + 1)):
                    count = len(inputs) + others
                    if used + count > total or (by_node and count != min(kept, node + INPUTS)):
                        continue
                    state = filled | {node} if count else filled, used + count, read | inputs
                    whole = cost + sum(costs[first + n] for n in inputs) + sum(inner[:others])
                    states[state] = min(whole, states.get(state, math.inf))
            first += node + INPUTS
        found: dict[tuple[bool, int], float] = {}
        for (filled, used, read), cost in states.items():
            if 1 in read and used == total:
                key = 0 in read, len(filled)
                found[key] = min(cost, found.get(key, math.inf))
        return found

    def expected(self, p: CellProbabilities) -> Tensor:
        """Return the expected cost, a scalar that carries gradients to the probabilities.

        Edges are assumed to be kept independently (with edges per node, except those of one node).
        `none` is never chosen: its probability is distributed to the other operations.
        """
        kept, operations = (
            torch.stack([values[kind] for kind in KINDS]).to(self.operations)
            for values in (p.kept, p.operations)
        )  # [2, E], [2, E, O (+ 1)]
        real = operations[..., : self.operations.shape[-1]]
        edges = (real * self.operations).sum(-1)  # [2, E]
        if real.shape != operations.shape:
            edges = edges / real.sum(-1).clamp(min=_TINY)
        missed = torch.where(self._masks, 1 - kept[:, None], 1.0).prod(-1)  # [2, M]: none is kept
        reads = 1 - missed[:, 0]  # [2]
        if self.space.edges.of == "node":
            nodes = torch.full_like(reads, self.space.nodes)
            both = reads[:, None] * nodes
        else:
            empty, neither = missed[:, 1:].chunk(2, 1)  # [2, nodes]
            nodes = (1 - empty).sum(-1)
            # within a cell, one edge may both read input 0 and make its node non-empty
            own = (reads[:, None] - empty + neither).sum(-1)
            both = torch.where(self._same, own[:, None], reads[:, None] * nodes)
        return (
            (kept * edges).sum()
            + (both * self.per_pair).sum()
            + (reads * self.entrance + nodes * self.per_node).sum()
            + self.fixed
        )
