"""Exact costs of a network, whichever space it is of."""

from mobilenas.cost.exact import Costs, LayerCost, total
from mobilenas.cost.exact import layer_costs as mobile_layer_costs
from mobilenas.cost.exact_cells import cell_layer_costs
from mobilenas.cost.exact_widths import widths_layer_costs
from mobilenas.spaces.cell import CellArch
from mobilenas.spaces.networks import Arch
from mobilenas.spaces.widths import WidthsArch


def costs(arch: Arch) -> Costs:
    """Exact costs of an arch."""
    return total(layer_costs(arch))


def layer_costs(arch: Arch) -> list[LayerCost]:
    """Every layer of an arch in the order it runs."""
    if isinstance(arch, WidthsArch):
        return widths_layer_costs(arch)
    return cell_layer_costs(arch) if isinstance(arch, CellArch) else mobile_layer_costs(arch)
