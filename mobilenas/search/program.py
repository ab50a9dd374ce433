"""Discretization, whichever space it is."""

from mobilenas.cost.budget import Budgets
from mobilenas.search.discretize import ArchProgram
from mobilenas.search.discretize_cells import CellProgram
from mobilenas.spaces.cell_space import CellSpace
from mobilenas.supernet.of_space import ArchParameters


def make_program(budgets: Budgets, alphas: ArchParameters) -> ArchProgram | CellProgram:
    """Return the program whose optimum is the likeliest network under the budgets."""
    if isinstance(budgets.space, CellSpace):
        return CellProgram(budgets, alphas.scores())
    return ArchProgram(budgets, alphas.scores())
