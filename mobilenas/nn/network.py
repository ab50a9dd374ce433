"""Base class and weight initialization of all built networks."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from mobilenas.nn.blocks import InvertedResidual


class Network(nn.Module):
    """A network built from an arch; parts that only training uses are kept apart."""

    auxiliary: nn.Module | None
    """A second classifier, used in training only; it is neither exported nor counted."""
    memory_format: torch.memory_format = torch.channels_last
    """Memory format of weights and feature maps in training."""

    @property
    def not_compiled(self) -> str:
        """Why torch.compile would not make training faster; empty if it may."""
        return ""

    def training_logits(self, x: Tensor) -> tuple[Tensor, ...]:
        """x: [N, in_channels, side, side] -> logits, and those of the auxiliary classifier, if any.

        Each is [N, classes].
        """
        return (self(x),)

    def start_epoch(self, share: float) -> None:
        """Called before each epoch with the completed share of the training, 0 to 1."""

    def layer_of(self, module: str) -> str:
        """Return the name of the counted layer that a module belongs to."""
        if module == "classifier.0":
            return "classifier.hidden"
        parent, _, last = module.rpartition(".")
        return parent if last.isdigit() else module

    def deployed_parameters(self) -> Iterator[nn.Parameter]:
        """Return the parameters that are exported and counted."""
        hidden = set() if self.auxiliary is None else set(self.auxiliary.parameters())
        return (weight for weight in self.parameters() if weight not in hidden)


def resized(x: Tensor, side: int) -> Tensor:
    """x: [N, C, H, H] -> [N, C, side, side], bilinear and antialiased, as in image decoding."""
    if x.shape[-1] == side:
        return x
    return nn.functional.interpolate(x, (side, side), mode="bilinear", antialias=True)


def initialize(network: nn.Module) -> None:
    """Initialize convolutions by He's rule (fan-out), and blocks with a shortcut as the identity.

    For the latter the scale of a block's last norm is zero (Goyal et al. 2017, section 5.1). Deep
    networks then leave the plateau at the start of a short training sooner.
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
