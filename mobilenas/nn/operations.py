"""Operations on the hidden channels of a block: depthwise convolutions and registered ones."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch.nn.functional as F
from torch import Tensor, nn

from mobilenas.core.registry import Registry

PADDINGS = ("symmetric", "same")
"""Padding of convolutions: equal on both sides, or TensorFlow's SAME (`SameConv2d`)."""

Kernel = int | str
"""Side of a depthwise convolution, or the name of an operation in its place."""


@dataclass(frozen=True, kw_only=True)
class Operation:
    """The operation between a block's expansion and projection; batch norm and activation follow.

    It treats every channel separately, and the first dimension of all its parameters is channels,
    so slices of a supernet's weights are the weights of a network.
    """

    module: Callable[[int, int], nn.Module]
    """Makes it, given channels and stride (1 or 2): [N, C, H, W] -> [N, C, ceil(H/stride), ...]."""
    flops: int
    """Multiply-adds per output value."""
    params: int
    """Trainable parameters per channel."""


OPERATIONS = Registry[Operation]("operation", {})
"""By the name that a space or an arch gives in place of a kernel's side."""


def operation_of(kernel: Kernel, padding: str = "symmetric") -> Operation:
    """Return the operation called `kernel`, or a depthwise convolution with that side."""
    return OPERATIONS[kernel] if isinstance(kernel, str) else _convolution(kernel, padding)


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's SAME padding: if uneven, the extra zero is at the end.

    With stride 2 and an even side, a 3x3 kernel has no zeros before the image and one after it.
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
    # with stride 1 both paddings are equal, and a 1x1 kernel needs none
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
