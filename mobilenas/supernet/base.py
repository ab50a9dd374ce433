"""The base class of all supernets."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mobilenas.core.files import State


def full_precision(x: Tensor) -> torch.autocast:
    """Return a context without mixed precision, for products of probabilities."""
    return torch.autocast(x.device.type, enabled=False)


class Supernet(nn.Module):
    """All networks of a space in one set of weights; the alphas are kept separately."""

    def __init__(self) -> None:
        super().__init__()
        self.channels_generator = torch.Generator()
        """Generator of the random sampler."""

    def start_from(self, state: State) -> None:
        """Load the weights of the space's largest network, if it was built around one."""
        raise TypeError(f"{type(self).__name__} is not built around a network with weights")

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Disable gradients of the weights inside the context, for steps of the alphas."""
        weights = [weight for weight in self.parameters() if weight.requires_grad]
        for weight in weights:
            weight.requires_grad_(False)
        try:
            yield
        finally:
            for weight in weights:
                weight.requires_grad_(True)
