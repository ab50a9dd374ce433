"""The discretization gap: validation top-1 that a supernet loses when its arch is read off."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mobilenas.data import stratified_subset
from mobilenas.search.loop import Searcher
from mobilenas.search.norm_statistics import IMAGES, fresh_statistics
from mobilenas.search.records import Accuracies, GapRecord
from mobilenas.spaces.base import AnyChoice, Relaxation


@torch.no_grad()
def reestimate(
    searcher: Searcher, forward: Callable[[Tensor], Tensor], count: int = IMAGES
) -> None:
    """Re-estimate the statistics of norms from `count` images of the weight half, under `forward`.

    They are means over batches. Leaves the supernet in eval mode.
    """
    net, half = searcher.net, searcher.weight_half
    net.train()
    images = stratified_subset(half, min(count, len(half)), searcher.seed)
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    for number, (x, _) in enumerate(searcher.shuffled(images, batch_size=256)):
        for norm in norms:
            norm.momentum = 1 / (number + 1)
        forward(x)
    net.eval()


def discretization_gap(searcher: Searcher, choice: AnyChoice) -> GapRecord:
    """Return validation top-1 of supernet and arch, before and after norms are re-estimated.

    In cells, first the operations of all edges are discretized, then edges are removed. Chains have
    operations to discretize, but no edges. `points` is the whole gap with re-estimated norms,
    `points_before` without, as published (DA2S).
    """
    stages = {
        name: _accuracies(searcher, p)
        for name, p in searcher.alphas.stages(choice, searcher.tau).items()
    }
    first, last = (list(stages.values())[place] for place in (0, -1))
    return GapRecord(
        supernet=stages["supernet"],
        operations_discrete=stages["operations_discrete"],
        edges_discrete=stages.get("edges_discrete"),
        points=first.after_reestimation - last.after_reestimation,
        points_before=first.before_reestimation - last.before_reestimation,
    )


def _accuracies(searcher: Searcher, p: Relaxation) -> Accuracies:
    """Return validation top-1 of one relaxation."""
    net, val = searcher.net, searcher.data.val

    def forward(x: Tensor) -> Tensor:
        net.channels_generator.manual_seed(searcher.seed)
        logits: Tensor = net(x, p)
        return logits

    net.eval()
    before = searcher.top1(forward, val)
    with fresh_statistics(net):
        reestimate(searcher, forward)
        after = searcher.top1(forward, val)
    return Accuracies(before_reestimation=before, after_reestimation=after)
