"""Accuracy of single networks with the supernet's weights."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional

from mobilenas.data import Split
from mobilenas.search.loop import Searcher
from mobilenas.search.norm_statistics import fresh_statistics
from mobilenas.spaces.base import AnyChoice


def supernet_top1(searcher: Searcher, choices: Sequence[AnyChoice], split: Split) -> list[float]:
    """Return top-1 of each network on `split` in percent, with the supernet's weights.

    Norms use batch statistics, so that no network needs a separate pass to estimate its own.
    """
    with _batch_statistics(searcher) as alone:
        return [searcher.top1(alone(choice), split) for choice in choices]


@torch.no_grad()
def supernet_loss(searcher: Searcher, choices: Sequence[AnyChoice], split: Split) -> list[float]:
    """Return the mean cross-entropy of each network on `split`, likewise."""
    losses = []
    with _batch_statistics(searcher) as alone:
        for choice in choices:
            forward, total = alone(choice), 0.0
            for x, y in searcher.shuffled(split):
                total += functional.cross_entropy(forward(x), y, reduction="sum").item()
            losses.append(total / len(split))
    return losses


@contextmanager
def _batch_statistics(
    searcher: Searcher,
) -> Iterator[Callable[[AnyChoice], Callable[[Tensor], Tensor]]]:
    """Yield a function from a choice to its forward pass in the supernet, with batch statistics."""
    net = searcher.net

    def alone(choice: AnyChoice) -> Callable[[Tensor], Tensor]:
        net.channels_generator.manual_seed(searcher.seed)
        return searcher.alphas.alone(net, choice)

    with fresh_statistics(net):
        net.train()
        yield alone
