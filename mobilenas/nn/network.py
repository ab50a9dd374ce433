"""What all built networks have in common, and how their weights start."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from mobilenas.nn.blocks import InvertedResidual


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

    def layer_of(self, module: str) -> str:
        """Return the name among the layers that are counted that a module is a part of."""
        if module == "classifier.0":
            return "classifier.hidden"
        parent, _, last = module.rpartition(".")
        return parent if last.isdigit() else module

    def deployed_parameters(self) -> Iterator[nn.Parameter]:
        """Return the parameters that are exported and counted."""
        hidden = set() if self.auxiliary is None else set(self.auxiliary.parameters())
        return (weight for weight in self.parameters() if weight not in hidden)


def resized(x: Tensor, side: int) -> Tensor:
    """x: [N, C, H, H] -> [N, C, side, side], bilinear and antialiased, as images are decoded."""
    if x.shape[-1] == side:
        return x
    return nn.functional.interpolate(x, (side, side), mode="bilinear", antialias=True)


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
