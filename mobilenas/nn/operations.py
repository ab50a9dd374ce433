"""What a block does with its hidden channels: depthwise convolutions and registered operations."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch.nn.functional as F
from torch import Tensor, nn

from mobilenas.core.registry import Registry

PADDINGS = ("symmetric", "same")
"""How convolutions pad: the same on both sides, or as TensorFlow's SAME (`SameConv2d`)."""

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


def operation_of(kernel: Kernel, padding: str = "symmetric") -> Operation:
    """Return the operation of a name, or the depthwise convolution of a side."""
    return OPERATIONS[kernel] if isinstance(kernel, str) else _convolution(kernel, padding)


class SameConv2d(nn.Conv2d):
    """Pads with as many zeros as the last step lacks, the smaller half before (TensorFlow's SAME).

    With stride 2 and an even side a 3x3 kernel gets none before and one behind.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x: [N, Cin, H, W] -> [N, Cout, ceil(H / stride), ceil(W / stride)]."""
        pads = []
        for axis in (1, 0):  # F.pad takes the last dimension first
            stride = self.stride[axis]
            zeros = self.kernel_size[axis] - stride + -x.shape[2 + axis] % stride
            pads += [zeros // 2, zeros - zeros // 2]
        return F.conv2d(F.pad(x, pads), self.weight, self.bias, self.stride, groups=self.groups)


def convolution(
    in_channels: int, out_channels: int, kernel: int, stride: int, groups: int, padding: str
) -> nn.Conv2d:
    """Return a convolution without bias: [N, C, H, W] -> [N, C, ceil(H/stride), ceil(W/stride)]."""
    # with stride 1 both paddings are the same, and a 1x1 kernel needs none
    uneven = padding == "same" and 1 < stride <= kernel
    return (SameConv2d if uneven else nn.Conv2d)(
        in_channels,
        out_channels,
        kernel,
        stride,
        padding=0 if uneven else kernel // 2,
        groups=groups,
        bias=False,
    )


@cache
def _convolution(side: int, padding: str) -> Operation:
    def module(channels: int, stride: int) -> nn.Module:
        return convolution(channels, channels, side, stride, channels, padding)

    return Operation(module=module, flops=side**2, params=side**2)
