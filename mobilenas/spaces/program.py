"""Base of all discretization programs: the most probable choice that meets all budgets.

Each family states its mixed-integer linear program, as variables and rows. Solving it (HiGHS) and
checking exact costs is shared.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array
from torch import Tensor

from mobilenas.core.errors import BudgetError
from mobilenas.cost.budgets import Budgets

_SECONDS = 20.0
_MAX_REJECTED = 20

Row = tuple[dict[int, float], float, float]
"""Coefficients by variable, and lower and upper bound of the sum."""
C = TypeVar("C")

Key = tuple[Any, ...]
"""Key of a variable, defined by each program."""


class BudgetProgram(ABC, Generic[C]):
    """Variables in [0, 1], by keys that begin with their kind, with scores, and rows."""

    continuous: ClassVar[tuple[str, ...]]
    """Kinds of variables that need no integrality, because rows force them to 0 or 1."""
    decisive: ClassVar[tuple[str, ...]]
    """Kinds of variables that make up a choice."""
    distance: ClassVar[int]
    """Default minimum number of decisive variables in which two choices differ."""
    gap: ClassVar[float]
    """Relative optimality gap at which the solver may stop."""

    def __init__(self, budgets: Budgets) -> None:
        self.budgets, self.space = budgets, budgets.space
        self.keys: list[Key] = []
        self.index: dict[Key, int] = {}
        self.objective: list[float] = []
        self.rows: list[Row] = []

    def _variable(self, *key: int | str, score: float = 0.0) -> int:
        self.index[key] = len(self.keys)
        self.keys.append(key)
        self.objective.append(score)
        return self.index[key]

    @abstractmethod
    def _choice(self, chosen: Sequence[int]) -> C:
        """Return the choice with these decisive variables."""

    @abstractmethod
    def _differs(self, other: C, distance: int) -> Row:
        """Return the row that requires at least `distance` differences from `other`."""

    def solve(self, *, exclude: Sequence[C] = (), distance: int | None = None) -> C | None:
        """Return the most probable choice that differs from each of `exclude`; None if none does.

        It differs from each in at least `distance` blocks or edges.
        """
        distance = self.distance if distance is None else distance
        rows = [*self.rows, *(self._differs(other, distance) for other in exclude)]
        for _ in range(_MAX_REJECTED):
            solution = self._solve(rows)
            if solution is None:
                return None
            ones = np.flatnonzero(solution > 0.5).tolist()
            chosen = [n for n in ones if self.keys[n][0] in self.decisive]
            choice = self._choice(chosen)
            # the solver meets limits only to a relative 1e-6, so the exact cost decides
            if self.budgets.is_feasible(choice):
                return choice
            rows.append((dict.fromkeys(chosen, 1.0), 0, len(chosen) - 1))
        return None

    def best(self) -> C:
        """Return the most probable choice; BudgetError if no network meets the budgets."""
        self.budgets.check_reachable()
        choice = self.solve()
        if choice is None:
            raise BudgetError(f"no network of the space {self.budgets.describe()}")
        return choice

    def _solve(self, rows: Sequence[Row]) -> np.ndarray | None:
        positions = [(r, c) for r, (row, _, _) in enumerate(rows) for c in row]
        values = [value for row, _, _ in rows for value in row.values()]
        # HiGHS in scipy before 1.15 accepts only 32-bit indices
        indices = np.array(positions, np.int32).T
        matrix = coo_array((values, tuple(indices)), shape=(len(rows), len(self.keys))).tocsr()
        result = milp(
            -np.array(self.objective),
            integrality=np.array([key[0] not in self.continuous for key in self.keys], np.uint8),
            bounds=Bounds(0, 1),
            constraints=LinearConstraint(
                matrix, [row[1] for row in rows], [row[2] for row in rows]
            ),
            options={"time_limit": _SECONDS, "mip_rel_gap": self.gap},
        )
        return None if result.x is None else np.asarray(result.x)


def perturbed(
    log_probabilities: Mapping[str, Tensor], generator: torch.Generator
) -> dict[str, Tensor]:
    """Add Gumbel noise to log probabilities, so that the largest of a row is a sample from it."""
    return {
        name: rows - torch.empty_like(rows).exponential_(generator=generator).log()
        for name, rows in log_probabilities.items()
    }
