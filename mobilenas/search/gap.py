"""Supernet accuracy of single networks, and what is lost when a relaxation becomes an arch."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mobilenas.cost import Probabilities
from mobilenas.data import Split, batches, stratified_subset
from mobilenas.search.loop import Searcher
from mobilenas.spaces.mobile import Choice
from mobilenas.supernet import one_hot

_REESTIMATION_IMAGES = 2048


@contextmanager
def fresh_statistics(net: nn.Module) -> Iterator[None]:
    """Inside, batch norms average the statistics of what they see; the old ones come back.

    So does every other buffer, such as the importance of a ranked sampler.
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


@torch.no_grad()
def reestimate(searcher: Searcher, forward: Callable[[Tensor], Tensor]) -> None:
    """Let the norms see weight-half images under `forward`, averaged evenly; leaves eval mode."""
    net, half = searcher.net, searcher.weight_half
    net.train()
    images = stratified_subset(half, min(_REESTIMATION_IMAGES, len(half)), searcher.seed)
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    given = batches(images, searcher.data, batch_size=256, seed=None, device=searcher.device)
    for number, (x, _) in enumerate(given):
        for norm in norms:
            norm.momentum = 1 / (number + 1)
        forward(x)
    net.eval()


def discretization_gap(searcher: Searcher, choice: Choice) -> dict[str, Any]:
    """Return validation top-1 of supernet and arch, before and after re-estimated norms.

    The mobile space is a chain: it has operations to make discrete and no edges.
    """
    net, val = searcher.net, searcher.data.val
    soft = searcher.alphas.soft(searcher.tau)
    hard = one_hot(choice, searcher.alphas)
    figures: dict[str, Any] = {}
    for name, p in (("supernet", soft), ("operations_discrete", hard)):

        def forward(x: Tensor, p: Probabilities = p) -> Tensor:
            net.channels_generator.manual_seed(searcher.seed)
            logits: Tensor = net(x, p)
            return logits

        net.eval()
        before = searcher.top1(forward, val)
        with fresh_statistics(net):
            reestimate(searcher, forward)
            after = searcher.top1(forward, val)
        figures[name] = {"before_reestimation": before, "after_reestimation": after}
    figures["points"] = (
        figures["supernet"]["after_reestimation"]
        - figures["operations_discrete"]["after_reestimation"]
    )
    return figures


@torch.no_grad()
def supernet_top1(searcher: Searcher, choices: Sequence[Choice], split: Split) -> list[float]:
    """Percent of `split` that each network classifies correctly with the supernet's weights.

    Batch norms use the statistics of the batch, so that no network needs a pass of its own for
    them.
    """
    net = searcher.net
    scores = []
    with fresh_statistics(net):
        net.train()
        for choice in choices:
            net.channels_generator.manual_seed(searcher.seed)
            scores.append(searcher.top1(lambda x, c=choice: net.run(x, c), split))  # type: ignore[misc]
    return scores
