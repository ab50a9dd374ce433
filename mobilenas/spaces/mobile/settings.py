"""Legal values of the mobile space's settings, and the names of MobileNets."""

from typing import Literal, get_args

Activation = Literal["hard_swish", "relu", "relu6"]
"""Activations of blocks; `mobilenas.nn.ACTIVATIONS` has their modules."""
Policy = Literal["searched", "on", "off"]
"""Whether an optional part of blocks is searched, or all blocks or none have it."""
MobileNet = Literal[
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "mobilenet_v1",
    "mobilenet_v4_conv_small",
    "efficientnet_lite0",
]
"""Baselines by name; `mobilenas.spaces.mobile.mobilenets.MOBILENETS` has their archs."""
COMPARED = get_args(MobileNet)[:3]
"""MobileNets that a run is compared with by default."""
POLICIES: tuple[Policy, ...] = get_args(Policy)
