"""Batch-norm statistics of single networks, which a supernet does not have."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from mobilenas.data import ImageData, batches, stratified_subset

IMAGES = 2048
"""Maximum number of training images to estimate statistics from."""


def estimate_statistics(network: nn.Module, data: ImageData, seed: int, device: str) -> None:
    """Estimate a network's batch-norm statistics from training images, and set them."""
    images = stratified_subset(data.train, min(IMAGES, len(data.train)), seed)
    with torch.random.fork_rng(devices=[]):  # dropout draws, but does not affect the norms
        network.to(device)
        update_bn(batches(images, data, batch_size=256, seed=(seed,), device=device), network)


@contextmanager
def fresh_statistics(net: nn.Module) -> Iterator[None]:
    """Allow other batch-norm statistics inside the context; restore them afterwards.

    All other buffers are restored, too, such as the importance of a ranked sampler. Leaves the
    network in eval mode.
    """
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    kept = {name: buffer.clone() for name, buffer in net.named_buffers()}
    momenta = [norm.momentum for norm in norms]
    try:
        yield
    finally:
        for name, buffer in net.named_buffers():
            buffer.data.copy_(kept[name])
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        net.eval()
