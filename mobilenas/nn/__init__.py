"""Blocks and layers."""

from mobilenas.nn.blocks import (
    ACTIVATIONS,
    ALIGNMENT,
    ConvNorm,
    InvertedResidual,
    SqueezeExcite,
    make_divisible,
    squeeze_channels,
)

__all__ = [
    "ACTIVATIONS",
    "ALIGNMENT",
    "ConvNorm",
    "InvertedResidual",
    "SqueezeExcite",
    "make_divisible",
    "squeeze_channels",
]
