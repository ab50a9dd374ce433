"""Registers the family of subnetworks; their archs are those of the mobile family."""

from functools import partial

from mobilenas.core.errors import BudgetError
from mobilenas.cost.budget import COSTS, LATENCY, NO_PROFILE
from mobilenas.spaces.base import Family, Searchable, family, register
from mobilenas.spaces.mobile.cost_models import CostModel
from mobilenas.spaces.subnetworks.program import SubnetworkProgram, least_pruned
from mobilenas.spaces.subnetworks.relaxation import Alphas
from mobilenas.spaces.subnetworks.space import Choice, SubnetworkSpace
from mobilenas.spaces.subnetworks.supernet import SubnetworkSupernet, inherited
from mobilenas.spaces.subnetworks.table import CostTable


def _table(space: SubnetworkSpace, cost: str, latency: CostModel | None) -> CostTable:
    if cost == LATENCY and latency is None:
        raise BudgetError(NO_PROFILE)
    return CostTable(space, cost, latency if cost == LATENCY else None)


def _alphas(space: SubnetworkSpace, **_: object) -> Alphas:
    # a chain has no edge weights and no `none`
    return Alphas(space)


_mobile = family("mobile")
register(
    Family(
        name=SubnetworkSpace.family,
        arch=_mobile.arch,
        space=SubnetworkSpace,
        choice=Choice,
        build=_mobile.build,
        layer_costs=_mobile.layer_costs,
        rough_size=_mobile.rough_size,
        costs=COSTS,
        table=_table,
        search=Searchable(
            supernet=SubnetworkSupernet,
            alphas=_alphas,
            program=SubnetworkProgram,
            draws=partial(Alphas.draws, tau=1.0),
            first=least_pruned,
            inherited=inherited,
        ),
        has_units=_mobile.has_units,
    )
)
