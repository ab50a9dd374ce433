"""Distillation: learning from another network's outputs."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional

from mobilenas.nn.network import resized


@dataclass(frozen=True, kw_only=True, eq=False)
class Teacher:
    """A trained network that others learn from; it gets their images, resized to its own size."""

    network: nn.Module
    """In eval mode: [N, C, image_size, image_size] -> logits [N, classes]."""
    image_size: int
    """Image size it was trained for, side in pixels."""

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """x: [N, C, H, H] -> logits [N, classes]."""
        logits: Tensor = self.network(resized(x, self.image_size))
        return logits

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of its weights; part of the identity of a training."""
        digest = hashlib.sha256()
        for name, value in self.network.state_dict().items():
            digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def distillation_loss(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Return T^2 KL(teacher || student) of [N, classes] logits, mean over the batch.

    Hinton, Vinyals and Dean 2015: T softens both, and T^2 keeps the size of the gradient
    independent of T. No gradient flows into the teacher.
    """
    divergence = functional.kl_div(
        functional.log_softmax(logits / temperature, dim=1),
        functional.log_softmax(teacher_logits.detach() / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    return divergence * temperature**2
