"""Registers the family of channel sizes. It has no supernet: one network changes its sizes."""

from collections.abc import Mapping

from mobilenas.spaces.base import Family, family_of, register
from mobilenas.spaces.channels.costs import CHANNELS_COSTS, ChannelsTable, channels_layer_costs
from mobilenas.spaces.channels.space import ChannelsArch, ChannelsNetwork, ChannelsSpace


def _table(space: ChannelsSpace, cost: str, _: object) -> ChannelsTable:
    return ChannelsTable(space, cost)


def _rough_size(arch: ChannelsArch) -> tuple[int, int]:
    inner = arch.base.mobile or arch.base.cell
    return (0, 0) if inner is None else family_of(inner).rough_size(inner)


register(
    Family(
        name=ChannelsArch.family,
        arch=ChannelsArch,
        space=ChannelsSpace,
        choice=Mapping,
        build=ChannelsNetwork.of,
        layer_costs=channels_layer_costs,
        rough_size=_rough_size,
        costs=CHANNELS_COSTS,
        table=_table,
        scaled=True,
    )
)
