"""Exact costs of a network of any family."""

from mobilenas.nn.costs import Costs, LayerCost, total
from mobilenas.spaces.base import Arch, family_of


def costs(arch: Arch) -> Costs:
    """Exact costs of an arch."""
    return total(layer_costs(arch))


def layer_costs(arch: Arch) -> list[LayerCost]:
    """Every layer of an arch in the order it runs."""
    return family_of(arch).layer_costs(arch)
