"""What a block does with its hidden channels: depthwise convolutions and registered operations."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from torch import nn

from mobilenas.core.registry import Registry

Kernel = int | str
"""Side of a depthwise convolution, or the name of an operation in its place."""


@dataclass(frozen=True, kw_only=True)
class Operation:
    """What stands between a block's expansion and its projection; batch norm and activation follow.

    It treats every channel by itself, and the first dimension of its every parameter is channels:
    so slices of a supernet's operation are the operation of a network.
    """

    module: Callable[[int, int], nn.Module]
    """Of channels and stride (1 or 2): [N, C, H, W] -> [N, C, ceil(H / stride), ceil(W / stride)].
    """
    flops: int
    """Multiply-adds of one output value."""
    params: int
    """Trainable numbers of one channel."""


OPERATIONS = Registry[Operation]("operation", {})
"""By the name that a space and an arch have in place of a kernel's side."""


def operation_of(kernel: Kernel) -> Operation:
    """Return the operation of a name, or the depthwise convolution of a side."""
    return OPERATIONS[kernel] if isinstance(kernel, str) else _convolution(kernel)


@cache
def _convolution(side: int) -> Operation:
    def module(channels: int, stride: int) -> nn.Module:
        return nn.Conv2d(channels, channels, side, stride, side // 2, groups=channels, bias=False)

    return Operation(module=module, flops=side**2, params=side**2)
