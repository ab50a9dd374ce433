"""Registers the mobile family."""

from functools import partial

from mobilenas.core.errors import BudgetError
from mobilenas.cost.budget import COSTS, LATENCY, NO_PROFILE
from mobilenas.nn.operations import operation_of
from mobilenas.spaces.base import Family, Searchable, register
from mobilenas.spaces.mobile.arch import MobileArch
from mobilenas.spaces.mobile.build import MobileNetwork
from mobilenas.spaces.mobile.cost_models import CostModel
from mobilenas.spaces.mobile.costs import layer_costs
from mobilenas.spaces.mobile.inherit import inherited
from mobilenas.spaces.mobile.program import ArchProgram
from mobilenas.spaces.mobile.relaxation import Alphas
from mobilenas.spaces.mobile.space import Choice, MobileSpace
from mobilenas.spaces.mobile.supernet import SuperNetwork
from mobilenas.spaces.mobile.table import CostTable


def _table(space: MobileSpace, cost: str, latency: CostModel | None) -> CostTable:
    if cost == LATENCY and latency is None:
        raise BudgetError(NO_PROFILE)
    return CostTable(space, cost, latency if cost == LATENCY else None)


def _alphas(space: MobileSpace, **_: object) -> Alphas:
    # a chain has no edge weights and no `none`
    return Alphas(space)


def _rough_size(arch: MobileArch) -> tuple[int, int]:
    side, before = -(-arch.image_size // arch.stem.stride), arch.stem.channels
    weights, maps = 0, [side**2 * before]
    for block in arch.blocks:
        if block.fused:
            weights += block.hidden * before * int(block.kernel) ** 2
        else:
            weights += block.hidden * (before + operation_of(block.kernel).params)
        weights += block.hidden * (2 * block.squeeze + block.out)
        weights += before * block.start_kernel**2
        maps.append(side**2 * block.hidden)
        side, before = -(-side // block.stride), block.out
        maps.append(side**2 * block.out)
    head = arch.head
    features = head.channels or before
    last = head.hidden * (features + arch.classes) or features * arch.classes
    return weights + before * head.channels + last, max(*maps, side**2 * head.channels)


register(
    Family(
        name=MobileArch.family,
        arch=MobileArch,
        space=MobileSpace,
        choice=Choice,
        build=MobileNetwork,
        layer_costs=layer_costs,
        rough_size=_rough_size,
        costs=COSTS,
        table=_table,
        search=Searchable(
            supernet=SuperNetwork,
            alphas=_alphas,
            program=ArchProgram,
            draws=partial(Alphas.draws, tau=1.0),
            inherited=inherited,
        ),
        sized=True,
        has_units=lambda arch: (
            arch.is_plain and all(isinstance(block.kernel, int) for block in arch.blocks)
        ),
    )
)
