"""Builds the nn.Module of a cell arch."""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

from mobilenas.core.errors import MobileNASError
from mobilenas.nn import ConvNorm
from mobilenas.nn.network import Network, initialize
from mobilenas.spaces.cell.arch import INPUTS, CellArch, Edge, PlacedCell

_AUXILIARY = (128, 768)  # channels of the auxiliary classifier's convolutions, as in DARTS


class ReluConvNorm(nn.Sequential):
    """ReLU, convolution, batch norm: the order inside cells. The ReLU is not in place."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1
    ) -> None:
        conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)
        super().__init__(nn.ReLU(), conv, nn.BatchNorm2d(out_channels))


class SeparableConv(nn.Sequential):
    """ReLU, depthwise and 1x1 convolution, batch norm: a dil_conv, or half of a sep_conv."""

    def __init__(self, channels: int, kernel: int, stride: int, dilation: int = 1) -> None:
        depthwise = nn.Conv2d(
            channels,
            channels,
            kernel,
            stride,
            padding=dilation * (kernel // 2),
            dilation=dilation,
            groups=channels,
            bias=False,
        )
        layers: dict[str, nn.Module] = {
            "relu": nn.ReLU(),
            "depthwise": depthwise,
            "project": nn.Conv2d(channels, channels, 1, bias=False),
            "norm": nn.BatchNorm2d(channels),
        }
        super().__init__(OrderedDict(layers))


class FactorizedReduce(nn.Module):
    """Halves the image: half of the channels read the even pixels, half the odd ones.

    For an odd side, the missing last odd pixels are zeros, so any image size works.
    """

    def __init__(self, in_channels: int, out_channels: int, side: int) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.even = nn.Conv2d(in_channels, out_channels // 2, 1, 2, bias=False)
        self.odd = nn.Conv2d(in_channels, out_channels // 2, 1, 2, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)
        # decided when building, because checking the tensor would be a branch in a traced graph
        self.shifted = nn.ZeroPad2d((0, 1, 0, 1)) if side % 2 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """x: [N, Cin, side, side] -> [N, Cout, side/2, side/2], rounded up."""
        x = self.relu(x)
        odd = _every_other(self.odd, self.shifted(x[:, :, 1:, 1:]))
        y: Tensor = self.norm(torch.cat((_every_other(self.even, x), odd), 1))
        return y


def _every_other(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Apply a 1x1 convolution of stride 2.

    In training, it is applied without stride to the pixels that it reads: on processors without
    AVX-512, the backward pass of the strided one writes out of bounds if x, channels last, has
    fewer than 8 channels (oneDNN of torch 2.13).
    """
    if conv.training:
        return functional.conv2d(x[:, :, ::2, ::2], conv.weight)
    y: Tensor = conv(x)
    return y


