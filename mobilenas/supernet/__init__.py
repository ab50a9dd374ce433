"""Mixed operations, channel samplers, relaxation."""

from mobilenas.supernet.cell_relaxation import EDGE_WEIGHTS, CellAlphas
from mobilenas.supernet.cells import CellSuperNetwork
from mobilenas.supernet.inherit import inherited
from mobilenas.supernet.network import SuperNetwork
from mobilenas.supernet.relaxation import Alphas, Temperature
from mobilenas.supernet.samplers import ATTENTIONS, SAMPLERS, SamplerSettings
from mobilenas.supernet.schedules import EntropySchedule

__all__ = [
    "ATTENTIONS",
    "EDGE_WEIGHTS",
    "SAMPLERS",
    "Alphas",
    "CellAlphas",
    "CellSuperNetwork",
    "EntropySchedule",
    "SamplerSettings",
    "SuperNetwork",
    "Temperature",
    "inherited",
]
