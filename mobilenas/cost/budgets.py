"""The budgets of a job over its space, and their term in the loss of the alphas."""

import copy
import random
from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from mobilenas.core.errors import BudgetError, UnreachableError
from mobilenas.core.settings import check_choice
from mobilenas.cost.budget import (
    CONSTRAINTS,
    LATENCY,
    NO_BUDGET,
    PENALTY,
    Budget,
    budget_option,
    format_cost,
)
from mobilenas.cost.projection import Sizes, scale_to_limit
from mobilenas.spaces.base import AnyChoice, AnySpace, CostTable, Relaxation, Space, family_of

FLOOR = 0.9
"""A searched network uses at least this share of one of its budgets."""
_MAX_DRAWS, _SHOWN_DRAWS = 100_000, 999


class Budgets:
    """All budgets of a job over one space, with the space's exact and expected costs.

    A cell space may have none; then every network is feasible. With `filled`, a feasible network
    must use at least 90 % of one budget.
    """

    def __init__(
        self,
        space: Space,
        budgets: Iterable[Budget],
        latency: object | None = None,
        *,
        filled: bool = True,
    ) -> None:
        self.budgets = tuple(budgets)
        family = family_of(space)
        if not self.budgets and family.needs_budget:
            raise BudgetError(NO_BUDGET)
        measured = (LATENCY,) if latency is not None else ()
        names = [*family.costs, *measured, *(b.cost for b in self.budgets)]
        if family.scaled:
            # the latency of an arbitrary model cannot be predicted: it is measured
            # (channels/limits.py)
            names = [name for name in names if name != LATENCY]
        self.tables: dict[str, CostTable] = {
            cost: family.table(space, cost, latency) for cost in dict.fromkeys(names)
        }
        self.space: AnySpace = space
        self.family = family
        # peak memory jumps from width to width, so no network may be just below a limit
        peaks_only = all(self.tables[b.cost].is_peak for b in self._counted)
        self.floor = FLOOR if filled and not peaks_only else 0.0

    @property
    def _counted(self) -> list[Budget]:
        return [budget for budget in self.budgets if budget.cost in self.tables]

    def expected(self, p: Relaxation) -> dict[str, Tensor]:
        """Return the expected cost for every budget."""
        return {b.cost: self.tables[b.cost].expected(p) for b in self.budgets}

    def tightened(self, cost: str, share: float) -> "Budgets":
        """Return a copy with the limit of `cost` times `share`."""
        limits = [replace(b, limit=b.limit * share) if b.cost == cost else b for b in self.budgets]
        tight = copy.copy(self)
        tight.budgets = tuple(limits)
        return tight

    def utilization(self, choice: AnyChoice) -> float:
        """Return the largest cost / limit of a choice; above 1, a budget is exceeded."""
        ratios = (self.tables[b.cost].exact(choice) / b.limit for b in self._counted)
        return max(ratios, default=0.0)

    def is_feasible(self, choice: AnyChoice) -> bool:
        """Whether all budgets are met and one is used to the floor: 90 % (0 for memory alone)."""
        return self.floor <= self.utilization(choice) <= 1

    def random(self, source: random.Random) -> AnyChoice:
        """Draw choices until one is feasible; channel sizes are scaled to the budgets instead."""
        if self.family.scaled:
            return self.scale(self.space.random(source))
        for _ in range(_MAX_DRAWS):
            choice = self.space.random(source)
            if self.is_feasible(choice):
                return choice
        raise BudgetError(f"none of {_MAX_DRAWS} random networks {self.describe()}")

    def _advice(self) -> str:
        """Return the costs of random networks, and budgets that they would meet."""
        source = random.Random(0)
        choices = [self.space.random(source) for _ in range(_SHOWN_DRAWS)]
        ranges, suggestions = [], []
        for cost in (budget.cost for budget in self.budgets):
            drawn = sorted(map(self.tables[cost].exact, choices))
            low, middle, high = (drawn[index] for index in (0, len(drawn) // 2, -1))
            ends = f"{format_cost(cost, low)} to {format_cost(cost, high)} {cost}"
            ranges.append(f"{ends}, half of them over {format_cost(cost, middle)}")
            suggestions.append(budget_option(cost, middle, up=True))
        return (
            f"they have {' and '.join(ranges)}: ask for {' '.join(suggestions)}, or for other "
            "--channels or --layers"
        )

    def scale(
        self, proportions: Mapping[str, float], priority: Mapping[str, float] | None = None
    ) -> dict[str, int]:
        """Return the channel sizes in these proportions that use the budgets (`scale_to_limit`)."""
        return scale_to_limit(proportions, self.space.ranges, self.utilization, 1.0, priority)

    def describe(self) -> str:
        """Return the conditions of `is_feasible`, for errors."""
        limits = ", ".join(map(str, self.budgets))
        return f"meets {limits}" + f" and uses {100 * FLOOR:.0f} % of one" * (self.floor > 0)

    def check_reachable(self) -> None:
        """Raise an UnreachableError that names each budget below the smallest network's cost."""
        minima = {b.cost: self.tables[b.cost].minimum() for b in self._counted}
        unreachable = [
            f"{budget} cannot be met: the smallest network of the space has "
            f"{format_cost(budget.cost, minima[budget.cost])} {budget.cost}; "
            f"allow {budget_option(budget.cost, minima[budget.cost], up=True)}"
            for budget in self._counted
            if minima[budget.cost] > budget.limit
        ]
        if unreachable:
            raise UnreachableError("; ".join(unreachable))
        if self.family.scaled:
            self._check_limiting(self.space.largest())

    def non_binding(self) -> list[str]:
        """Return a sentence for each budget that exceeds the largest network's cost."""
        largest = self.space.largest()
        maxima = {b.cost: self.tables[b.cost].exact(largest) for b in self._counted}
        return [
            f"{budget} limits nothing: the largest network of the space has "
            f"{format_cost(budget.cost, maxima[budget.cost])} {budget.cost}; "
            f"ask for {budget_option(budget.cost, maxima[budget.cost], up=False)} or less"
            for budget in self._counted
            if maxima[budget.cost] < budget.limit
        ]

    def check_used(self) -> None:
        """Raise a BudgetError if no network uses the budgets to the floor.

        Cells may have a size that was not chosen by the budgets; then a random network must be
        feasible.
        """
        if self.family.sized and self.utilization(self.space.largest()) < self.floor:
            raise BudgetError("; ".join(self.non_binding()))
        if not (self.family.sized or self.family.scaled) and self.budgets:
            try:
                self.random(random.Random(0))
            except BudgetError as error:
                raise BudgetError(f"{error}; {self._advice()}") from error

    def _check_limiting(self, largest: Sizes) -> None:
        if len(self._counted) == len(self.budgets) and self.utilization(largest) < 1:
            maxima = ", ".join(
                f"{format_cost(b.cost, self.tables[b.cost].exact(largest))} {b.cost}"
                for b in self.budgets
            )
            raise BudgetError(
                f"{', '.join(map(str, self.budgets))} limits nothing: the largest sizes, twice the "
                f"model's own, have {maxima}"
            )


class ConstraintLoss:
    """The budgets' term in the loss of the alphas: Lagrangian, hinge or penalty (Song and Li 2020).

    With cost F, limit T and g = F/T - 1: penalty s F/T, hinge s max(0, g), and by default the
    augmented Lagrangian (max(0, mu + rho g)^2 - mu^2) / (2 rho).
    """

    def __init__(self, kind: str, budgets: Budgets, *, strength: float, rho: float) -> None:
        check_choice("constraint", kind, CONSTRAINTS)
        self.kind, self.budgets, self.strength, self.rho = kind, budgets, strength, rho
        self.multipliers = {budget.cost: 0.0 for budget in budgets.budgets}
        self._excess: dict[str, float] = {}

    def __call__(self, p: Relaxation) -> Tensor:
        """Return the scalar to add to the cross-entropy."""
        costs = self.budgets.expected(p)
        ratios = {b.cost: costs[b.cost] / b.limit for b in self.budgets.budgets}
        self._excess = {cost: float(ratio.detach()) - 1 for cost, ratio in ratios.items()}
        terms = [self._term(ratio, self.multipliers[cost]) for cost, ratio in ratios.items()]
        return torch.stack(terms).sum() if terms else torch.zeros(())

    def _term(self, ratio: Tensor, multiplier: float) -> Tensor:
        if self.kind == PENALTY:
            return self.strength * ratio
        excess = ratio - 1
        if self.kind == "hinge":
            return self.strength * excess.clamp(min=0)
        pushed = (multiplier + self.rho * excess).clamp(min=0)
        return (pushed**2 - multiplier**2) / (2 * self.rho)

    def update(self) -> None:
        """Update the multipliers, once per step: mu <- max(0, mu + rho g), g of the last call."""
        if self.kind == "lagrangian":
            for cost, excess in self._excess.items():
                self.multipliers[cost] = max(0.0, self.multipliers[cost] + self.rho * excess)

    def state_dict(self) -> dict[str, float]:
        """Return the multipliers."""
        return dict(self.multipliers)

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Restore the multipliers."""
        self.multipliers = {cost: float(state[cost]) for cost in self.multipliers}
