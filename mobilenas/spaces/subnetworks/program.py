"""Discretizes alphas to a subnetwork that meets all budgets (mixed-integer linear program).

There is a binary variable per image size, per depth of a stage, and per (image size, block, hidden
channels, kernel, squeeze), so every cost is linear. If the widths of stages are searched, there is
one per width, and those of a block, and of stem and head, are per width that they read and write,
too. The score of an option is its log probability minus the largest of its decision, as in the
mobile space.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
import torch
from torch import Tensor

from mobilenas.cost.budget import Budget
from mobilenas.cost.budgets import Budgets
from mobilenas.spaces.program import BudgetProgram, Row
from mobilenas.spaces.subnetworks.space import Choice, SubnetworkSpace, choice_of
from mobilenas.spaces.subnetworks.table import CostTable

_OPERATIONS = ("hidden", "kernel", "squeeze")
_NEVER = -1e5


class SubnetworkProgram(BudgetProgram[Choice]):
    """The program for one space, one set of scores and all budgets; choices differ in blocks."""

    continuous = ()
    decisive = ("side", "depth", "width", "block")
    distance = 3
    gap = 1e-4

    def __init__(self, budgets: Budgets, log_probabilities: Mapping[str, Tensor]) -> None:
        super().__init__(budgets)
        self.scores = {
            name: (log_probabilities[name] - log_probabilities[name].amax(-1, keepdim=True)).numpy()
            for name in self.space.decisions
        }
        sides, depths = range(len(self.space.sides)), self.space.depths
        rows = [self._one_of("side", 0, sides)]
        rows += [self._one_of("depth", s, range(count)) for s, count in enumerate(depths)]
        if "width" in self.scores:
            widths = enumerate(self.space.options("width"))
            rows += [self._one_of("width", s, range(count)) for s, count in widths]
        self.rows += [(row, 1, 1) for row in rows]
        for number in range(len(self.space.slots)):
            self._add_slot(number)
        if "width" in self.scores:
            self._add_ends()
        for budget in self.budgets.budgets:
            self._add_budget(budget)
        used = {self.index["used", budget.cost]: 1.0 for budget in self.budgets.budgets}
        self.rows.append((used, 1, np.inf))

    def _one_of(self, name: str, number: int, options: Sequence[int]) -> dict[int, float]:
        scores = self.scores[name][number]
        return {self._variable(name, number, n, score=float(scores[n])): 1.0 for n in options}

    def _add_slot(self, number: int) -> None:
        """Require one option of a block at the network's image size, if the block exists."""
        slot, scores = self.space.slots[number], self.scores
        present, by_width = dict[int, float](), _ByWidth()
        for side in range(len(self.space.sides)):
            row = dict[int, float]()
            for picks in slot.picks():
                score = sum(
                    scores[name][number, pick]
                    for name, pick in zip(_OPERATIONS, picks[2:], strict=True)
                )
                variable = self._variable("block", side, number, *picks, score=float(score))
                row[variable] = 1.0
                by_width[slot.before, picks[0]].add(variable)
                by_width[slot.stage, picks[1]].add(variable)
            present |= row
            self.rows.append((row | {self.index["side", 0, side]: -1.0}, -np.inf, 0))
        deep = range(slot.position, self.space.depths[slot.stage])
        self.rows.append((present | {self.index["depth", slot.stage, d]: -1.0 for d in deep}, 0, 0))
        self._tie_widths(by_width)

    def _add_ends(self) -> None:
        """Add a variable per image size and widths that stem and head have."""
        space, by_width = self.space, _ByWidth()
        for side in range(len(space.sides)):
            row = dict[int, float]()
            for picks in product(range(len(space.stem_widths)), range(len(space.widths[-1]))):
                variable = self._variable("ends", side, *picks)
                row[variable] = 1.0
                by_width[space.stem_stage, picks[0]].add(variable)
                by_width[len(space.widths) - 1, picks[1]].add(variable)
            self.rows.append((row | {self.index["side", 0, side]: -1.0}, 0, 0))
        self._tie_widths(by_width)

    def _tie_widths(self, by_width: "_ByWidth") -> None:
        """Exclude variables of a width that its stage does not have."""
        for (stage, pick), variables in by_width.items():
            if (width := self.index.get(("width", stage, pick))) is not None:
                self.rows.append((dict.fromkeys(variables, 1.0) | {width: -1.0}, -np.inf, 0))

    def _add_budget(self, budget: Budget) -> None:
        # 1 only if the budget is used to the floor
        used = self._variable("used", budget.cost)
        table, ratios = self.budgets.tables[budget.cost], dict[int, float]()
        if "width" not in self.scores:
            for side in range(len(self.space.sides)):
                ratios[self.index["side", 0, side]] = _joined(table, side, 0, 0) / budget.limit
        for key, number in self.index.items():
            if key[0] == "ends":
                ratios[number] = _joined(table, *key[1:]) / budget.limit
            elif key[0] == "block":
                ratios[number] = float(table.blocks[key[1:]]) / budget.limit
        if not table.is_peak:
            self.rows.append((ratios, -np.inf, 1))
            self.rows.append((ratios | {used: -self.budgets.floor}, 0, np.inf))
            return
        self.rows.append(({n: 1.0 for n, ratio in ratios.items() if ratio > 1}, 0, 0))
        near = {n: -1.0 for n, ratio in ratios.items() if ratio >= self.budgets.floor}
        self.rows.append((near | {used: 1.0}, -np.inf, 0))

    def _differs(self, other: Choice, distance: int) -> Row:
        variables = self._block_variables(other)
        return dict.fromkeys(variables, 1.0), 0, max(0, len(variables) - distance)

    def _block_variables(self, choice: Choice) -> list[int]:
        """Return the block variables of a choice."""
        (side,) = choice.side
        return [
            self.index[("block", side, n, *self.space.picks(choice, n))]
            for n in range(len(self.space.slots))
            if self.space.has_block(choice, n)
        ]

    def _choice(self, chosen: Sequence[int]) -> Choice:
        # omitted blocks get their most probable options, which have no effect
        picks = {name: self.scores[name].argmax(-1).tolist() for name in self.space.decisions}
        for kind, *rest in (self.keys[n] for n in chosen):
            if kind == "block":
                _, number, _, _, *options = rest
                for name, pick in zip(_OPERATIONS, options, strict=True):
                    picks[name][number] = pick
            else:
                number, pick = rest
                picks[kind][number] = pick
        return choice_of(picks)


