"""FLOPs, params, memory: exact on an arch, expected on a relaxation, recounted on the file."""

from mobilenas.cost.exact import Costs, LayerCost
from mobilenas.cost.exact_cells import cell_costs, cell_layer_costs
from mobilenas.cost.expected import COSTS, DECISIONS, CostTable, Probabilities
from mobilenas.cost.networks import costs, layer_costs

__all__ = [
    "COSTS",
    "DECISIONS",
    "CostTable",
    "Costs",
    "LayerCost",
    "Probabilities",
    "cell_costs",
    "cell_layer_costs",
    "costs",
    "layer_costs",
]
