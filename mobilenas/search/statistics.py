"""Temporary batch-norm statistics, for networks of a supernet that were not trained alone."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from mobilenas.data import ImageData, batches, stratified_subset

IMAGES = 2048
"""Training images that statistics are estimated from, at most."""


def estimate_statistics(network: nn.Module, data: ImageData, seed: int, device: str) -> None:
    """Give the batch norms of a network with given weights the statistics of training images."""
    images = stratified_subset(data.train, min(IMAGES, len(data.train)), seed)
    with torch.random.fork_rng(devices=[]):  # dropout is on, and of no consequence
        network.to(device)
        update_bn(batches(images, data, batch_size=256, seed=(seed,), device=device), network)


@contextmanager
def fresh_statistics(net: nn.Module) -> Iterator[None]:
    """Inside, batch norms may see other data; afterwards their statistics are as they were.

    So is every other buffer, such as the importance of a ranked sampler. Leaves eval mode.
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
