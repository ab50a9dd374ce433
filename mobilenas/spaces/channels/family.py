"""The family of channel sizes, registered. It has no supernet: one network changes its sizes."""

from collections.abc import Mapping

from mobilenas.spaces.base import Family, family_of, register
from mobilenas.spaces.channels.costs import WIDTHS_COSTS, WidthsTable, widths_layer_costs
from mobilenas.spaces.channels.space import WidthsArch, WidthsNetwork, WidthsSpace


def _table(space: WidthsSpace, cost: str, _: object) -> WidthsTable:
    return WidthsTable(space, cost)


def _rough_size(arch: WidthsArch) -> tuple[int, int]:
    inner = arch.base.mobile or arch.base.cell
    return (0, 0) if inner is None else family_of(inner).rough_size(inner)


register(
    Family(
        name=WidthsArch.family,
        arch=WidthsArch,
        space=WidthsSpace,
        choice=Mapping,
        build=WidthsNetwork.of,
        layer_costs=widths_layer_costs,
        rough_size=_rough_size,
        costs=WIDTHS_COSTS,
        table=_table,
        scaled=True,
    )
)
