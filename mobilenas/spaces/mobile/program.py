"""Discretizes alphas to a mobile arch that meets all budgets (mixed-integer linear program).

There is a binary variable per (slot, input width, output width, expansion, kernel, squeeze, start),
and one per (slot, width) for omitting the block. Pair variables are products of the widths of
adjacent stages, so every cost is linear, including measured latency. The score of an option is its
log probability minus the largest of its decision, so that a kept block is not penalized for having
more decisions than an omitted one.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
from torch import Tensor

from mobilenas.cost.budget import Budget
from mobilenas.cost.budgets import Budgets
from mobilenas.spaces.mobile.relaxation import choice_of
from mobilenas.spaces.mobile.space import DECISIONS, Choice
from mobilenas.spaces.program import BudgetProgram, Row

_OPERATIONS = ("expansion", "kernel", "squeeze", "start")


class ArchProgram(BudgetProgram[Choice]):
    """The program for one space, one set of scores and all budgets; choices differ in slots."""

    continuous = ("pair",)
    decisive = ("block", "out")
    distance = 3
    gap = 1e-4

    def __init__(self, budgets: Budgets, log_probabilities: Mapping[str, Tensor]) -> None:
        super().__init__(budgets)
        self.scores = {
            name: (log_probabilities[name] - log_probabilities[name].amax(-1, keepdim=True)).numpy()
            for name in DECISIONS
        }
        self.costs: dict[str, dict[int, float]] = {b.cost: {} for b in budgets.budgets}
        self._add_widths()
        self._add_slots()
        self._add_budgets()

    def _add_variable(self, costs: Mapping[str, float], *key: int | str, score: float) -> int:
        number = self._variable(*key, score=score)
        for name, cost in costs.items():
            self.costs[name][number] = cost
        return number

    def _add_widths(self) -> None:
        last = len(self.space.stages) - 1
        for number, stage in enumerate(self.space.stages):
            options = range(len(stage.widths))
            row = {}
            for w in options:
                head = {
                    name: float(self.budgets.tables[name].head[w])
                    for name in self.costs
                    if number == last and not self.budgets.tables[name].is_peak
                }
                score = float(self.scores["width"][number, w])
                row[self._add_variable(head, "width", number, w, score=score)] = 1.0
            self.rows.append((row, 1, 1))
            if number:
                self._add_pairs(number)

    def _add_pairs(self, number: int) -> None:
        before, here = (range(len(self.space.stages[n].widths)) for n in (number - 1, number))
        for a, b in product(before, here):
            self._variable("pair", number, a, b)
        for a in before:
            row = {self.index["pair", number, a, b]: 1.0 for b in here}
            self.rows.append((row | {self.index["width", number - 1, a]: -1.0}, 0, 0))
        for b in here:
            row = {self.index["pair", number, a, b]: 1.0 for a in before}
            self.rows.append((row | {self.index["width", number, b]: -1.0}, 0, 0))

    def _add_slots(self) -> None:
        for number, slot in enumerate(self.space.slots):
            keep = self.scores["keep"][number]
            for i, o in product(range(len(slot.in_widths)), range(len(slot.out_widths))):
                if not slot.first and i != o:
                    continue
                options = [
                    rest for rest in self._operations(number) if self._can_run(number, i, o, *rest)
                ]
                row = {self._option(number, i, o, *rest): 1.0 for rest in options}
                if not slot.first:
                    row[self._variable("out", number, o, score=float(keep[0]))] = 1.0
                owner = ("pair", slot.stage, i, o) if slot.first and slot.stage else None
                owner_index = self.index[owner or ("width", slot.stage, o)]
                self.rows.append((row | {owner_index: -1.0}, 0, 0))

    def _operations(self, number: int) -> list[tuple[int, int, int, int]]:
        slot = self.space.slots[number]
        options = (slot.expansions, self.space.kernels, self.space.squeeze, slot.start_kernels)
        e, k, q, d = (range(len(values)) for values in options)
        return [rest for rest in product(e, k, q, d) if rest[3] == slot.start_of(rest[0], rest[3])]

    def _can_run(self, number: int, i: int, o: int, e: int, k: int, q: int, d: int) -> bool:
        """Whether the device can run this block; if not, its latency is infinite."""
        tables = (self.budgets.tables[name] for name in self.costs)
        return all(math.isfinite(table.slots[number, i, o, e, k, q, d]) for table in tables)

    def _option(self, number: int, i: int, o: int, e: int, k: int, q: int, d: int) -> int:
        scores = self.scores
        score = scores["expansion"][number, e] + scores["kernel"][number, k]
        score += scores["squeeze"][number, q] + scores["keep"][number, 1]
        if self.space.slots[number].expansions[e] > 1:
            score += scores["start"][number, d]
        costs = {
            name: float(self.budgets.tables[name].slots[number, i, o, e, k, q, d])
            for name in self.costs
        }
        return self._add_variable(costs, "block", number, i, o, e, k, q, d, score=float(score))

    def _add_budgets(self) -> None:
        floors: list[int] = []
        for budget in self.budgets.budgets:
            # 1 only if the budget is used to the floor
            used = self._variable("used", budget.cost)
            floors.append(used)
            if self.budgets.tables[budget.cost].is_peak:
                self._add_peak(budget, used)
            else:
                self._add_sum(budget, used)
        self.rows.append((dict.fromkeys(floors, 1.0), 1, np.inf))

    def _add_sum(self, budget: Budget, used: int) -> None:
        row = {n: cost / budget.limit for n, cost in self.costs[budget.cost].items() if cost}
        fixed = self.budgets.tables[budget.cost].stem / budget.limit
        self.rows.append((row, -np.inf, 1 - fixed))
        self.rows.append((row | {used: -self.budgets.floor}, -fixed, np.inf))

    def _add_peak(self, budget: Budget, used: int) -> None:
        table, last = self.budgets.tables[budget.cost], len(self.space.stages) - 1
        ratios = {n: cost / budget.limit for n, cost in self.costs[budget.cost].items() if cost}
        for w, cost in enumerate(table.head.tolist()):
            ratios[self.index["width", last, w]] = cost / budget.limit
        over = {n: 1.0 for n, ratio in ratios.items() if ratio > 1}
        if over:
            self.rows.append((over, 0, 0))
        if table.stem / budget.limit < self.budgets.floor:
            near = {n: -1.0 for n, ratio in ratios.items() if ratio >= self.budgets.floor}
            self.rows.append((near | {used: 1.0}, -np.inf, 0))

    def _differs(self, other: Choice, distance: int) -> Row:
        variables = self._block_variables(other)
        return dict.fromkeys(variables, 1.0), 0, len(variables) - distance

    def _block_variables(self, choice: Choice) -> list[int]:
        """Return the variables of blocks that are 1 for a choice, one per slot."""
        variables = []
        for number, slot in enumerate(self.space.slots):
            out = choice.width[slot.stage]
            into = out if not slot.first else choice.width[slot.stage - 1] if slot.stage else 0
            operation = (choice.expansion[number], choice.kernel[number], choice.squeeze[number])
            start = slot.start_of(choice.expansion[number], choice.start[number])
            kept = ("block", number, into, out, *operation, start)
            variables.append(self.index[kept if choice.keep[number] else ("out", number, out)])
        return variables

    def _choice(self, chosen: Sequence[int]) -> Choice:
        slots = self.space.slots
        width = [0] * len(self.space.stages)
        # omitted blocks get their most probable options, which have no effect
        picks = {name: self.scores[name].argmax(-1).tolist() for name in DECISIONS[1:]}
        for n in chosen:
            kind, number, *rest = self.keys[n]
            picks["keep"][number] = int(kind == "block")
            if kind == "block":
                _, width[slots[number].stage] = rest[:2]
                for name, pick in zip(_OPERATIONS, rest[2:], strict=True):
                    picks[name][number] = pick
        return choice_of(picks | {"width": width})