class _ByWidth(defaultdict[tuple[int | None, int], set[int]]):
    """Variables by stage and index of its width."""

    def __init__(self) -> None:
        super().__init__(set)


def _joined(table: CostTable, side: int, stem: int, last: int) -> float:
    """Return the cost of stem and head together, at these widths."""
    ends = float(table.fixed[side, 0, stem]), float(table.fixed[side, 1, last])
    return max(ends) if table.is_peak else sum(ends)


def least_pruned(budgets: Budgets) -> list[Choice]:
    """Return for every image size the feasible network that omits the least.

    That is the one with the largest product of the blocks' kept shares of hidden channels and
    kernel weights. An omitted block counts as one with the smallest share of its channels, and the
    width of a stage counts for each block that computes its channels, and each that reads them.
    """
    space = budgets.space
    found = list[Choice]()
    for side in range(len(space.sides)):
        choice = SubnetworkProgram(budgets, _kept_shares(space, side)).solve()
        # if no network of this size is feasible, the solution has another size
        found += [choice] if choice is not None and choice.side == (side,) else []
    return found


def _kept_shares(space: SubnetworkSpace, side: int) -> dict[str, Tensor]:
    """Return scores of all options by kind of decision, which exclude all other image sizes."""
    smallest = float(np.log(min(space.shares)))
    rows: dict[str, list[list[float]]] = {
        "side": [[0.0 if n == side else _NEVER for n in range(len(space.sides))]],
        "hidden": [[float(np.log(n / s.hidden[-1])) for n in s.hidden] for s in space.slots],
        "kernel": [
            [2 * float(np.log(int(k) / int(s.kernels[-1]))) for k in s.kernels]
            if len(s.kernels) > 1
            else [0.0]
            for s in space.slots
        ],
        "squeeze": [[smallest, 0.0][-len(s.squeeze) :] for s in space.slots],
        "depth": [[smallest * (depth - 1 - n) for n in range(depth)] for depth in space.depths],
        "width": [
            [2 * depth * float(np.log(n / row[-1])) for n in row]
            for depth, row in zip(space.depths, space.widths, strict=True)
        ],
    }
    return {
        name: torch.tensor(
            [row + [_NEVER] * (max(map(len, of_kind)) - len(row)) for row in of_kind],
            dtype=torch.float64,
        )
        for name, of_kind in rows.items()
        if name in space.decisions
    }
