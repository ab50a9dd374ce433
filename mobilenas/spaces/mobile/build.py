"""Builds the nn.Module of a mobile arch."""

from itertools import pairwise

from torch import Tensor, nn

from mobilenas.nn import ACTIVATIONS, ConvNorm, InvertedResidual
from mobilenas.nn.network import Network, initialize
from mobilenas.spaces.mobile.arch import MobileArch


class MobileNetwork(Network):
    """The network of a mobile arch, without any parts of the search."""

    def __init__(self, arch: MobileArch) -> None:
        super().__init__()
        self.auxiliary = None
        stem, head = arch.stem, arch.head
        self.stem = ConvNorm(
            arch.in_channels, stem.channels, 3, stem.stride, 1, stem.activation, arch.padding
        )
        widths = [stem.channels, *(block.out for block in arch.blocks)]
        self.blocks = nn.Sequential(
            *(
                InvertedResidual(
                    before,
                    block.hidden,
                    after,
                    kernel=block.kernel,
                    stride=block.stride,
                    squeeze=block.squeeze,
                    activation=block.activation,
                    start_kernel=block.start_kernel,
                    fused=block.fused,
                    activates_output=block.activates_output,
                    padding=arch.padding,
                )
                for (before, after), block in zip(pairwise(widths), arch.blocks, strict=True)
            )
        )
        self.head = (
            ConvNorm(widths[-1], head.channels, activation=head.activation)
            if head.channels
            else nn.Sequential()
        )
        features = head.channels or widths[-1]
        layers: list[nn.Module] = []
        if head.hidden:
            layers += [nn.Linear(features, head.hidden), ACTIVATIONS[head.activation]()]
        layers += [nn.Dropout(head.dropout), nn.Linear(head.hidden or features, arch.classes)]
        self.classifier = nn.Sequential(*layers)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps, module.momentum = arch.epsilon, arch.momentum
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """x: [N, in_channels, side, side] -> logits [N, classes]."""
        features = self.head(self.blocks(self.stem(x)))
        logits: Tensor = self.classifier(features.mean((2, 3)))
        return logits
