"""Discretizes the alphas of two cells to an arch that meets all budgets (mixed-integer program).

There is a binary variable per (cell, edge, operation). They determine two more kinds, which are
continuous: whether a cell reads its input 0, and whether a node has edges. Products of these in
costs are linearized by pair variables. Without budgets and with 2 edges per node, the optimum is
that of DARTS (Liu et al. 2019, section 2.4).
"""

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
from torch import Tensor

from mobilenas.cost.budget import Budget
from mobilenas.cost.budgets import Budgets
from mobilenas.spaces.cell.arch import INPUTS
from mobilenas.spaces.cell.space import KINDS, LEFT_OUT, CellChoice
from mobilenas.spaces.program import BudgetProgram, Row


class CellProgram(BudgetProgram[CellChoice]):
    """The program for one cell space, one set of scores and all budgets.

    Choices differ in edges that only one of them keeps, or with different operations.
    """

    continuous = ("reads", "node", "pair")
    decisive = ("edge",)
    distance = 2
    gap = 0.0

    def __init__(self, budgets: Budgets, scores: Mapping[str, Tensor]) -> None:
        super().__init__(budgets)
        self.scores = {kind: scores[kind].tolist() for kind in KINDS}
        for kind in KINDS:
            self._add_edges(kind)
            self._add_reads(kind)
            if self.space.edges.of == "cell":
                self._add_nodes(kind)
        if self.budgets.budgets:
            self._add_pairs()
            self._add_budgets()

    def _kept(self, kind: str, edges: Sequence[int]) -> dict[int, float]:
        """Return the coefficients that count the kept ones of these edges."""
        operations = range(len(self.space.operations))
        return {self.index["edge", kind, e, o]: 1.0 for e in edges for o in operations}

    def _add_edges(self, kind: str) -> None:
        edges = range(len(self.space.edge_ends))
        for e, o in product(edges, range(len(self.space.operations))):
            self._variable("edge", kind, e, o, score=self.scores[kind][e][o])
        self.rows += [(self._kept(kind, [e]), 0, 1) for e in edges]
        for group in self.space.groups():
            count = min(self.space.edges.kept, len(group))
            self.rows.append((self._kept(kind, group), count, count))

    def _add_reads(self, kind: str) -> None:
        sources = [source for source, _ in self.space.edge_ends]
        first, second = ([e for e, p in enumerate(sources) if p == n] for n in range(INPUTS))
        self._add_any(self._variable("reads", kind), kind, first)
        # the previous cell must be read
        self.rows.append((self._kept(kind, second), 1, np.inf))

    def _add_nodes(self, kind: str) -> None:
        edge_ends = self.space.edge_ends
        for node in range(self.space.nodes):
            filled = self._variable("node", kind, node)
            self._add_any(filled, kind, [e for e, ends in enumerate(edge_ends) if ends[1] == node])
            for e, (source, _) in enumerate(edge_ends):
                if source == node + INPUTS:
                    self.rows.append((self._kept(kind, [e]) | {filled: -1.0}, -np.inf, 0))

    def _add_any(self, variable: int, kind: str, edges: Sequence[int]) -> None:
        """Force the variable to 1 if one of the edges is kept, else to 0."""
        for e in edges:
            self.rows.append((self._kept(kind, [e]) | {variable: -1.0}, -np.inf, 0))
        self.rows.append((self._kept(kind, edges) | {variable: -1.0}, 0, np.inf))

    def _add_pairs(self) -> None:
        """Add reads x node for every pair of kinds; with edges per node, no node is empty."""
        if self.space.edges.of == "node":
            return
        for kind, other, node in product(KINDS, KINDS, range(self.space.nodes)):
            both = self._variable("pair", kind, other, node)
            reads, filled = self.index["reads", kind], self.index["node", other, node]
            self.rows.append(({both: 1.0, reads: -1.0}, -np.inf, 0))
            self.rows.append(({both: 1.0, filled: -1.0}, -np.inf, 0))
            self.rows.append(({both: 1.0, reads: -1.0, filled: -1.0}, -1, np.inf))

    def _add_budgets(self) -> None:
        floors: dict[int, float] = {}
        for budget in self.budgets.budgets:
            row, fixed = self._contributions(budget)
            # 1 only if the budget is used to the floor
            used = self._variable("used", budget.cost)
            floors[used] = 1.0
            self.rows.append((row, -np.inf, 1 - fixed))
            self.rows.append((row | {used: -self.budgets.floor}, -fixed, np.inf))
        self.rows.append((floors, 1, np.inf))

    def _contributions(self, budget: Budget) -> tuple[dict[int, float], float]:
        """Return each variable's contribution to cost / limit, and the constant part."""
        table, nodes = self.budgets.tables[budget.cost], range(self.space.nodes)
        costs, fixed = dict.fromkeys(range(len(self.keys)), 0.0), table.fixed
        for number, kind in enumerate(KINDS):
            for e, o in product(*map(range, table.operations.shape[1:])):
                costs[self.index["edge", kind, e, o]] = float(table.operations[number, e, o])
            reads, per_node = self.index["reads", kind], float(table.per_node[number])
            costs[reads] = float(table.entrance[number])
            if self.space.edges.of == "node":
                fixed += len(nodes) * per_node
                costs[reads] += len(nodes) * float(table.per_pair[number].sum())
                continue
            for node in nodes:
                costs[self.index["node", kind, node]] = per_node
                for other, name in enumerate(KINDS):
                    pair = self.index["pair", kind, name, node]
                    costs[pair] = float(table.per_pair[number, other])
        limit = budget.limit
        return {n: cost / limit for n, cost in costs.items() if cost}, fixed / limit

    def _differs(self, other: CellChoice, distance: int) -> Row:
        row: dict[int, float] = {}
        same = 0  # edges that `other` keeps, each of which differs unless its operation is chosen
        for kind in KINDS:
            for e, pick in enumerate(other.of(kind)):
                if pick == LEFT_OUT:
                    row |= self._kept(kind, [e])
                else:
                    row[self.index["edge", kind, e, pick]] = -1.0
                    same += 1
        return row, distance - same, np.inf

    def _choice(self, chosen: Sequence[int]) -> CellChoice:
        picks = {kind: [LEFT_OUT] * len(self.space.edge_ends) for kind in KINDS}
        for n in chosen:
            _, kind, e, o = self.keys[n]
            picks[kind][e] = o
        return CellChoice(**{kind: tuple(row) for kind, row in picks.items()})
