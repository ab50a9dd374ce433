"""What the supernets of all spaces have in common."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from mobilenas.core.files import State


class Supernet(nn.Module):
    """Every network of a space in one set of weights; the alphas are kept apart from them."""

    def __init__(self) -> None:
        super().__init__()
        self.channels_generator = torch.Generator()
        """What a random sampler draws from."""

    def start_from(self, state: State) -> None:
        """Take the weights of the space's largest network, where the space lies around one."""
        raise TypeError(f"{type(self).__name__} is not built around a network with weights")

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Inside, weights get no gradients: a step of the alphas computes only what it uses."""
        weights = [weight for weight in self.parameters() if weight.requires_grad]
        for weight in weights:
            weight.requires_grad_(False)
        try:
            yield
        finally:
            for weight in weights:
                weight.requires_grad_(True)
