"""The space a budget asks for."""

import random
import statistics
from collections.abc import Sequence
from typing import Any

from mobilenas.cost import CostTable
from mobilenas.cost.budget import Budget, Budgets
from mobilenas.errors import BudgetError
from mobilenas.spaces.mobile import MobileSpace, sized

_DRAWS = 64


def space_for(budgets: Sequence[Budget], **options: Any) -> MobileSpace:
    """Return the mobile space whose uniformly drawn archs lie around the budgets.

    `options` are those of `mobilenas.spaces.mobile.template`.
    """
    if not budgets:
        raise BudgetError("no budget was given: say --flops, --params or --memory")

    def load(space: MobileSpace) -> float:
        tables = [CostTable(space, budget.cost) for budget in budgets]
        source = random.Random(0)
        draws = [space.random(source) for _ in range(_DRAWS)]
        return statistics.median(
            max(t.exact(c) / b.limit for t, b in zip(tables, budgets, strict=True)) for c in draws
        )

    space = sized(load, **options)
    Budgets(space, budgets).check_reachable()
    return space
