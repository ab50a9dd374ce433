"""Blocks and layers."""

from typing import TYPE_CHECKING

from mobilenas.core.lazy import lazy

if TYPE_CHECKING:
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

__getattr__ = lazy(__name__, blocks=" ".join(__all__))
