"""From an arch to a plain nn.Module."""

from itertools import pairwise

from torch import Tensor, nn

from mobilenas.nn import ACTIVATIONS, ConvNorm, InvertedResidual
from mobilenas.spaces.arch import MobileArch


class MobileNetwork(nn.Module):
    """The network an arch states; nothing of the search is in it."""

    def __init__(self, arch: MobileArch) -> None:
        super().__init__()
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


def build(arch: MobileArch) -> MobileNetwork:
    """Build the module; its start weights come from torch's global generator."""
    return MobileNetwork(arch)
