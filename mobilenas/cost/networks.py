"""Exact costs of a network of any family."""

from mobilenas.nn.costs import COSTS, Costs, LayerCost, total
from mobilenas.spaces.base import Arch, family_of


def costs(arch: Arch) -> Costs:
    """Return FLOPs, params and memory of an arch."""
    return total(layer_costs(arch))


def costs_by_name(arch: Arch) -> dict[str, int]:
    """Return all costs of an arch by name, including registered ones."""
    layers = layer_costs(arch)
    return {name: cost.total(layers) for name, cost in COSTS.items()}


def layer_costs(arch: Arch) -> list[LayerCost]:
    """Return the costs of all layers of an arch, in the order they run."""
    return family_of(arch).layer_costs(arch)
