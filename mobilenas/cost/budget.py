"""Budgets (upper limits on one cost each), and the user's options for them."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from mobilenas.core.errors import BudgetError
from mobilenas.core.setting import setting
from mobilenas.core.settings import check_choice, format_count, parse_count, parse_time_ms
from mobilenas.nn.costs import COSTS as REGISTERED

Constraint = Literal["lagrangian", "hinge", "penalty"]
"""How budgets enter the loss (`ConstraintLoss`)."""
CONSTRAINTS: tuple[Constraint, ...] = get_args(Constraint)
PENALTY: Constraint = "penalty"
"""The constraint that lowers the cost even below the budget."""
COSTS = ("flops", "params", "memory")
"""Built-in costs that are counted."""
LATENCY = "latency"
"""The cost that is predicted from a profile."""
NO_BUDGET = "no budget is set: use --flops, --params, --memory or --latency"
NO_PROFILE = "a latency budget needs the profile of a device: use --profile NAME"


@dataclass(frozen=True, kw_only=True)
class Budget:
    """An upper limit on one cost."""

    cost: str
    """flops, params, memory (bytes), latency (milliseconds) or a registered cost."""
    limit: float
    """In units of the cost; an integer, except for latency."""

    def __post_init__(self) -> None:
        """Check the name and the limit."""
        check_choice("cost", self.cost, (*REGISTERED, LATENCY))
        if not 0 < self.limit < math.inf:
            raise BudgetError(f"the {self.cost} budget is {self.limit}; it must be above zero")
        if self.cost != LATENCY:
            object.__setattr__(self, "limit", int(self.limit))  # an integer in files

    def __str__(self) -> str:
        return f"{self.cost} <= {format_cost(self.cost, self.limit)}"


@dataclass(frozen=True, kw_only=True)
class BudgetOptions:
    """The user's options for budgets; None: no limit."""

    flops: int | None = setting(
        None,
        help="Maximum FLOPs, such as 300k or 5M.",
        aliases=("--macs",),
        group="Budgets",
        metavar="SIZE",
        read=parse_count,
    )
    params: int | None = setting(
        None,
        help="Maximum parameters, such as 500k.",
        group="Budgets",
        metavar="SIZE",
        read=parse_count,
    )
    memory: int | None = setting(
        None,
        help="Maximum bytes of activations alive at once, such as 2M.",
        group="Budgets",
        metavar="SIZE",
        read=parse_count,
    )
    latency: float | None = setting(
        None,
        help="Maximum time for one image on the device of --profile, such as 8ms.",
        group="Budgets",
        metavar="TIME",
        read=parse_time_ms,
    )

    limits: tuple[str, ...] = setting(
        (),
        help="Maximum of registered costs, separated by commas, such as activations=20k.",
        group="Budgets",
        metavar="NAME=SIZE",
        rare=True,
        added=True,
    )
    """Each NAME=SIZE; docs/extending.md says how to register a cost."""

    @property
    def budgets(self) -> tuple[Budget, ...]:
        """The budgets that were given."""
        given = ((cost, getattr(self, cost)) for cost in (*COSTS, LATENCY))
        own = [Budget(cost=cost, limit=limit) for cost, limit in given if limit is not None]
        return (*own, *map(parse_budget, self.limits))


def parse_budget(text: str) -> Budget:
    """Parse a budget such as activations=20k."""
    cost, equals, limit = text.partition("=")
    if not equals:
        raise BudgetError(f"--limits has {text!r}; write NAME=SIZE, such as activations=20k")
    if cost in (*COSTS, LATENCY):
        raise BudgetError(f"--limits has {text!r}; {cost} has an option of its own: --{cost}")
    return Budget(cost=cost, limit=parse_count(limit))


def format_cost(cost: str, value: float) -> str:
    """Format a latency of 8.123 ms as `8.12 ms`, and other costs as `format_count` does."""
    return f"{value:.3g} ms" if cost == LATENCY else format_count(value)


def budget_option(cost: str, value: float, *, up: bool) -> str:
    """Return the option for a budget of `value`, rounded to two digits, such as --flops 5.1M."""
    step = 10.0 ** (math.floor(math.log10(value)) - 1)
    rounded = (math.ceil if up else math.floor)(round(value / step, 6)) * step
    text = f"{rounded:.3g}ms" if cost == LATENCY else format_count(round(rounded))
    return f"--{cost} {text}" if cost in (*COSTS, LATENCY) else f"--limits {cost}={text}"
