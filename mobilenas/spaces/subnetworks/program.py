"""Discretizes alphas to a subnetwork that meets all budgets (mixed-integer linear program).

There is a binary variable per image size, per depth of a stage, and per (image size, block, hidden
channels, kernel, squeeze), so every cost is linear. The score of an option is its log probability
minus the largest of its decision, as in the mobile space.
"""

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
import torch
from torch import Tensor

from mobilenas.cost.budget import Budget
from mobilenas.cost.budgets import Budgets
from mobilenas.spaces.program import BudgetProgram, Row
from mobilenas.spaces.subnetworks.space import DECISIONS, Choice, SubnetworkSpace, choice_of

_OPERATIONS = ("hidden", "kernel", "squeeze")
_NEVER = -1e5


class SubnetworkProgram(BudgetProgram[Choice]):
    """The program for one space, one set of scores and all budgets; choices differ in blocks."""

    continuous = ()
    decisive = ("side", "depth", "block")
    distance = 3
    gap = 1e-4

    def __init__(self, budgets: Budgets, log_probabilities: Mapping[str, Tensor]) -> None:
        super().__init__(budgets)
        self.scores = {
            name: (log_probabilities[name] - log_probabilities[name].amax(-1, keepdim=True)).numpy()
            for name in DECISIONS
        }
        sides, depths = range(len(self.space.sides)), self.space.depths
        rows = [self._one_of("side", 0, sides)]
        rows += [self._one_of("depth", s, range(count)) for s, count in enumerate(depths)]
        self.rows += [(row, 1, 1) for row in rows]
        for number in range(len(self.space.slots)):
            self._add_slot(number)
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
        options = [range(len(row)) for row in (slot.hidden, slot.kernels, slot.squeeze)]
        there = dict[int, float]()
        for side in range(len(self.space.sides)):
            row = dict[int, float]()
            for picks in product(*options):
                score = sum(
                    scores[name][number, pick]
                    for name, pick in zip(_OPERATIONS, picks, strict=True)
                )
                row[self._variable("block", side, number, *picks, score=float(score))] = 1.0
            there |= row
            self.rows.append((row | {self.index["side", 0, side]: -1.0}, -np.inf, 0))
        deep = range(slot.place, self.space.depths[slot.stage])
        self.rows.append((there | {self.index["depth", slot.stage, d]: -1.0 for d in deep}, 0, 0))

    def _add_budget(self, budget: Budget) -> None:
        # 1 only if the budget is used to the floor
        used = self._variable("used", budget.cost)
        table, loads = self.budgets.tables[budget.cost], dict[int, float]()
        for side, fixed in enumerate(table.fixed.tolist()):
            whole = max(fixed) if table.is_peak else sum(fixed)
            loads[self.index["side", 0, side]] = whole / budget.limit
        for key, number in self.index.items():
            if key[0] == "block":
                loads[number] = float(table.blocks[key[1:]]) / budget.limit
        if not table.is_peak:
            self.rows.append((loads, -np.inf, 1))
            self.rows.append((loads | {used: -self.budgets.floor}, 0, np.inf))
            return
        self.rows.append(({n: 1.0 for n, load in loads.items() if load > 1}, 0, 0))
        near = {n: -1.0 for n, load in loads.items() if load >= self.budgets.floor}
        self.rows.append((near | {used: 1.0}, -np.inf, 0))

    def _differs(self, other: Choice, distance: int) -> Row:
        places = self._places(other)
        return dict.fromkeys(places, 1.0), 0, max(0, len(places) - distance)

    def _places(self, choice: Choice) -> list[int]:
        """Return the block variables of a choice."""
        (side,) = choice.side
        return [
            self.index[("block", side, n, *(getattr(choice, name)[n] for name in _OPERATIONS))]
            for n in range(len(self.space.slots))
            if self.space.keeps(choice, n)
        ]

    def _choice(self, chosen: Sequence[int]) -> Choice:
        # omitted blocks get their most probable options, which have no effect
        picks = {name: self.scores[name].argmax(-1).tolist() for name in DECISIONS}
        for kind, *rest in (self.keys[n] for n in chosen):
            if kind == "block":
                _, number, *options = rest
                for name, pick in zip(_OPERATIONS, options, strict=True):
                    picks[name][number] = pick
            else:
                number, pick = rest
                picks[kind][number] = pick
        return choice_of(picks)


def least_cut(budgets: Budgets) -> list[Choice]:
    """Return for every image size the feasible network that omits the least.

    That is the one with the largest product of the blocks' kept shares of hidden channels and
    kernel weights. An omitted block counts as one with the smallest share of its channels.
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
    }
    return {
        name: torch.tensor(
            [row + [_NEVER] * (max(map(len, of_kind)) - len(row)) for row in of_kind],
            dtype=torch.float64,
        )
        for name, of_kind in rows.items()
    }