class DropPath(nn.Module):
    """Drops the result for some images and scales up the others (Larsson et al. 2017)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """x: [N, C, H, W] -> [N, C, H, W]."""
        if not self.training or self.rate == 0:
            return x
        return x * nn.functional.dropout(x.new_ones(x.shape[0], 1, 1, 1), self.rate)


class CellModule(nn.Module):
    """One cell of a built network."""

    def __init__(self, placed: PlacedCell, drop_path: float) -> None:
        super().__init__()
        self.enter = nn.ModuleList(_entrance(placed, number) for number in range(INPUTS))
        self.nodes = nn.ModuleList(
            nn.ModuleList(_operation(edge, placed) for edge in edges) for edges in placed.cell.nodes
        )
        self.reads = [[edge.input for edge in edges] for edges in placed.cell.nodes]
        self.outputs = placed.cell.outputs
        self.drop_path = DropPath(drop_path)

    def forward(self, before: Tensor, last: Tensor) -> Tensor:
        """before, last: [N, C', H', W'] -> [N, C x concatenated nodes, H, W]."""
        states: dict[int, Tensor] = {0: self.enter[0](before), 1: self.enter[1](last)}
        for node, (reads, operations) in enumerate(
            zip(self.reads, self.nodes, strict=True), INPUTS
        ):
            assert isinstance(operations, nn.ModuleList)
            for read, operation in zip(reads, operations, strict=True):
                y = operation(states[read])
                if not isinstance(operation, nn.Identity):
                    y = self.drop_path(y)
                states[node] = states[node] + y if node in states else y
        return torch.cat([states[node] for node in self.outputs], 1)


class AuxiliaryClassifier(nn.Module):
    """The auxiliary classifier, used in training only.

    It averages over each quarter of the image, where DARTS averages over two 5x5 windows per side,
    so any image size works.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        first, second = _AUXILIARY
        self.features = nn.Sequential(
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            ConvNorm(channels, first, activation="relu"),
            nn.Conv2d(first, second, 2, bias=False),
            nn.BatchNorm2d(second),
            nn.ReLU(inplace=True),
        )
        self.classifier = nn.Linear(second, classes)

    def forward(self, x: Tensor) -> Tensor:
        """x: [N, C, H, W] -> logits [N, classes]."""
        logits: Tensor = self.classifier(self.features(x).flatten(1))
        return logits


class CellNetwork(Network):
    """The network of a cell arch, without any parts of the search."""

    def __init__(self, arch: CellArch) -> None:
        super().__init__()
        in_channels, channels = arch.in_channels, arch.channels
        if arch.stem == "cifar":
            self.stem: nn.Module = ConvNorm(in_channels, 3 * channels, 3)
            self.second_stem: nn.Module = nn.Identity()
        else:
            self.stem = nn.Sequential(
                ConvNorm(in_channels, channels // 2, 3, 2, activation="relu"),
                ConvNorm(channels // 2, channels, 3, 2),
            )
            self.second_stem = ReluConvNorm(channels, channels, 3, 2)
        self.cells = nn.ModuleList(CellModule(placed, arch.drop_path) for placed in arch.cells)
        self.last_reduction = max(arch.reductions)
        self.drop_path = arch.drop_path
        middle = arch.cells[self.last_reduction].out_channels
        self.auxiliary = AuxiliaryClassifier(middle, arch.classes) if arch.auxiliary else None
        self.classifier = nn.Linear(arch.cells[-1].out_channels, arch.classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """x: [N, in_channels, side, side] -> logits [N, classes]."""
        return self._logits(self._features(x)[0])

    def training_logits(self, x: Tensor) -> tuple[Tensor, ...]:
        """x: [N, in_channels, side, side] -> logits, and auxiliary logits, if any."""
        return (self(x),) if self.auxiliary is None else self.forward_both(x)

    @property
    def not_compiled(self) -> str:
        """As in `Network`: with drop path, every epoch's new rate would be compiled again."""
        return "drop path changes every epoch" if self.drop_path else ""

    def start_epoch(self, share: float) -> None:
        """Increase drop path linearly over the training, from 0 to the arch's, as DARTS does."""
        self.set_drop_path(self.drop_path * share)

    def forward_both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x: [N, in_channels, side, side] -> logits, auxiliary logits, each [N, classes]."""
        if self.auxiliary is None:
            raise MobileNASError("auxiliary is False in the arch; it must be True for its logits")
        last, middle = self._features(x)
        auxiliary: Tensor = self.auxiliary(middle)
        return self._logits(last), auxiliary

    def set_drop_path(self, rate: float) -> None:
        """Set the probability of dropping an edge."""
        if not 0 <= rate < 1:
            raise MobileNASError(f"drop_path is {rate!r}; it must be in [0, 1)")
        for module in self.modules():
            if isinstance(module, DropPath):
                module.rate = rate

    def _features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the outputs of the last cell and of the last reduction."""
        before = self.stem(x)
        last = middle = self.second_stem(before)
        for number, cell in enumerate(self.cells):
            before, last = last, cell(before, last)
            middle = last if number == self.last_reduction else middle
        return last, middle

    def _logits(self, features: Tensor) -> Tensor:
        logits: Tensor = self.classifier(features.mean((2, 3)))
        return logits


def _entrance(placed: PlacedCell, number: int) -> nn.Module:
    """Return the layers that fit an input to the cell's channels and size, if it is read."""
    if number not in placed.cell.reads:
        return nn.Identity()
    channels, side = placed.in_channels[number], placed.in_sides[number]
    if side != placed.in_sides[1]:
        return FactorizedReduce(channels, placed.channels, side)
    return ReluConvNorm(channels, placed.channels)


def _operation(edge: Edge, placed: PlacedCell) -> nn.Module:
    channels, side = placed.channels, placed.in_sides[1]
    stride = placed.stride if edge.input < INPUTS else 1
    kind, _, size = edge.operation.rpartition("_")
    match kind:
        case "sep_conv":
            kernel = int(size[0])
            return nn.Sequential(
                SeparableConv(channels, kernel, stride), SeparableConv(channels, kernel, 1)
            )
        case "dil_conv":
            return SeparableConv(channels, int(size[0]), stride, dilation=2)
        case "avg_pool":
            return nn.AvgPool2d(3, stride, 1, count_include_pad=False)
        case "max_pool":
            return nn.MaxPool2d(3, stride, 1)
    return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, side)
