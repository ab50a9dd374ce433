"""From alphas to an arch that keeps every budget, as a mixed-integer linear program (HiGHS).

One binary variable per (slot, input width, output width, expansion, kernel, squeeze, start) and one
per (slot, width) for leaving the block out. Products of neighbouring widths are pair variables, so
every cost table is linear, measured latency included. The score of an option is its log
probability less the largest of its decision: a kept block does not pay for having more decisions
than a block left out.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array
from torch import Tensor

from mobilenas.core.errors import BudgetError
from mobilenas.cost.budget import Budget, Budgets
from mobilenas.spaces.mobile.relaxation import choice_of
from mobilenas.spaces.mobile.space import Choice
from mobilenas.spaces.mobile.table import DECISIONS

_SECONDS = 20.0
_GAP = 1e-4
_MOST_REJECTED = 20
_OPERATIONS = ("expansion", "kernel", "squeeze", "start")


class ArchProgram:
    """The program for one space, one set of scores and all budgets."""

    def __init__(self, budgets: Budgets, log_probabilities: Mapping[str, Tensor]) -> None:
        self.budgets, self.space = budgets, budgets.space
        self.scores = {
            name: (log_probabilities[name] - log_probabilities[name].amax(-1, keepdim=True)).numpy()
            for name in DECISIONS
        }
        self.keys: list[tuple[Any, ...]] = []
        self.objective: list[float] = []
        self.costs: dict[str, list[float]] = {b.cost: [] for b in budgets.budgets}
        self.index: dict[tuple[Any, ...], int] = {}
        self.rows: list[tuple[dict[int, float], float, float]] = []
        self._add_widths()
        self._add_slots()
        self._add_budgets()

    def _variable(self, key: tuple[Any, ...], score: float, costs: Mapping[str, float]) -> int:
        self.index[key] = len(self.keys)
        self.keys.append(key)
        self.objective.append(score)
        for name, column in self.costs.items():
            column.append(costs.get(name, 0.0))
        return self.index[key]

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
                key = ("width", number, w)
                row[self._variable(key, float(self.scores["width"][number, w]), head)] = 1.0
            self.rows.append((row, 1, 1))
            if number:
                self._add_pairs(number)

    def _add_pairs(self, number: int) -> None:
        before, here = (range(len(self.space.stages[n].widths)) for n in (number - 1, number))
        for a, b in product(before, here):
            self._variable(("pair", number, a, b), 0.0, {})
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
                    rest for rest in self._operations(number) if self._runs(number, i, o, *rest)
                ]
                row = {self._option(number, i, o, *rest): 1.0 for rest in options}
                if not slot.first:
                    row[self._variable(("out", number, o), float(keep[0]), {})] = 1.0
                owner = ("pair", slot.stage, i, o) if slot.first and slot.stage else None
                owner_index = self.index[owner or ("width", slot.stage, o)]
                self.rows.append((row | {owner_index: -1.0}, 0, 0))

    def _operations(self, number: int) -> list[tuple[int, int, int, int]]:
        slot = self.space.slots[number]
        options = (slot.expansions, self.space.kernels, self.space.squeeze, slot.start_kernels)
        e, k, q, d = (range(len(values)) for values in options)
        return [rest for rest in product(e, k, q, d) if rest[3] == slot.start_of(rest[0], rest[3])]

    def _runs(self, number: int, i: int, o: int, e: int, k: int, q: int, d: int) -> bool:
        """Whether the device can run this block: one it cannot has no finite latency."""
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
        return self._variable(("block", number, i, o, e, k, q, d), float(score), costs)

    def _add_budgets(self) -> None:
        floors: list[int] = []
        for budget in self.budgets.budgets:
            # this budget counts as used only if the floor of it is
            used = self._variable(("used", budget.cost), 0.0, {})
            floors.append(used)
            if self.budgets.tables[budget.cost].is_peak:
                self._add_peak(budget, used)
            else:
                self._add_sum(budget, used)
        self.rows.append((dict.fromkeys(floors, 1.0), 1, np.inf))

    def _add_sum(self, budget: Budget, used: int) -> None:
        column = self.costs[budget.cost]
        row = {n: cost / budget.limit for n, cost in enumerate(column) if cost}
        fixed = self.budgets.tables[budget.cost].stem / budget.limit
        self.rows.append((row, -np.inf, 1 - fixed))
        self.rows.append((row | {used: -self.budgets.floor}, -fixed, np.inf))

    def _add_peak(self, budget: Budget, used: int) -> None:
        table, last = self.budgets.tables[budget.cost], len(self.space.stages) - 1
        loads = {n: cost / budget.limit for n, cost in enumerate(self.costs[budget.cost]) if cost}
        for w, cost in enumerate(table.head.tolist()):
            loads[self.index["width", last, w]] = cost / budget.limit
        over = {n: 1.0 for n, load in loads.items() if load > 1}
        if over:
            self.rows.append((over, 0, 0))
        if table.stem / budget.limit < self.budgets.floor:
            near = {n: -1.0 for n, load in loads.items() if load >= self.budgets.floor}
            self.rows.append((near | {used: 1.0}, -np.inf, 0))

    def solve(self, *, unlike: Sequence[Choice] = (), distance: int = 3) -> Choice | None:
        """Return the best choice that is unlike the others in `distance` slots or more, or None."""
        rows = list(self.rows)
        for other in unlike:
            places = self._places(other)
            rows.append((dict.fromkeys(places, 1.0), 0, len(places) - distance))
        for _ in range(_MOST_REJECTED):
            solution = self._solve(rows)
            if solution is None:
                return None
            chosen = [
                n
                for n in np.flatnonzero(solution > 0.5).tolist()
                if self.keys[n][0] in ("block", "out")
            ]
            choice = self._choice(chosen)
            # the solver keeps a limit to 1e-6 of it only: the exact cost decides
            if self.budgets.fits(choice):
                return choice
            rows.append((dict.fromkeys(chosen, 1.0), 0, len(chosen) - 1))
        return None

    def best(self) -> Choice:
        """Return the best choice; BudgetError where no network keeps the budgets."""
        self.budgets.check_reachable()
        choice = self.solve()
        if choice is None:
            raise BudgetError(f"no network of the space {self.budgets.wanted()}")
        return choice

    def _places(self, choice: Choice) -> list[int]:
        """Return the variables that a choice sets, one for every slot."""
        places = []
        for number, slot in enumerate(self.space.slots):
            out = choice.width[slot.stage]
            into = out if not slot.first else choice.width[slot.stage - 1] if slot.stage else 0
            operation = (choice.expansion[number], choice.kernel[number], choice.squeeze[number])
            start = slot.start_of(choice.expansion[number], choice.start[number])
            kept = ("block", number, into, out, *operation, start)
            places.append(self.index[kept if choice.keep[number] else ("out", number, out)])
        return places

    def _solve(self, rows: Sequence[tuple[dict[int, float], float, float]]) -> np.ndarray | None:
        places = [(r, c, v) for r, (row, _, _) in enumerate(rows) for c, v in row.items()]
        r, c, v = (np.array(column) for column in zip(*places, strict=True))
        matrix = coo_array((v, (r, c)), shape=(len(rows), len(self.keys))).tocsr()
        integral = np.array([key[0] != "pair" for key in self.keys], dtype=np.uint8)
        result = milp(
            -np.array(self.objective),
            integrality=integral,
            bounds=Bounds(0, 1),
            constraints=LinearConstraint(
                matrix, [row[1] for row in rows], [row[2] for row in rows]
            ),
            options={"time_limit": _SECONDS, "mip_rel_gap": _GAP},
        )
        return None if result.x is None else np.asarray(result.x)

    def _choice(self, chosen: Sequence[int]) -> Choice:
        slots = self.space.slots
        width = [0] * len(self.space.stages)
        # a block that is left out keeps its likeliest options, which nothing reads
        picks = {name: self.scores[name].argmax(-1).tolist() for name in DECISIONS[1:]}
        for n in chosen:
            kind, number, *rest = self.keys[n]
            picks["keep"][number] = int(kind == "block")
            if kind == "block":
                _, width[slots[number].stage] = rest[:2]
                for name, pick in zip(_OPERATIONS, rest[2:], strict=True):
                    picks[name][number] = pick
        return choice_of(picks | {"width": width})


def perturbed(
    log_probabilities: Mapping[str, Tensor], generator: torch.Generator
) -> dict[str, Tensor]:
    """Return log probabilities with Gumbel noise: the largest of a row is a draw from it."""
    return {
        name: rows - torch.empty_like(rows).exponential_(generator=generator).log()
        for name, rows in log_probabilities.items()
    }
