"""Mixed operations, channel samplers, relaxation."""

from mobilenas.supernet.network import SamplerSettings, SuperNetwork
from mobilenas.supernet.relaxation import Alphas, EntropySchedule, Temperature, one_hot
from mobilenas.supernet.samplers import SAMPLERS

__all__ = [
    "SAMPLERS",
    "Alphas",
    "EntropySchedule",
    "SamplerSettings",
    "SuperNetwork",
    "Temperature",
    "one_hot",
]
