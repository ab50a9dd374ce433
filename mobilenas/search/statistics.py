"""Batch-norm statistics for a while: networks of one supernet that were not trained alone."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


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
