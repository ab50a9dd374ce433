"""From a mobile arch to a plain nn.Module, and what all built networks have in common."""

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn

from mobilenas.nn import ACTIVATIONS, ConvNorm, InvertedResidual
from mobilenas.spaces.arch import MobileArch


class Network(nn.Module):
    """A network as an arch states it; what only training sees can be told from the rest."""

    auxiliary: nn.Module | None
    """A second classifier that only training sees; it is neither exported nor counted."""
    memory_format: torch.memory_format = torch.channels_last
    """How training lays out weights and feature maps."""

    def training_logits(self, x: Tensor) -> tuple[Tensor, ...]:
        """x: [N, in_channels, side, side] -> logits, and the second classifier's if there is one.

        Each is [N, classes].
        """
        return (self(x),)

    def start_epoch(self, share: float) -> None:
        """Hear before each epoch which share of the training is done, 0 to 1."""

    def deployed_parameters(self) -> Iterator[nn.Parameter]:
        """Return the parameters that are exported and counted."""
        hidden = set() if self.auxiliary is None else set(self.auxiliary.parameters())
        return (weight for weight in self.parameters() if weight not in hidden)


class MobileNetwork(Network):
    """The network an arch states; nothing of the search is in it."""

    def __init__(self, arch: MobileArch) -> None:
        super().__init__()
        self.auxiliary = None
        stem, head = arch.stem, arch.head
        self.stem = ConvNorm(arch.in_channels, stem.channels, 3, stem.stride, 1, stem.activation)
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
                )
                for (before, after), block in zip(pairwise(widths), arch.blocks, strict=True)
            )
        )
        self.head = ConvNorm(widths[-1], head.channels, activation=head.activation)
        layers: list[nn.Module] = []
        if head.hidden:
            layers += [nn.Linear(head.channels, head.hidden), ACTIVATIONS[head.activation]()]
        layers += [nn.Dropout(head.dropout), nn.Linear(head.hidden or head.channels, arch.classes)]
        self.classifier = nn.Sequential(*layers)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """x: [N, in_channels, side, side] -> logits [N, classes]."""
        features = self.head(self.blocks(self.stem(x)))
        logits: Tensor = self.classifier(features.mean((2, 3)))
        return logits


def initialize(network: nn.Module) -> None:
    """Start convolutions with He's deviation by fan-out, and every shortcut block as the identity.

    The last norm of a block with a shortcut starts at zero (Goyal et al. 2017, section 5.1):
    deep networks leave the plateau at the start of a short training sooner.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, InvertedResidual) and module.shortcut:
            norm = module.project[1]
            assert isinstance(norm, nn.BatchNorm2d)
            nn.init.zeros_(norm.weight)
