"""Exact costs of a network of any family."""

from mobilenas.nn.costs import COSTS, Costs, LayerCost, total
from mobilenas.spaces.base import Arch, family_of


def costs(arch: Arch) -> Costs:
    """Exact costs of an arch."""
    return total(layer_costs(arch))


def costs_by_name(arch: Arch) -> dict[str, int]:
    """Exact costs of an arch by name, registered ones too."""
    layers = layer_costs(arch)
    return {name: cost.total(layers) for name, cost in COSTS.items()}


def layer_costs(arch: Arch) -> list[LayerCost]:
    """Every layer of an arch in the order it runs."""
    return family_of(arch).layer_costs(arch)
