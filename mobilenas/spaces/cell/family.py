"""Registers the cell family."""

from dataclasses import replace

from mobilenas.core.errors import BudgetError
from mobilenas.spaces.base import Family, Searchable, register
from mobilenas.spaces.cell.arch import CellArch
from mobilenas.spaces.cell.build import CellNetwork
from mobilenas.spaces.cell.costs import cell_layer_costs
from mobilenas.spaces.cell.genotypes import format_genotype
from mobilenas.spaces.cell.program import CellProgram
from mobilenas.spaces.cell.relaxation import CellAlphas
from mobilenas.spaces.cell.space import CellChoice, CellSpace
from mobilenas.spaces.cell.supernet import CellSuperNetwork
from mobilenas.spaces.cell.table import CELL_COSTS, CellCostTable


def _table(space: CellSpace, cost: str, _: object) -> CellCostTable:
    if cost not in CELL_COSTS:
        raise BudgetError(
            f"a {cost} budget is for the mobile space only; the cell space has "
            f"{' and '.join(CELL_COSTS)}"
        )
    return CellCostTable(space, cost)


def _rough_size(arch: CellArch) -> tuple[int, int]:
    edges = {placed.cell: sum(map(len, placed.cell.nodes)) for placed in arch.cells}
    inputs = [(placed, placed.in_channels) for placed in arch.cells]
    weights = sum(p.channels * (a + b + 2 * p.channels * edges[p.cell]) for p, (a, b) in inputs)
    return weights, max(max(ins) * placed.in_sides[0] ** 2 for placed, ins in inputs)


register(
    Family(
        name=CellArch.family,
        arch=CellArch,
        space=CellSpace,
        choice=CellChoice,
        build=CellNetwork,
        layer_costs=cell_layer_costs,
        rough_size=_rough_size,
        costs=CELL_COSTS,
        table=_table,
        search=Searchable(supernet=CellSuperNetwork, alphas=CellAlphas, program=CellProgram),
        genotype=lambda arch: format_genotype(arch.genotype),
        needs_budget=False,
        recipe="cells",
        with_channels=lambda thing, channels: replace(thing, channels=channels),
    )
)
