"""The layers of which all networks of the mobile family are made."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mobilenas.nn.operations import Kernel, convolution, operation_of

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": lambda: nn.ReLU(inplace=True),
    "relu6": lambda: nn.ReLU6(inplace=True),
    "hard_swish": lambda: nn.Hardswish(inplace=True),
}
"""Activations by their name in an arch."""

ALIGNMENT = 8
"""Channels are multiples of this, because runtimes are slower with others (blocked layouts)."""


def make_divisible(channels: float, minimum: int = ALIGNMENT) -> int:
    """Round to the nearest multiple of 8, never more than 10 % down (MobileNetV2, appendix)."""
    rounded = max(minimum, int(channels + ALIGNMENT / 2) // ALIGNMENT * ALIGNMENT)
    return rounded + ALIGNMENT if rounded < 0.9 * channels else rounded


def squeeze_channels(hidden: int) -> int:
    """Return the width of the squeeze layer for `hidden` channels: a quarter, as in MobileNetV3."""
    return make_divisible(hidden / 4)


class ConvNorm(nn.Sequential):
    """Convolution without bias, batch norm, and an activation if one is given."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        activation: str | None = None,
        padding: str = "symmetric",
    ) -> None:
        conv = convolution(in_channels, out_channels, kernel, stride, groups, padding)
        layers: list[nn.Module] = [conv, nn.BatchNorm2d(out_channels)]
        if activation is not None:
            layers.append(ACTIVATIONS[activation]())
        super().__init__(*layers)


class SqueezeExcite(nn.Module):
    """h * hardsigmoid(W2 relu(W1 mean(h))), with 1x1 convolutions as in MobileNetV3."""

    def __init__(self, channels: int, squeeze: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeeze, 1)
        self.expand = nn.Conv2d(squeeze, channels, 1)

    def forward(self, h: Tensor) -> Tensor:
        """h: [N, C, H, W] -> [N, C, H, W]."""
        pooled = h.mean((2, 3), keepdim=True)  # [N, C, 1, 1]
        gate = nn.functional.hardsigmoid(self.expand(torch.relu(self.reduce(pooled))))
        return h * gate


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise, squeeze-excite, project 1x1 (MobileNetV2, V3).

    `kernel` is the side of the depthwise convolution, or a registered operation in its place; 0 is
    none. If `hidden` equals the input channels, there is no expansion layer. If input and output
    have the same shape, there is a shortcut. `start_kernel` adds a depthwise convolution without
    activation before the expansion (ExtraDW in MobileNetV4, arXiv 2404.10518, figure 3). A `fused`
    block has one full convolution instead of expansion and depthwise convolution (EfficientNetV2,
    arXiv 2104.00298). `activates_output` applies the activation after the projection, too, and has
    no shortcut: a separable convolution (MobileNetV1, arXiv 1704.04861).
    """

    def __init__(
        self,
        in_channels: int,
        hidden: int,
        out_channels: int,
        *,
        kernel: Kernel,
        stride: int,
        squeeze: int,
        activation: str,
        start_kernel: int = 0,
        fused: bool = False,
        activates_output: bool = False,
        padding: str = "symmetric",
    ) -> None:
        super().__init__()
        self.shortcut = stride == 1 and in_channels == out_channels and not activates_output
        self.start = (
            ConvNorm(in_channels, in_channels, start_kernel, groups=in_channels)
            if start_kernel
            else nn.Identity()
        )
        self.expand: nn.Sequential | nn.Identity = nn.Identity()
        self.depthwise = nn.Sequential()
        if fused:
            assert isinstance(kernel, int)
            self.expand = ConvNorm(
                in_channels, hidden, kernel, stride, activation=activation, padding=padding
            )
        elif hidden != in_channels:
            self.expand = ConvNorm(in_channels, hidden, activation=activation)
        if kernel != 0 and not fused:
            self.depthwise = nn.Sequential(
                operation_of(kernel, padding).module(hidden, stride),
                nn.BatchNorm2d(hidden),
                ACTIVATIONS[activation](),
            )
        self.squeeze_excite = SqueezeExcite(hidden, squeeze) if squeeze else nn.Identity()
        last = activation if activates_output else None
        self.project = ConvNorm(hidden, out_channels, activation=last)

    def forward(self, x: Tensor) -> Tensor:
        """x: [N, Cin, H, W] -> [N, Cout, H/stride, W/stride]."""
        h = self.depthwise(self.expand(self.start(x)))
        y: Tensor = self.project(self.squeeze_excite(h))
        return x + y if self.shortcut else y
