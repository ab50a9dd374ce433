"""Names of the mobile space's choices and of MobileNets, as settings."""

from typing import Literal, get_args

Activation = Literal["hard_swish", "relu", "relu6"]
"""Of the blocks; `mobilenas.nn.ACTIVATIONS` has their modules."""
Policy = Literal["searched", "on", "off"]
"""Of a part that a block can do without."""
MobileNet = Literal[
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "mobilenet_v1",
    "mobilenet_v4_conv_small",
    "efficientnet_lite0",
]
"""`mobilenas.spaces.mobile.mobilenets.MOBILENETS` has their archs."""
COMPARED = get_args(MobileNet)[:3]
"""Those that a run is compared with by default."""
POLICIES: tuple[Policy, ...] = get_args(Policy)
